"""Meta-gradients that are the way from the start to where the steps led."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from iai_iterate.interfaces import Loss, Rollout, State, Step
from iai_iterate.modes.truncated import detach
from iai_iterate.rollout import learns, stacked, steady


def reptile(
    step: Step[State], loss: Loss[State], state: State, batches: Iterable[Any]
) -> Rollout[State]:
    """Pulls the start towards the states that the steps reach; nothing is differentiated.

    The gradient of the k-th loss of a task by the start is `start - state_k` of that task, and by
    anything else there is none: steps and losses are taken without gradients. What is learned of
    the start is kept of every state.

    Args:
        step: `step(state, batch) -> state`. One that takes a gradient itself enables them itself.
        loss: `loss(state) -> task`, taken after every step. It is reported, and pulls nothing.
        state: The start, any pytree of tensors. Those that learn, which require a gradient, lead
            with the axis of tasks; where there is one task, they are of any shape.
        batches: One minibatch a step.

    Returns:
        The losses, `step task`, with the values of the plain loop; the last state, detached.

    Raises:
        ValueError: If there is no minibatch, `loss` is not one number a task, or a learned leaf
            does not lead with the tasks; and what `steady` raises.

    Source:
        Nichol, Achiam and Schulman (2018), arXiv 1803.02999: descent at rate epsilon on the mean of
        the last losses over the tasks is their batched update, `start + epsilon mean(state_K -
        start)`. They divide by the inner rate for Adam, to which a scale is nothing.

    >>> start = torch.tensor([1.0], requires_grad=True)
    >>> losses, _ = reptile(lambda w, _: w - 0.5 * w, torch.square, start, range(2))
    >>> losses[:, 0].tolist()  # w is 1/2, then 1/4
    [0.25, 0.0625]
    >>> torch.autograd.grad(losses[1, 0], start)[0].item()  # 1 - 1/4
    0.75
    """
    step, losses, reached = steady(step), [], []
    learned = [index for index, leaf in enumerate(tree_leaves(state)) if learns(leaf)]
    start = [tree_leaves(state)[index] for index in learned]
    for batch in batches:
        with torch.no_grad():
            state = step(state, batch)
            losses.append(loss(state))
        reached += [tree_leaves(state)[index] for index in learned]
    values = stacked(losses)
    _check_lead(start, values.shape[1])
    pulling: Tensor = _Pull.apply(values, len(start), *start, *reached)  # type: ignore[no-untyped-call]
    return pulling, detach(state)


def _check_lead(start: list[Tensor], num_tasks: int) -> None:
    for leaf in start:
        if num_tasks != 1 and leaf.shape[:1] != (num_tasks,):
            raise ValueError(
                f"`state` must lead with the {num_tasks} tasks that have a loss; got a learned "
                f"leaf of {tuple(leaf.shape)}."
            )


class _Pull(torch.autograd.Function):
    """The losses, with `start - state` of each task as their gradient by the start."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, num_leaves: int, *leaves: Tensor) -> Tensor:
        ctx.num_leaves = num_leaves
        ctx.save_for_backward(*leaves)
        return values.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        leaves, number = ctx.saved_tensors, ctx.num_leaves
        start, reached = leaves[:number], leaves[number:]
        pulls = [torch.zeros_like(leaf) for leaf in start]
        for index, state in enumerate(reached):
            old, pull = start[index % number], pulls[index % number]
            weight = gradient[index // number].to(old.dtype)
            weight = weight.reshape(-1, *[1] * (old.dim() - 1)) if old.dim() else weight[0]
            pull.addcmul_(weight, old - state)
        return None, None, *pulls, *[None] * len(reached)
