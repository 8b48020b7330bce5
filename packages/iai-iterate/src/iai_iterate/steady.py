"""Steps held to their contract: a state is left as it was, and the next one is like it."""

from functools import partial
from numbers import Number
from operator import is_
from types import NoneType
from typing import Any

import torch
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
from iai_iterate.rollout import learns

_LEAVES = (Tensor, NoneType, Number)


def steady(step: Step[State]) -> Step[State]:
    """The same step, which now raises where it breaks the contract of a step.

    Args:
        step: `step(state, batch) -> state`.

    Returns:
        A step that raises ValueError, naming what changed, where the new state has another
        structure, shape or dtype than the old one, or the old one was changed in place; and where
        the step differentiates by a state that does not require gradients. It raises TypeError
        where a state holds anything but tensors, numbers and None: a class that is no registered
        pytree would be one leaf, and the tensors in it overlooked.

    >>> steady(lambda state, batch: state + 1)(torch.zeros(2), None).tolist()
    [1.0, 1.0]
    >>> steady(lambda state, batch: {"theta": state["theta"][:1]})({"theta": torch.zeros(2)}, None)
    Traceback (most recent call last):
    ValueError: `step` must keep the state's structure, shapes and dtypes; ['theta'] was (2,), \
torch.float32 and became (1,), torch.float32.
    """
    return partial(_checked, step)


def _checked(step: Step[State], state: State, batch: Any) -> State:
    leaves, structure = tree_flatten(state)
    if not all(isinstance(leaf, _LEAVES) for leaf in leaves):
        raise TypeError(_unknown_leaf(leaves, structure))
    versions = _versions(leaves)
    try:
        after = step(state, batch)
    except RuntimeError as error:
        if "does not require grad" in str(error) and not any(map(learns, leaves)):
            raise ValueError(
                "The state passed to `step` does not require gradients; inside it use "
                "`state.detach().requires_grad_()` under `torch.enable_grad()`."
            ) from error
        raise
    now, counted = tree_leaves(state), _versions(leaves)
    if not (len(now) == len(leaves) and all(map(is_, now, leaves)) and counted == versions):
        rows = zip(_names(leaves, structure), leaves, now, versions, counted, strict=False)
        name = next((name for name, old, new, v, w in rows if old is not new or v != w), "")
        raise ValueError(
            "`step` must leave the state that it is given as it was; it changed "
            f"{f'its {name}' if name else 'it'} in place."
        )
    others, other = tree_flatten(after)
    if structure != other or not all(map(_alike, leaves, others)):
        raise ValueError(
            "`step` must keep the state's structure, shapes and dtypes; "
            f"{_change(leaves, structure, others, other)}."
        )
    return after


def _versions(leaves: list[Any]) -> list[int]:
    """Numbers that grow with every change in place, which tensors share with their views."""
    if torch.compiler.is_compiling():
        return []  # a trace cannot tell
    return [
        leaf._version if isinstance(leaf, Tensor) and not leaf.is_inference() else 0
        for leaf in leaves
    ]


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and one.dtype == other.dtype
    return type(one) is type(other)


def _names(leaves: list[Any], structure: TreeSpec) -> list[str]:
    return [
        keystr(path) for path, _ in tree_flatten_with_path(tree_unflatten(leaves, structure))[0]
    ]


def _unknown_leaf(leaves: list[Any], structure: TreeSpec) -> str:
    named = zip(_names(leaves, structure), leaves, strict=True)
    name, leaf = next(pair for pair in named if not isinstance(pair[1], _LEAVES))
    return (
        "`state` must be a pytree, such as a NamedTuple, of tensors, numbers and None; "
        f"got {type(leaf).__name__}{f' as its {name}' if name else ''}."
    )


def _change(leaves: list[Any], structure: TreeSpec, others: list[Any], other: TreeSpec) -> str:
    """What is different after a step, in words."""
    before, after = (
        dict(zip(_names(values, tree), map(_described, values), strict=True))
        for values, tree in ((leaves, structure), (others, other))
    )
    for name in (*before, *after):
        was, became = before.get(name, "absent"), after.get(name, "absent")
        if was != became:
            return f"{name or 'it'} was {was} and became {became}"
    return f"it was {structure} and became {other}"


def _described(leaf: Any) -> str:
    if isinstance(leaf, Tensor):
        return f"{tuple(leaf.shape)}, {leaf.dtype}"
    return type(leaf).__name__
