"""Armijo's backtracking line search, for each task by itself."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

_SHARE = 1e-4  # of the decrease along the slope, which a step must reach
_MOST_HALVINGS = 30


class Descent(NamedTuple):
    """A step that lowers the loss; constants."""

    shift: Float[Tensor, "task p"]
    rate: Float[Tensor, " task"]  # shift = rate * direction; 0 if the direction was given up


def descend(
    loss: Callable[[Tensor], Tensor],
    theta: Float[Tensor, "task p"],
    gradient: Float[Tensor, "task p"],
    direction: Float[Tensor, "task p"],
) -> Descent:
    """A step along the direction, or along -gradient where the direction is given up.

    A direction is given up if its slope is not negative, if it is not finite, or if no rate lowers
    the loss. If -gradient fails as well, the task stays.

    Args:
        loss: Gives one loss a task; a task's loss depends on its own row alone.
        theta: The point at which the step begins.
        gradient: The gradient of the loss at theta.
        direction: The direction that is tried first.

    Returns:
        The step of each task, with a rate of 0 if it is along -gradient or there is none.

    >>> down, up = torch.tensor([[-0.5, 0.0]]), torch.tensor([[0.5, 0.0]])
    >>> theta = torch.tensor([[1.0, 1.0]])
    >>> loss = lambda theta: 0.25 * theta.square().sum(-1)
    >>> [descend(loss, theta, theta / 2, way).shift.tolist() for way in (down, up)]
    [[[-0.5, 0.0]], [[-0.5, -0.5]]]
    """
    with torch.no_grad():
        slope = (gradient * direction).sum(-1)
        down = slope < 0
        tried = torch.where(down[:, None], direction, 0.0)
        rate = backtrack(loss, theta, tried, torch.where(down, slope, 0.0))
        rate = torch.where(down, rate, 0.0)
        shift = torch.where(rate[:, None] > 0, rate[:, None] * tried, 0.0)
        stuck = (rate == 0) & (gradient != 0).any(-1)
        if bool(stuck.any()):
            steepest = torch.where(stuck[:, None], -gradient, 0.0)
            slope = -steepest.square().sum(-1)
            along = backtrack(loss, theta, steepest, slope)[:, None]
            shift = torch.where(stuck[:, None] & (along > 0), along * steepest, shift)
        return Descent(shift, rate)


def backtrack(
    loss: Callable[[Tensor], Tensor],
    theta: Float[Tensor, "task p"],
    direction: Float[Tensor, "task p"],
    slope: Float[Tensor, " task"],
) -> Float[Tensor, " task"]:
    """The first rate of 1, 1/2, 1/4, .. at which the loss of a task falls enough; 0 if none does.

    Enough is loss(theta + rate direction) <= loss(theta) + 1e-4 rate slope, plus a few roundings of
    the loss: near a solution in single precision, the decrease is smaller than these. A loss that
    is not finite is never enough. After each trial, the host reads whether all tasks are done,
    which waits for the device; mostly there is one trial.

    Args:
        loss: Gives one loss a task; a task's loss depends on its own row alone.
        theta: The point at which the step begins.
        direction: The direction of the step.
        slope: Derivative of the loss along the direction, at most 0.

    Returns:
        The rates, constants.

    Source:
        Armijo (1966); Nocedal and Wright (2006), algorithm 3.1, with halving.

    >>> rates = backtrack(
    ...     lambda theta: theta.square().sum(-1),
    ...     torch.tensor([[1.0], [1.0]]),
    ...     torch.tensor([[-1.0], [-8.0]]),  # to the minimum, and far beyond it
    ...     torch.tensor([-2.0, -16.0]),
    ... )
    >>> rates.tolist()  # 1 - 8 / 8 = 0
    [1.0, 0.125]
    """
    with torch.no_grad(), torch.autocast(theta.device.type, enabled=False):
        value = loss(theta)
        rounding = 8 * torch.finfo(value.dtype).eps * value.abs()
        rate, found = torch.ones_like(value), torch.zeros_like(value, dtype=torch.bool)
        for _ in range(_MOST_HALVINGS):
            trial = loss(theta + rate[:, None] * direction)
            found = found | (trial <= value + _SHARE * rate * slope + rounding)
            if bool(found.all()):
                break
            rate = torch.where(found, rate, rate / 2)
        return torch.where(found, rate, 0.0)
