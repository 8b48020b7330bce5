"""Copies to check, numbers to check them with, and results that must be equal."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


def in_float64(thing: Any) -> Any:
    """A copy in float64, on the CPU and in evaluation mode, of what may be a module."""
    thing = copy.deepcopy(thing)
    return thing.cpu().double().eval() if isinstance(thing, nn.Module) else thing


def in_float32(thing: Any) -> Any:
    """A copy in float32, on the CPU and in evaluation mode, of what may be a module."""
    thing = copy.deepcopy(thing)
    return thing.cpu().float().eval() if isinstance(thing, nn.Module) else thing


def double(values: Tensor) -> Tensor:
    """Real numbers in float64, and classes as they are, on the CPU."""
    return values.detach().cpu().to(torch.float64 if values.is_floating_point() else values.dtype)


def noise(*shape: int) -> Tensor:
    """The same normal numbers each time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def spoilt(values: Tensor, mask: Tensor) -> Tensor:
    """NaN, or a class that is none, where the mask is False."""
    wrong = torch.nan if values.is_floating_point() else -(10**6)
    return values.masked_fill(~mask.reshape(*mask.shape, *[1] * (values.dim() - 2)), wrong)


def shifted(values: Tensor, mask: Tensor) -> Tensor:
    """Other numbers where the mask is False; classes stay what they are."""
    hidden = ~mask.reshape(*mask.shape, *[1] * (values.dim() - 2))
    return torch.where(hidden, 3 - 2 * values, values) if values.is_floating_point() else values


def check_same(actual: Any, expected: Any, sentence: str) -> None:
    """Raises AssertionError with the sentence unless two pytrees are equal, bit for bit."""
    pairs = zip(tree_leaves(actual), tree_leaves(expected), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs), sentence


def check_near(actual: Any, expected: Any, sentence: str) -> None:
    """Raises AssertionError with the sentence where two pytrees differ by more than rounding."""
    for one, other in zip(tree_leaves(actual), tree_leaves(expected), strict=True):
        torch.testing.assert_close(
            one, other, rtol=1e-9, atol=1e-10, msg=lambda details: f"{sentence}\n{details}"
        )


def check_refused(call: Callable[[], object], what: str) -> None:
    """Raises AssertionError where a call raises no ValueError."""
    try:
        call()
    except ValueError:
        return
    except Exception as error:
        raise AssertionError(f"{what} raises ValueError; got {error!r}.") from error
    raise AssertionError(f"{what} raises ValueError.")
