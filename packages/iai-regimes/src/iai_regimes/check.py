"""Checks of arguments, with errors that name the mistake."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from iai_regimes.interfaces import Examples, Likelihood, Solver


def check_examples(batch: Examples, likelihood: Likelihood) -> None:
    """Raises ValueError unless observed inputs are finite and observed targets fit the likelihood.

    Reading the values waits for the device: call it on data that a user hands in, not in a training
    loop.
    """
    if batch.x.dim() < 2:
        raise ValueError(
            f"`x` must have the shape (task, n, *x_shape); got {tuple(batch.x.shape)}."
        )
    if batch.mask.dtype != torch.bool:
        raise ValueError(f"`mask` must be bool, True where observed; got {batch.mask.dtype}.")
    if batch.mask.shape != batch.x.shape[:2]:
        raise ValueError(
            f"`mask` must have the first two axes of `x`, {tuple(batch.x.shape[:2])}; "
            f"got {tuple(batch.mask.shape)}."
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
            f"example; got {tuple(outputs.shape)}."
        )


def check_sizes(least: int = 1, **sizes: int) -> None:
    """Raises ValueError for the first size that is below `least`."""
    for name, size in sizes.items():
        if size < least:
            raise ValueError(f"`{name}` must be at least {least}; got {size}.")


def check_positive(**numbers: float) -> None:
    """Raises ValueError for the first number that is not above 0."""
    for name, number in numbers.items():
        if not number > 0:
            raise ValueError(f"`{name}` must be above 0; got {number}.")


def flat_inputs(name: str, x: Tensor, dim: int) -> Tensor:
    """Inputs `task n *x_shape` as `task n dim`.

    Raises:
        ValueError: If an input has another size.
    """
    size = math.prod(x.shape[2:])
    if x.dim() < 2 or size != dim:
        got = tuple(x.shape)
        raise ValueError(f"`{name}` must have {dim} numbers an input, behind (task, n); got {got}.")
    return x.reshape(*x.shape[:2], dim)


def check_statistics(module: nn.Module, what: str, why: str) -> None:
    """Raises ValueError for a layer that would update running statistics."""
    for name, layer in module.named_modules():
        if layer.training and getattr(layer, "running_mean", None) is not None:
            raise ValueError(
                f"The {what} keeps running statistics ({name or type(layer).__name__}), {why}"
            )


def check_solver(rule: Any) -> None:
    """Raises TypeError for a rule without a residual: nothing tells whether it has converged."""
    if not isinstance(rule, Solver):
        raise TypeError(f"`rule` must have a `residual`; {type(rule).__name__} has none.")
