"""Meta-gradients that point from where the steps led back to the start."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from iai_iterate.interfaces import Loss, Rollout, State, Step
from iai_iterate.rollout import detach, learns, rollout
from iai_iterate.steady import steady


def reptile(
    step: Step[State], loss: Loss[State], state: State, batches: Iterable[Any]
) -> Rollout[State]:
    """Pulls the start towards the states that the steps reach; no step is differentiated.

    The gradient of the k-th loss of a task by the start is `start - state_k` of that task. By
    anything else there is none: steps and losses are computed without gradients.

    Args:
        step: `step(state, batch) -> state`. One that takes a gradient itself enables them itself.
        loss: `loss(state) -> task`, taken after every step. Its value is returned; its own gradient
            is not used.
        state: The start, any pytree of tensors. Those that require a gradient lead with the axis of
            tasks; where there is one task, they may have any shape.
        batches: One minibatch a step. The reached values of what requires a gradient are kept for
            the backward pass.

    Returns:
        The losses, `step task`, with the values of the plain loop; the last state, detached.

    Raises:
        ValueError: If there is no minibatch, `loss` is not one number a task, or a leaf that
            requires a gradient does not lead with the tasks; and what `steady` raises.

    Source:
        Nichol, Achiam and Schulman (2018), arXiv 1803.02999: descent at rate epsilon on the mean of
        the last losses over the tasks is their batched update, `start + epsilon mean(state_K -
        start)`. For Adam they divide by the inner rate, a scale that does not change Adam's steps.

    >>> start = torch.tensor([1.0], requires_grad=True)
    >>> losses, _ = reptile(lambda w, _: w - 0.5 * w, torch.square, start, range(2))
    >>> losses[:, 0].tolist()  # w is 1/2, then 1/4
    [0.25, 0.0625]
    >>> torch.autograd.grad(losses[1, 0], start)[0].item()  # 1 - 1/4
    0.75
    """
    step, reached = steady(step), list[list[Tensor]]()
    learned = [index for index, leaf in enumerate(tree_leaves(state)) if learns(leaf)]
    start = [tree_leaves(state)[index] for index in learned]

    def recorded(state: State, batch: Any) -> State:
        state = step(state, batch)
        leaves = tree_leaves(state)
        reached.append([leaves[index] for index in learned])
        return state

    with torch.no_grad():
        losses, end = rollout(recorded, loss, state, batches)
    for leaf in start:
        if losses.shape[1] != 1 and leaf.shape[:1] != losses.shape[1:]:
            raise ValueError(
                f"`state` must lead with the {losses.shape[1]} tasks that have a loss; got a "
                f"learned leaf of {tuple(leaf.shape)}."
            )
    pulled = [_pulled(*pair, start) for pair in zip(losses, reached, strict=True)]
    return torch.stack(pulled), detach(end)


def _pulled(losses: Tensor, reached: list[Tensor], start: list[Tensor]) -> Tensor:
    """The losses of a step, with `start - reached` of each task as their gradient by the start."""
    for leaf, other in zip(start, reached, strict=True):
        zero = (leaf.detach() - other) * (leaf - leaf.detach())
        losses = losses + zero.reshape(len(losses), -1).sum(1).to(losses.dtype)
    return losses
