"""Meta-gradients that cross no step: each step learns to improve on what the last one left."""

from collections.abc import Iterable
from typing import Any

from iai_iterate.interfaces import GradientMode, Loss, Rollout, State, Step
from iai_iterate.modes.truncated import truncated


def greedy(
    step: Step[State], loss: Loss[State], state: State, batches: Iterable[Any]
) -> Rollout[State]:
    """Cuts the gradient after every step; the first step's reaches the start.

    Args:
        step: `step(state, batch) -> state`.
        loss: `loss(state) -> task`, taken after every step.
        state: The start, any pytree of tensors.
        batches: One minibatch a step.

    Returns:
        The losses, `step task`, with gradients to each step's own work; the last state, detached.

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
    mode: GradientMode[State] = truncated(1)
    return mode(step, loss, state, batches)
