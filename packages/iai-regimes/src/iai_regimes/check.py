"""Checks of arguments, with errors that name the mistake."""

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from iai_regimes.interfaces import Examples, Likelihood, Solver


def check_examples(batch: Examples, likelihood: Likelihood) -> None:
    """Raises ValueError unless observed inputs are finite and observed targets fit the likelihood.

    Reading the values waits for the device: call it on data that a user hands in, not in a training
    loop.
    """
    _check_inputs(batch)
    if batch.y is not None:
        _check_leads("y", batch.y, batch.x)
    if not _are_finite(batch.x, batch.mask):
        raise ValueError("`x` must be finite where `mask` is True; got NaN or infinity.")
    likelihood.check(batch.y, batch.mask)


def check_shapes(batch: Examples) -> None:
    """Raises ValueError unless inputs, targets and mask are tensors of the same examples.

    TypeError says that one is no tensor. Only shapes and dtypes are read, which never waits for a
    device.
    """
    _check_inputs(batch)
    y = batch.y
    if y is None:
        return
    _check_leads("y", y, batch.x)
    real = y.is_floating_point()
    if y.dim() != (3 if real else 2) or not (real or y.dtype == torch.int64):
        raise ValueError(
            "`y` must be floating point of the shape (task, n, y_dim), or int64 classes of the "
            f"shape (task, n); got {y.dtype} of the shape {tuple(y.shape)}."
        )


def check_outputs(likelihood: Likelihood, outputs: Tensor, mask: Tensor) -> None:
    """Raises ValueError unless each example has as many outputs as the likelihood reads."""
    wanted = likelihood.num_outputs
    if outputs.dim() != 3 or outputs.shape[-1] != wanted:
        raise ValueError(
            f"`outputs` must be (task, n, {wanted}), the likelihood's `num_outputs` for each "
            f"example; got {tuple(outputs.shape)}."
        )
    if outputs.shape[:2] != mask.shape:
        raise ValueError(
            f"`outputs` must be of the {tuple(mask.shape)} examples (task, n) that they are "
            f"compared with; got {tuple(outputs.shape)}."
        )


def check_queries(query_x: Tensor, num_tasks: int | None = None) -> None:
    """Raises ValueError unless these are queries, floating point, of so many tasks.

    TypeError says that they are no tensor. None for any number of tasks.
    """
    given: object = query_x
    if not isinstance(given, Tensor):
        raise TypeError(f"`query_x` must be a tensor; got {type(given).__name__}.")
    fits = query_x.dim() >= 2 and num_tasks in (None, query_x.shape[0])
    if not fits or not query_x.is_floating_point():
        of_tasks = "" if num_tasks is None else f", of {num_tasks} tasks"
        raise ValueError(
            f"`query_x` must be floating point of the shape (task, query, *x_shape){of_tasks}; got "
            f"{query_x.dtype} of the shape {tuple(query_x.shape)}."
        )


def check_asked(answer: Tensor, query_x: Tensor | None, dim: int) -> Tensor:
    """The queries, if they are as many as a state has answers, of `dim` numbers each.

    Raises:
        ValueError: If they are not.
    """
    expected = tuple(answer.shape[:2])
    if query_x is None or query_x.shape[:2] != expected:
        got = None if query_x is None else tuple(query_x.shape[:2])
        raise ValueError(
            "An implicit state answers the queries that it was started with, (task, query) = "
            f"{expected}; got {got}."
        )
    check_queries(query_x, expected[0])
    flat_inputs("query_x", query_x, dim)
    return query_x


def check_same_tasks(state: Tensor, batch: Tensor) -> None:
    """Raises ValueError unless tensors of a state and of a minibatch have as many tasks."""
    if state.shape[0] != batch.shape[0]:
        raise ValueError(
            f"A minibatch must have the {state.shape[0]} tasks of the state; got {batch.shape[0]}."
        )


def check_steps(state: Tensor, batches: Tensor) -> int:
    """How many minibatches of each task of a state there are.

    Raises:
        ValueError: If there are not as many of each, and at least one.
    """
    num_tasks, rows = len(state), len(batches)
    if rows == num_tasks:
        return 1
    if not num_tasks or not rows or rows % num_tasks:
        raise ValueError(
            f"Minibatches must be as many of each of the state's {num_tasks} tasks; got {rows}."
        )
    return rows // num_tasks


