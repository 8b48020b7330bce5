"""What every gradient mode asks of a rollout: states that are kept as they were, and losses."""

from collections.abc import Sequence
from functools import partial
from numbers import Number
from operator import is_
from types import NoneType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import (
    TreeSpec,
    keystr,
    tree_flatten,
    tree_flatten_with_path,
    tree_leaves,
    tree_unflatten,
)

from iai_iterate.interfaces import State, Step

_LEAVES = (Tensor, NoneType, Number)
_BY_A_CONSTANT = (
    "`step` must take a gradient by a copy of the state that requires one, with gradients enabled; "
    "here it was given the state as a constant."
)


def steady(step: Step[State]) -> Step[State]:
    """The same step, held to leave a state as it was and to give back one that is like it.

    Args:
        step: `step(state, batch) -> state`.

    Returns:
        A step that raises ValueError, naming what changed, where the new state has another
        structure, shape or dtype than the old one, or the old one was changed in place. It raises
        ValueError, too, where the step asks for a gradient by a state that is a constant, and
        TypeError where a state holds anything but tensors, numbers and None: what is no registered
        pytree is one leaf, whose tensors nobody would find.

    >>> steady(lambda state, batch: state + 1)(torch.zeros(2), None).tolist()
    [1.0, 1.0]
    >>> steady(lambda state, batch: {"theta": state["theta"][:1]})({"theta": torch.zeros(2)}, None)
    Traceback (most recent call last):
    ValueError: `step` must keep the state's structure, shapes and dtypes; ['theta'] was (2,), \
torch.float32 and became (1,), torch.float32.
    """
    return partial(_checked, step)


def stacked(losses: Sequence[Any]) -> Float[Tensor, "step task"]:
    """The losses of all steps as one tensor.

    Raises:
        ValueError: If there is none, or one is not one number a task.
    """
    if not losses:
        raise ValueError("`batches` must hold at least one minibatch; got none.")
    for loss in losses:
        if not isinstance(loss, Tensor) or loss.dim() != 1:
            got = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f"`loss` must give one number a task, `task`; got {got}.")
    return torch.stack(list(losses))


def learns(leaf: Any) -> bool:
    """Whether a gradient by this leaf can be asked for here."""
    return torch.is_grad_enabled() and isinstance(leaf, Tensor) and leaf.requires_grad


def _checked(step: Step[State], state: State, batch: Any) -> State:
    leaves, structure = tree_flatten(state)
    _check_leaves(leaves, state)
    versions = _versions(leaves)
    try:
        after = step(state, batch)
    except RuntimeError as error:
        if "does not require grad" in str(error) and not any(map(learns, leaves)):
            raise ValueError(_BY_A_CONSTANT) from error
        raise
    _check_left(leaves, structure, versions, state)
    _check_alike(leaves, structure, after)
    return after


def _check_leaves(leaves: list[Any], state: Any) -> None:
    if all(isinstance(leaf, _LEAVES) for leaf in leaves):
        return
    path, leaf = next(
        pair for pair in tree_flatten_with_path(state)[0] if not isinstance(pair[1], _LEAVES)
    )
    raise TypeError(
        "`state` must be a pytree, such as a NamedTuple, of tensors, numbers and None; "
        f"got {type(leaf).__name__}{f' as its {keystr(path)}' if path else ''}."
    )


def _versions(leaves: list[Any]) -> list[int]:
    """Numbers that grow with every change in place, which tensors share with their views."""
    if torch.compiler.is_compiling():
        return []  # a trace cannot tell
    return [
        leaf._version if isinstance(leaf, Tensor) and not leaf.is_inference() else 0
        for leaf in leaves
    ]


def _check_left(leaves: list[Any], structure: TreeSpec, versions: list[int], state: Any) -> None:
    now, counted = tree_leaves(state), _versions(leaves)
    if len(now) == len(leaves) and all(map(is_, now, leaves)) and counted == versions:
        return
    names = _described(tree_unflatten(leaves, structure))
    rows = zip(names, leaves, now, versions, counted, strict=False)
    changed = (name for name, old, new, one, two in rows if old is not new or one != two)
    name = next(changed, "")
    raise ValueError(
        "`step` must leave the state that it is given as it was; it changed "
        f"{f'its {name}' if name else 'it'} in place."
    )


def _check_alike(leaves: list[Any], structure: TreeSpec, after: Any) -> None:
    others, other = tree_flatten(after)
    if structure == other and all(map(_alike, leaves, others)):
        return
    one, another = _described(tree_unflatten(leaves, structure)), _described(after)
    if one.keys() != another.keys():
        change = f"its leaves were {_listed(one)} and became {_listed(another)}"
    elif one != another:
        name = next(name for name in one if one[name] != another[name])
        change = f"{name or 'it'} was {one[name]} and became {another[name]}"
    else:
        change = f"it was {structure} and became {other}"
    raise ValueError(f"`step` must keep the state's structure, shapes and dtypes; {change}.")


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and one.dtype == other.dtype
    return type(one) is type(other)


def _described(tree: Any) -> dict[str, str]:
    return {
        keystr(path): f"{tuple(leaf.shape)}, {leaf.dtype}"
        if isinstance(leaf, Tensor)
        else type(leaf).__name__
        for path, leaf in tree_flatten_with_path(tree)[0]
    }


def _listed(described: dict[str, str]) -> str:
    return ", ".join(name or "one tensor" for name in described) or "none"
