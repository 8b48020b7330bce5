"""The plain loop over minibatches, which every gradient mode is a variation of."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import tree_leaves

from iai_iterate.interfaces import Loss, Rollout, State, Step
from iai_iterate.tree import mapped


def rollout(
    step: Step[State], loss: Loss[State], state: State, batches: Iterable[Any]
) -> Rollout[State]:
    """Takes a step for each minibatch, and the loss after it.

    Returns:
        The losses, `step task`, and the last state, detached.

    Raises:
        ValueError: If there is no minibatch, or `loss` is not one number a task.
    """
    losses, state = walk(step, loss, state, batches)
    return stacked(losses), detach(state)


def walk(
    step: Step[State], loss: Loss[State], state: State, batches: Iterable[Any]
) -> tuple[list[Tensor], State]:
    """The loss after each step, and the last state, with their graphs."""
    losses = []
    for batch in batches:
        state = step(state, batch)
        losses.append(loss(state))
    return losses, state


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


def detach(state: State) -> State:
    """The same state without the graph that made it."""
    return each(Tensor.detach, state)


def each(function: Callable[[Tensor], Tensor], state: State) -> State:
    """The state with `function` of every tensor; a tensor that stands in it twice stays one."""
    known: dict[int, Tensor] = {}

    def once(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if id(leaf) not in known:
            known[id(leaf)] = function(leaf)
        return known[id(leaf)]

    result: State = mapped(once, state)
    return result


def learns(leaf: Any) -> bool:
    """Whether autograd can be asked here for a gradient by this leaf."""
    return torch.is_grad_enabled() and isinstance(leaf, Tensor) and leaf.requires_grad


def nothing_of(state: Any) -> Tensor:
    """The number 0, with a zero gradient by the state, which some modes give none."""
    sums = (leaf.sum() for leaf in tree_leaves(state) if learns(leaf))
    total: Tensor = sum(sums, state.seen.new_zeros(()))
    return total.masked_fill(torch.ones_like(total, dtype=torch.bool), 0.0)
