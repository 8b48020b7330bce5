"""Errors of each task, over its observed queries."""

import torch
from jaxtyping import Float
from torch import Tensor

from iai_train.interfaces import Query


def mean_squared_error(
    outputs: Float[Tensor, "task n y_dim"], query: Query
) -> Float[Tensor, " task"]:
    """The squared error of a task, mean over its observed queries and the target's dimensions.

    Args:
        outputs: Predictions, in the units of `query.y`.
        query: The targets, `task n y_dim`, and which are observed.

    Returns:
        One number a task; NaN for a task without an observed query.

    Raises:
        ValueError: There are no targets, or outputs, targets and mask differ in shape.

    >>> from types import SimpleNamespace
    >>> query = SimpleNamespace(
    ...     x=None, y=torch.zeros(1, 2, 1), mask=torch.tensor([[True, False]])
    ... )
    >>> mean_squared_error(torch.tensor([[[3.0], [100.0]]]), query)
    tensor([9.])
    """
    if query.y is None or query.y.shape != outputs.shape:
        shape = None if query.y is None else tuple(query.y.shape)
        raise ValueError(
            f"`outputs` must have the targets' shape, {shape}; got {tuple(outputs.shape)}."
        )
    _check_axes(outputs, query)
    return _mean_observed((outputs - query.y).square().mean(-1), query)


def accuracy(outputs: Float[Tensor, "task n classes"], query: Query) -> Float[Tensor, " task"]:
    """The fraction of a task's observed queries whose largest output is that of their class.

    Args:
        outputs: Scores of each class, such as logits.
        query: The classes, `task n`, and which are observed.

    Returns:
        One number a task; NaN for a task without an observed query, or with NaN in its outputs.

    Raises:
        ValueError: There are no classes, or outputs, classes and mask differ in shape.

    >>> from types import SimpleNamespace
    >>> query = SimpleNamespace(
    ...     x=None, y=torch.tensor([[1, 0]]), mask=torch.tensor([[True, True]])
    ... )
    >>> accuracy(torch.tensor([[[0.0, 1.0], [0.0, 1.0]]]), query)
    tensor([0.5000])
    """
    if query.y is None or query.y.shape != outputs.shape[:-1]:
        shape = None if query.y is None else tuple(query.y.shape)
        raise ValueError(
            f"`outputs` must have one more axis than the classes, {shape}; got "
            f"{tuple(outputs.shape)}."
        )
    _check_axes(outputs, query)
    if query.y.is_floating_point():
        raise ValueError(f"`query.y` must hold classes, int64; got {query.y.dtype}.")
    hit = (outputs.argmax(-1) == query.y).to(outputs.dtype)
    return _mean_observed(torch.where(outputs.isnan().any(-1), torch.nan, hit), query)


def _check_axes(outputs: Tensor, query: Query) -> None:
    if outputs.dim() != 3 or outputs.shape[-1] < 1 or query.mask.shape != outputs.shape[:2]:
        raise ValueError(
            "`outputs` must be (task, n, numbers of an answer), of the examples (task, n) of "
            f"`query.mask`, {tuple(query.mask.shape)}; got {tuple(outputs.shape)}."
        )
    if not outputs.is_floating_point():
        raise ValueError(f"`outputs` must be floating point; got {outputs.dtype}.")


def _mean_observed(values: Float[Tensor, "task n"], query: Query) -> Float[Tensor, " task"]:
    # `where`, not a product: a masked value may be NaN.
    return torch.where(query.mask, values, 0).sum(1) / query.mask.sum(1)
