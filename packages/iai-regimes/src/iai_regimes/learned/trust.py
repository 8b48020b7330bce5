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
    """The factor t of each task's step, 1 where theta - share step lowers the loss as it should.

    With g' s the slope along the step s, its decrease must be at least share g' s / 4. On a
    quadratic, a Newton step's is (1 - share / 2) share g' s. A softmax saturates: at 190 classes of
    even odds, the Newton step asks for a hundred nats, of which there are five. Where the decrease
    is too small, t is twice the decrease over share g' s, at most 1/2, and at least 1/16 or what
    promises no more than the loss itself. One evaluation of the loss, for which nothing waits.

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
