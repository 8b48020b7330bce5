"""Checks of tasks, minibatches and queries, with errors that say what to hand in."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from iai_iterate.interfaces import Batch, Query, Tasks
from iai_iterate.tree import survey


def check_tasks(tasks: Any) -> None:
    """Raises TypeError unless these are tasks, and ValueError unless their parts fit together."""
    if not isinstance(tasks, Tasks) or not isinstance(tasks.query, Query):
        raise TypeError(
            "`tasks` must have a `support` and a `query`, as iai_tasks.TaskBatch has; got "
            f"{type(tasks).__name__}."
        )
    check_queries(tasks.query.x, count_tasks(tasks.support))


def count_tasks(batch: Any) -> int:
    """The tasks of a set of examples, whose mask, and x and y where it has them, fit together.

    Reads types and shapes alone, so it never waits for a device.

    Raises:
        TypeError: If it is no set of examples: an array, say, or a pair of arrays.
        ValueError: If the mask is not bool `task n`, or x or y are of other examples.

    >>> count_tasks([0.0, 1.0])
    Traceback (most recent call last):
    TypeError: A minibatch must be a set of examples with ...; got list.
    """
    if not isinstance(batch, Batch):
        raise TypeError(
            "A minibatch must be a set of examples with tensors `x`, `y` and `mask`, such as "
            f"`iai_tasks.Examples.of(x, y)` makes of arrays; got {type(batch).__name__}."
        )
    mask: Any = batch.mask
    fields = {"mask": mask, "x": getattr(batch, "x", mask), "y": getattr(batch, "y", None)}
    for name, value in fields.items():
        if not isinstance(value, Tensor) and not (name == "y" and value is None):
            raise TypeError(
                f"`{name}` must be a tensor, which `iai_tasks.Examples.of` makes of an array; got "
                f"{type(value).__name__}."
            )
    if mask.dim() != 2 or mask.dtype != torch.bool:
        raise ValueError(
            "`mask` must be bool of the shape (task, n), True where observed; got "
            f"{mask.dtype} of the shape {tuple(mask.shape)}."
        )
    for name, value in fields.items():
        if value is not None and value.shape[:2] != mask.shape:
            raise ValueError(
                f"`{name}` must be of the {tuple(mask.shape)} examples (task, n) of `mask`; got "
                f"{tuple(value.shape)}."
            )
    num_tasks: int = mask.shape[0]
    return num_tasks


def check_state(state: Any, start: Any) -> None:
    """Raises ValueError unless a state has the structure and the shapes of a start."""
    old, new = survey(state)[1], survey(start)[1]
    for one, other in zip(old, new, strict=False):
        tensors = isinstance(one[0], torch.Size) and isinstance(other[0], torch.Size)
        if tensors and one[0] != other[0]:
            raise ValueError(
                f"`state` must be of these tasks and queries: {tuple(other[0])} where it has "
                f"{tuple(one[0])}."
            )
        if one != other and not tensors:
            break
    else:
        if len(old) == len(new):
            return
    raise ValueError(
        f"`state` must be one that this learner has returned; got {type(state).__name__}."
    )


def check_queries(query_x: Any, num_tasks: int) -> None:
    """Raises TypeError for what is no tensor, ValueError for other tasks or no real numbers."""
    if not isinstance(query_x, Tensor):
        raise TypeError(
            "`query_x` must be a tensor, such as `iai_tasks.Examples.of(x).x` makes of an array; "
            f"got {type(query_x).__name__}."
        )
    if not query_x.is_floating_point():
        raise ValueError(f"`query_x` must be floating point; got {query_x.dtype}.")
    if query_x.dim() < 2 or query_x.shape[0] != num_tasks:
        raise ValueError(
            f"`query_x` must be `task query *x_shape` of {num_tasks} tasks, as the examples are; "
            f"got {tuple(query_x.shape)}."
        )


def check_some_finite(state: Any) -> None:
    """Raises ValueError if the state of no task is finite; waits for the device."""
    leaves = [leaf for leaf in tree_leaves(state) if isinstance(leaf, Tensor)]
    finite = [leaf[..., None].flatten(1).isfinite().all(1) for leaf in leaves]
    if finite and len(finite[0]) and not bool(torch.stack(finite).all(0).any()):
        raise ValueError(
            "`support` led to a state that is not finite in any task; scale its `x` and `y` to "
            "about 1, or let the rule take shorter steps."
        )
