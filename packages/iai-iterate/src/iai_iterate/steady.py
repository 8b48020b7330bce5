"""Steps held to their contract: a state is left as it was, and the next one is like it."""

from functools import partial
from operator import is_
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_structure

from iai_iterate.interfaces import State, Step
from iai_iterate.rollout import learns
from iai_iterate.tree import LEAVES, described, survey


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
    leaves, outline = survey(state)
    if not all(isinstance(leaf, LEAVES) for leaf in leaves):
        raise TypeError(_unknown(state))
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
    now, _ = survey(state)
    same = len(now) == len(leaves) and all(map(is_, now, leaves))
    if not same or _versions(now) != versions:
        raise ValueError(_written(state, leaves, versions))
    if survey(after)[1] != outline:
        raise ValueError(_changed(state, after))
    return after


def _versions(leaves: list[Any]) -> list[int]:
    """Numbers that grow with every change in place, which tensors share with their views."""
    if torch.compiler.is_compiling():
        return []  # a trace cannot tell
    return [_version(leaf) for leaf in leaves]


def _version(leaf: Any) -> int:
    # An inference tensor counts no changes.
    return leaf._version if isinstance(leaf, Tensor) and not leaf.is_inference() else 0


def _named(tree: Any) -> dict[str, Any]:
    return {keystr(path): leaf for path, leaf in tree_flatten_with_path(tree)[0]}


def _unknown(state: Any) -> str:
    named = _named(state).items()
    name, leaf = next(pair for pair in named if not isinstance(pair[1], LEAVES))
    return (
        "`state` must be a pytree, such as a NamedTuple, of tensors, numbers and None; "
        f"got {type(leaf).__name__}{f' as its {name}' if name else ''}."
    )


def _written(state: Any, leaves: list[Any], versions: list[int]) -> str:
    known, named = set(zip(map(id, leaves), versions, strict=False)), _named(state)
    now = zip(named, map(id, named.values()), _versions(list(named.values())), strict=False)
    name = next((name for name, *key in now if tuple(key) not in known), "")
    return (
        "`step` must leave the state that it is given as it was; it changed "
        f"{f'its {name}' if name else 'it'} in place."
    )


def _changed(state: Any, after: Any) -> str:
    old, new = _named(state), _named(after)
    change = f"it was {tree_structure(state)} and became {tree_structure(after)}"
    for name in (*old, *new):
        was, became = (
            described(named[name]) if name in named else "absent" for named in (old, new)
        )
        if was != became:
            change = f"{name or 'it'} was {was} and became {became}"
            break
    return f"`step` must keep the state's structure, shapes and dtypes; {change}."
