"""Meta-gradients that cross a step as if it were the identity."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from iai_iterate.interfaces import Loss, Rollout, State, Step
from iai_iterate.modes.truncated import detach
from iai_iterate.rollout import stacked, steady


def first_order(
    step: Step[State], loss: Loss[State], state: State, batches: Iterable[Any]
) -> Rollout[State]:
    """Takes the derivative of a step by its state for the identity: no second ones by the state.

    A step sees its state as a constant. The gradient of a loss by the state that it was taken at
    goes, unchanged, to every state before it and to the start. The work of a step itself keeps its
    gradient by what is shared: learned rates, and of weights in the inner loss the mixed second
    derivative, where the step takes its gradient with `create_graph=True`.

    Args:
        step: `step(state, batch) -> state`.
        loss: `loss(state) -> task`, taken after every step.
        state: The start, any pytree of tensors. Leaves that are not floating are steps' own affair.
            A tensor that stands in it twice is to be cloned for one of the two: a gradient that a
            step takes by a copy of the one would miss the other.
        batches: One minibatch a step.

    Returns:
        The losses, `step task`, with the values of the plain loop; the last state, detached.

    Raises:
        ValueError: If there is no minibatch or `loss` is not one number a task; and what `steady`
            raises.

    Source:
        Finn, Abbeel and Levine (2017), arXiv 1703.03400, section 5.2, where the rate is fixed and
        the loss is the last. Memory still grows with the steps where these have parameters, whose
        graphs are kept.

    >>> start = torch.tensor([1.0], requires_grad=True)
    >>> losses, _ = first_order(lambda w, _: w - 0.5 * w, torch.square, start, range(2))
    >>> losses[:, 0].tolist()  # w is 1/2, then 1/4
    [0.25, 0.0625]
    >>> torch.autograd.grad(losses[1, 0], start)[0].item()  # 2 w, of which unrolled takes a quarter
    0.5
    """
    step, losses = steady(step), []
    for batch in batches:
        state = tree_map(_crossed, step(detach(state), batch), state)
        losses.append(loss(state))
    return stacked(losses), detach(state)


def _crossed(after: Any, before: Any) -> Any:
    if not (isinstance(before, Tensor) and before.is_floating_point()):
        return after
    crossed: Tensor = _Crossing.apply(after, before)  # type: ignore[no-untyped-call]
    return crossed


class _Crossing(torch.autograd.Function):
    """`after + (before - before.detach())`, which would be NaN where a state is not finite."""

    generate_vmap_rule = True

    @staticmethod
    def forward(after: Tensor, before: Tensor) -> Tensor:
        return after.view_as(after)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, gradient
