"""Meta-gradients that cross one step, a limited number of steps, or all of them."""

import sys
from collections.abc import Iterable
from functools import partial
from typing import Any

from iai_iterate.interfaces import GradientMode, Loss, Rollout, State, Step
from iai_iterate.rollout import detach, rollout
from iai_iterate.steady import steady


def truncated(num_steps: int) -> GradientMode[State]:
    """A gradient mode: backpropagates through stretches of at most `num_steps` steps.

    The state is detached AFTER every `num_steps`-th step, so that the losses of the first stretch
    have a gradient by the start, and a learned start is trained.

    Args:
        num_steps: Length of a stretch. 1 is `greedy`.

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


def greedy(
    step: Step[State], loss: Loss[State], state: State, batches: Iterable[Any]
) -> Rollout[State]:
    """Detaches the state after every step: each step learns to improve on what the last one left.

    Args:
        step: `step(state, batch) -> state`.
        loss: `loss(state) -> task`, taken after every step.
        state: The start, any pytree of tensors.
        batches: One minibatch a step.

    Returns:
        The losses, `step task`, each with a gradient through its own step alone, the first also by
        the start; and the last state, detached.

    Raises:
        ValueError: If there is no minibatch or `loss` is not one number a task; and what `steady`
            raises.

    Source:
        Mittal et al. (2025), arXiv 2510.11471; for variational autoencoders Marino, Yue and Mandt
        (2018), arXiv 1807.09356.

    >>> import torch
    >>> start = torch.tensor([1.0], requires_grad=True)
    >>> losses, _ = greedy(lambda state, _: state * 2, lambda state: state, start, range(3))
    >>> torch.autograd.grad(losses.sum(), start)[0].item()  # that of the first step alone
    2.0
    """
    return _truncate(1, step, loss, state, batches)


def unrolled(
    step: Step[State], loss: Loss[State], state: State, batches: Iterable[Any]
) -> Rollout[State]:
    """Backpropagates through all the steps; memory grows with their number.

    Args:
        step: `step(state, batch) -> state`.
        loss: `loss(state) -> task`, taken after every step.
        state: The start, any pytree of tensors.
        batches: One minibatch a step.

    Returns:
        The losses, `step task`, with gradients through all steps before them; and the last state,
        detached.

    Raises:
        ValueError: If there is no minibatch or `loss` is not one number a task; and what `steady`
            raises.

    >>> import torch
    >>> start = torch.tensor([1.0], requires_grad=True)
    >>> losses, _ = unrolled(lambda state, _: state * 2, lambda state: state, start, range(3))
    >>> torch.autograd.grad(losses.sum(), start)[0].item()  # 2 + 4 + 8
    14.0
    """
    return _truncate(sys.maxsize, step, loss, state, batches)


def _truncate(
    num_steps: int, step: Step[State], loss: Loss[State], state: State, batches: Iterable[Any]
) -> Rollout[State]:
    step = steady(step)

    def cut(state: State, item: tuple[int, Any]) -> State:
        index, batch = item
        if index > 0 and index % num_steps == 0:
            state = detach(state)
        return step(state, batch)

    return rollout(cut, loss, state, enumerate(batches))
