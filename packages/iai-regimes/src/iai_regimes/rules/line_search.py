"""How far to go along a direction: Armijo's backtracking, each task by itself."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

_SHARE = 1e-4  # of the decrease that the slope promises
_MOST_HALVINGS = 30


class Descent(NamedTuple):
    """A step down, in constants."""

    shift: Float[Tensor, "task p"]
    rate: Float[Tensor, " task"]  # share of the direction that was gone, 0 for none of it


def descend(
    loss: Callable[[Tensor], Tensor],
    theta: Float[Tensor, "task p"],
    gradient: Float[Tensor, "task p"],
    direction: Float[Tensor, "task p"],
) -> Descent:
    """A step along the direction, or along -gradient where the direction leads nowhere.

    A direction leads nowhere if it does not go down, or is not finite, or no rate of it lowers the
    loss; if that holds for -gradient as well, the task stays.

    Args:
        loss: Gives one loss a task; a task's loss depends on its own row alone.
        theta: Where.
        gradient: Of the loss at theta.
        direction: What is tried first.

    Returns:
        The step of each task; its rate is 0 where it is along -gradient or there is none.

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

    Enough is 1e-4 of what the slope at theta promises. Where that is less than the loss can be told
    apart from itself, a rise by a few roundings passes: else a solution in single precision could
    not be polished. A loss that is not finite is never enough. Whether all tasks are done is read
    after each trial, which waits for the device; mostly one trial is all there is.

    Args:
        loss: Gives one loss a task; a task's loss depends on its own row alone.
        theta: Where.
        direction: What is tried.
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
