"""What the suites of this folder share: an encoder in float64, draws and comparisons."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from iai_encoders.interfaces import Memory


def in_float64(encoder: Any) -> Any:
    """A copy of the encoder in float64, in evaluation mode."""
    assert isinstance(encoder, nn.Module), "An encoder is an nn.Module."
    return copy.deepcopy(encoder).double().eval()


def draw(model: nn.Module, dim: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens, queries, a mask, and the tokens with NaN where they are masked."""
    generator = torch.Generator().manual_seed(0)
    device = next(model.parameters()).device
    tokens = torch.randn(4, 6, dim, generator=generator, dtype=torch.float64).to(device)
    queries = torch.randn(4, 5, dim, generator=generator, dtype=torch.float64).to(device)
    mask = torch.ones(4, 6, dtype=torch.bool, device=device)  # the first task is whole
    mask[1, ::2] = False
    mask[2, 4:] = False
    mask[3] = False
    padded = tokens.masked_fill(~mask[..., None], torch.nan).requires_grad_()
    return tokens, queries, mask, padded


def each(tokens: Tensor) -> list[slice]:
    """The index of each task, which keeps its axis."""
    return [slice(task, task + 1) for task in range(tokens.shape[0])]


def check_same(actual: Tensor, expected: Tensor, sentence: str) -> None:
    """Raises AssertionError with the sentence unless both are equal, but for rounding."""
    torch.testing.assert_close(
        actual, expected, rtol=1e-9, atol=1e-10, msg=lambda details: f"{sentence}\n{details}"
    )


def check_read(model: Any, queries: Tensor, memory: Any, answers: Tensor) -> None:
    """Checks a memory, and that no query sees another."""
    assert isinstance(memory, Memory), "A memory has `num_elements`."
    assert isinstance(memory.num_elements, int), "`num_elements` is an int."
    for leaf in tree_leaves(memory):
        led = isinstance(leaf, Tensor) and leaf.shape[:1] == queries.shape[:1]
        assert led, (
            "A memory is a pytree of tensors that lead with the tasks, such as a NamedTuple."
        )
    assert answers.shape == queries.shape, "There is an answer a query."
    for subset in ([2], [3, 0], []):
        some = model.read(queries[:, subset], memory)
        check_same(some, answers[:, subset], "A subset of the queries has the same answers.")


def check_gradients(model: nn.Module, results: Tensor, tokens: Tensor, mask: Tensor) -> None:
    """Checks that gradients reach the observed tokens and every parameter that trains."""
    trained = {
        name: leaf for name, leaf in model.named_parameters() if leaf.requires_grad and leaf.numel()
    }
    # Uneven weights, since the plain sum of a normalised vector is a constant.
    weights = torch.linspace(-1.0, 1.0, results.numel(), dtype=results.dtype).view_as(results)
    loss = (results * weights.to(results.device)).sum()
    of_tokens, *of_parameters = torch.autograd.grad(
        loss, [tokens, *trained.values()], materialize_grads=True
    )
    assert (of_tokens[mask] != 0).any(), "Gradients reach the observed tokens."
    assert (of_tokens[~mask] == 0).all(), "No gradient reaches a masked token."
    for name, gradient in zip(trained, of_parameters, strict=True):
        assert gradient.isfinite().all(), f"Gradients are finite; that of {name} is not."
        assert (gradient != 0).any(), f"Gradients reach every parameter; none reaches {name}."
