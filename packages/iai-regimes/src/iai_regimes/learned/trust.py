"""How much of a Newton step to take: as much as its quadratic model of the loss holds for."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

_LEAST_DECREASE = 0.25  # of what the gradient promises; a Newton step on a quadratic has 0.5
_SHORTEST, _LONGEST = 1 / 16, 1 / 2  # of a step that is shortened


@torch.no_grad()
def trusted(
    loss: Callable[[Tensor], Tensor],
    theta: Float[Tensor, "task p"],
    value: Float[Tensor, " task"],
    gradient: Float[Tensor, "task p"],
    step: Float[Tensor, "task p"],
    share: Float[Tensor, " task"],
) -> Float[Tensor, "task 1"]:
    """The factor t, at most 1, by which each task's step s is shortened.

    With the gradient g, the step from theta to theta - share s promises the decrease
    P = share g' s; on a quadratic, a Newton step achieves (1 - share / 2) P, at least P / 2. Where
    the loss falls by at least P / 4, t is 1. Elsewhere t is 2 decrease / P, but at most 1/2, and at
    least the smaller of 1/16 and |loss| / P, as a positive loss cannot fall by more than itself. A
    softmax needs this: for 190 equally likely classes, P is a hundred nats where the loss is five.

    The loss is evaluated once, and nothing waits for the device.

    Args:
        loss: Gives one loss a task; a task's loss depends on its own row alone.
        theta: Where the step begins.
        value: The loss there.
        gradient: The gradient of the loss there.
        step: Points uphill.
        share: The part of the step that is taken.

    >>> theta, ones = torch.tensor([[3.0], [3.0]]), torch.ones(2)
    >>> loss = lambda theta: theta.square().sum(-1)
    >>> step = torch.tensor([[3.0], [24.0]])  # to the minimum, and far beyond it
    >>> trusted(loss, theta, loss(theta), 2 * theta, step, ones).tolist()
    [[1.0], [0.0625]]
    """
    promised = share * (gradient * step).sum(-1)
    decrease = value - loss(theta - share[:, None] * step)
    rounding = 8 * torch.finfo(value.dtype).eps * value.abs()
    enough = (decrease + rounding >= _LEAST_DECREASE * promised) | ~(promised > 0)
    promised = torch.where(enough, 1.0, promised)
    ratio = torch.nan_to_num(2 * decrease / promised, 0.0, 0.0, 0.0)
    shortest = (value.abs() / promised).clamp(max=_SHORTEST)
    shortened = torch.maximum(ratio, shortest).clamp(max=_LONGEST)
    return torch.where(enough, 1.0, shortened)[:, None]