def check_kept(name: str, old: Any, new: Any) -> None:
    """Raises ValueError for a memory whose tensors change their number, shape or dtype."""
    before, after = _forms(old), _forms(new)
    if before != after:
        pairs = zip_longest(before, after, fillvalue=())
        was, became = next(pair for pair in pairs if pair[0] != pair[1])
        raise ValueError(
            f"`{name}` must have a memory that neither grows nor changes its dtype, for it is the "
            f"state; {was} became {became}."
        )


@contextmanager
def reading(name: str, module: object, x: Tensor) -> Iterator[None]:
    """Makes torch's errors in a module that reads inputs a ValueError that names their shape.

    A ValueError of the module's own stays what it is.
    """
    try:
        yield
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except (RuntimeError, IndexError, AssertionError) as error:
        weights = module.parameters() if isinstance(module, nn.Module) else ()
        dtypes = sorted({str(weight.dtype) for weight in weights if weight.is_floating_point()})
        if len(dtypes) > 1:
            raise ValueError(
                f"The weights of the {name} must have one dtype, as after `.float()`, or its "
                f"forward must cast between them; got {', '.join(dtypes)}."
            ) from error
        words = str(error).split("\n")[0].rstrip(". ")
        raise ValueError(
            f"`{name}` fails on inputs of the shape {tuple(x.shape)}, {x.dtype}: {words}."
        ) from error


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


def check_role(role: type, **parts: object) -> None:
    """Raises TypeError for the first part that lacks a member of its role, a Protocol."""
    members = [name for name in dir(role) if not name.startswith("_")]
    for name, part in parts.items():
        missing = [member for member in members if not hasattr(part, member)]
        if missing:
            raise TypeError(
                f"`{name}` must be a {role.__name__}, which has {', '.join(members)}; "
                f"{type(part).__name__} has no {missing[0]}."
            )


def check_solver(rule: Any) -> None:
    """Raises TypeError for a rule without a residual: nothing tells whether it has converged."""
    if not isinstance(rule, Solver):
        raise TypeError(f"`rule` must have a `residual`; {type(rule).__name__} has none.")


def _forms(tree: Any) -> list[tuple[object, ...]]:
    # Without torch's `tree_leaves`, which leaves objects to the garbage collector in each step.
    if isinstance(tree, Tensor):
        return [(*tree.shape, tree.dtype)]
    parts = tree.values() if isinstance(tree, dict) else tree
    if isinstance(parts, Collection) and not isinstance(parts, str):
        return [form for part in parts for form in _forms(part)]
    return [(type(tree).__name__,)]


def _check_inputs(batch: Examples) -> None:
    for name in ("x", "y", "mask"):
        value: object = getattr(batch, name)
        if not isinstance(value, Tensor) and not (name == "y" and value is None):
            raise TypeError(f"`{name}` must be a tensor; got {type(value).__name__}.")
    x, mask = batch.x, batch.mask
    if x.dim() < 2:
        raise ValueError(f"`x` must have the shape (task, n, *x_shape); got {tuple(x.shape)}.")
    if not x.is_floating_point():
        raise ValueError(f"`x` must be floating point; got {x.dtype}.")
    if mask.dtype != torch.bool:
        raise ValueError(f"`mask` must be bool, True where observed; got {mask.dtype}.")
    if mask.shape != x.shape[:2]:
        _check_leads("mask", mask, x)
        raise ValueError(f"`mask` must have two axes, (task, n); got {tuple(mask.shape)}.")


def _are_finite(x: Tensor, mask: Tensor) -> bool:
    # A sum is finite only of finite numbers, and makes no copy of what may be large.
    sums = x.sum(tuple(range(2, x.dim()))) if x.dim() > 2 else x
    if bool((sums.isfinite() | ~mask).all()):
        return True
    return bool(x[mask].isfinite().all())  # the sum of large numbers may be infinite


def _check_leads(name: str, values: Tensor, x: Tensor) -> None:
    if values.shape[:2] != x.shape[:2]:
        raise ValueError(
            f"`{name}` must have the first two axes of `x`, {tuple(x.shape[:2])}; "
            f"got {tuple(values.shape)}."
        )
