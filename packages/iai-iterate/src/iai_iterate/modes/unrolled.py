"""Meta-gradients that cross every step."""

import sys
from collections.abc import Iterable
from typing import Any

from iai_iterate.interfaces import GradientMode, Loss, Rollout, State, Step
from iai_iterate.modes.truncated import truncated


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
        The losses, `step task`, with gradients through all steps; the last state, detached.

    Raises:
        ValueError: If there is no minibatch or `loss` is not one number a task; and what `steady`
            raises.

    >>> import torch
    >>> start = torch.tensor([1.0], requires_grad=True)
    >>> losses, _ = unrolled(lambda state, _: state * 2, lambda state: state, start, range(3))
    >>> torch.autograd.grad(losses.sum(), start)[0].item()  # 2 + 4 + 8
    14.0
    """
    mode: GradientMode[State] = truncated(sys.maxsize)
    return mode(step, loss, state, batches)
