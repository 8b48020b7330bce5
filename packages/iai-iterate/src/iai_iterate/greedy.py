"""Meta-gradients that cross no step: each step learns to improve on wherever the ones before it led."""

from collections.abc import Iterable
from typing import Any

from iai_iterate.interfaces import Loss, Rollout, State, Step
from iai_iterate.truncated import truncated


def greedy(
    step: Step[State], loss: Loss[State], state: State, batches: Iterable[Any]
) -> Rollout[State]:
    """Cuts the gradient after every step; the first step's reaches the start.

    Args:
        step: `step(state, batch) -> state`.
        loss: `loss(state) -> task`, taken after every step.
        state: A pytree of tensors.
        batches: One minibatch a step.

    Returns:
        The losses, `step task`, with gradients to each step's own work; the last state, detached.

    Raises:
        ValueError: If there is no minibatch.

    Source:
        Mittal et al. (2025), arXiv 2510.11471; for variational autoencoders Marino et al. (2018), arXiv 1807.09356.
    """
    return truncated(1)(step, loss, state, batches)
