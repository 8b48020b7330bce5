"""What every gradient mode asks of a rollout: states that keep their structure, and minibatches."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import keystr, tree_flatten, tree_flatten_with_path

from iai_iterate.interfaces import State, Step


def steady(step: Step[State]) -> Step[State]:
    """The same step, held to give back what it was given: structure, shapes and dtypes.

    Args:
        step: `step(state, batch) -> state`.

    Returns:
        A step that raises ValueError, naming what changed, where a state is unlike the last one.

    >>> steady(lambda state, batch: state + 1)(torch.zeros(2), None).tolist()
    [1.0, 1.0]
    >>> steady(lambda state, batch: {"theta": state["theta"][:1]})({"theta": torch.zeros(2)}, None)
    Traceback (most recent call last):
    ValueError: `step` must keep the state's structure, shapes and dtypes; ['theta'] was (2,), \
torch.float32 and became (1,), torch.float32.
    """
    return partial(_checked, step)


def stacked(losses: Sequence[Tensor]) -> Float[Tensor, "step task"]:
    """The losses of all steps as one tensor.

    Raises:
        ValueError: If there is none.
    """
    if not losses:
        raise ValueError("`batches` must hold at least one minibatch; got none.")
    return torch.stack(list(losses))


def _checked(step: Step[State], state: State, batch: Any) -> State:
    after = step(state, batch)
    _check_alike(state, after)
    return after


def _check_alike(before: Any, after: Any) -> None:
    (leaves, structure), (others, other) = tree_flatten(before), tree_flatten(after)
    if structure == other and all(map(_alike, leaves, others)):
        return
    one, another = _described(before), _described(after)
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
