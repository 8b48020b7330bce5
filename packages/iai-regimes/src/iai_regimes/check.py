"""What is wrong with what is handed in, said where it enters."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from iai_regimes.interfaces import Examples, Likelihood, Solver


def check_examples(batch: Examples, likelihood: Likelihood) -> None:
    """Raises ValueError unless observed inputs are finite and observed targets fit the likelihood.

    It reads values, which waits for the device: it is meant for data that a user hands in, not for
    a training loop.
    """
    if batch.x.dim() < 2:
        raise ValueError(f"`x` must have the shape (task, n, *x_shape); got {_shape(batch.x)}.")
    if batch.mask.dtype != torch.bool:
        raise ValueError(f"`mask` must be bool, True where observed; got {batch.mask.dtype}.")
    if batch.mask.shape != batch.x.shape[:2]:
        raise ValueError(
            f"`mask` must have the first two axes of `x`, {tuple(batch.x.shape[:2])}; "
            f"got {_shape(batch.mask)}."
        )
    if not bool(torch.isfinite(batch.x[batch.mask]).all()):
        raise ValueError("`x` must be finite where `mask` is True; got NaN or infinity.")
    likelihood.check(batch.y, batch.mask)


def check_outputs(likelihood: Likelihood, outputs: Tensor) -> None:
    """Raises ValueError unless there are as many outputs as the likelihood reads."""
    wanted = likelihood.num_outputs
    if outputs.dim() != 3 or outputs.shape[-1] != wanted:
        raise ValueError(
            f"`outputs` must be (task, n, {wanted}), the likelihood's `num_outputs` for each "
            f"example; got {_shape(outputs)}."
        )


def check_sizes(least: int = 1, **sizes: int) -> None:
    """Raises ValueError, naming it, for a size below the least one."""
    for name, size in sizes.items():
        if size < least:
            raise ValueError(f"`{name}` must be at least {least}; got {size}.")


def flat_inputs(name: str, x: Tensor, dim: int) -> Tensor:
    """Inputs `task n *x_shape` as `task n dim`.

    Raises:
        ValueError: If an input has another size.
    """
    size = math.prod(x.shape[2:])
    if x.dim() < 2 or size != dim:
        raise ValueError(
            f"`{name}` must have {dim} numbers an input, behind (task, n); got {_shape(x)}."
        )
    return x.reshape(*x.shape[:2], dim)


def check_statistics(module: nn.Module, what: str, why: str) -> None:
    """Raises ValueError for a layer that would update running statistics."""
    for name, layer in module.named_modules():
        if layer.training and getattr(layer, "running_mean", None) is not None:
            raise ValueError(
                f"The {what} keeps running statistics ({name or type(layer).__name__}), {why}"
            )


def check_solver(rule: Any) -> None:
    """Raises TypeError for a rule without a residual, of which no one can say when it is done."""
    if not isinstance(rule, Solver):
        raise TypeError(f"`rule` must have a `residual`; {type(rule).__name__} has none.")


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)
