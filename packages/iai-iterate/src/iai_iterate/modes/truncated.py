"""Meta-gradients that cross a limited number of steps."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map_only

from iai_iterate.interfaces import GradientMode, Loss, Rollout, State, Step
from iai_iterate.rollout import stacked, steady


def detach(state: State) -> State:
    """The same state, with no gradient path to what made it."""
    return each(Tensor.detach, state)


def each(function: Callable[[Tensor], Tensor], state: State) -> State:
    """The function of every tensor of a state; one that stands in it twice stays one."""
    known: dict[int, Tensor] = {}

    def once(tensor: Tensor) -> Tensor:
        if id(tensor) not in known:
            known[id(tensor)] = function(tensor)
        return known[id(tensor)]

    mapped: State = tree_map_only(Tensor, once, state)
    return mapped


def truncated(num_steps: int) -> GradientMode[State]:
    """A gradient mode: backpropagate through stretches of at most `num_steps` steps.

    The path is cut AFTER every `num_steps`-th step, so that the first stretch reaches the start,
    and a learned start still learns.

    Args:
        num_steps: Length of a stretch. 1 is greedy.

    Returns:
        `mode(step, loss, state, batches)`, with the arguments and results of `greedy`.

    Raises:
        ValueError: If `num_steps` is below 1.

    Source:
        Truncated backpropagation through time, Williams and Peng (1990).

    >>> import torch
    >>> start = torch.tensor([1.0], requires_grad=True)
    >>> double = lambda state, batch: state * 2
    >>> losses, _ = truncated(2)(double, lambda state: state, start, range(3))
    >>> torch.autograd.grad(losses.sum(), start)[0].item()  # 2 + 4; the third step is cut off
    6.0
    """
    if num_steps < 1:
        raise ValueError(f"`num_steps` must be at least 1; got {num_steps}.")

    return partial(_truncate, num_steps)


def _truncate(
    num_steps: int, step: Step[State], loss: Loss[State], state: State, batches: Iterable[Any]
) -> Rollout[State]:
    step, losses = steady(step), []
    for index, batch in enumerate(batches, start=1):
        state = step(state, batch)
        losses.append(loss(state))
        if index % num_steps == 0:
            state = detach(state)
    return stacked(losses), detach(state)
