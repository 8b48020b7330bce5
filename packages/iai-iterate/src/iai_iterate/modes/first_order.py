"""Meta-gradients that cross a step as if its derivative by the state were the identity."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from iai_iterate.interfaces import Loss, Rollout, State, Step
from iai_iterate.rollout import detach, rollout
from iai_iterate.steady import steady
from iai_iterate.tree import mapped


def first_order(
    step: Step[State], loss: Loss[State], state: State, batches: Iterable[Any]
) -> Rollout[State]:
    """Replaces d step / d state by the identity, as first-order MAML does.

    A step is given its state detached. The gradient of a loss by the state that it was taken at
    goes, unchanged, to every earlier state and to the start. Weights that
    steps share, such as learned rates, have their usual gradient from each step. So have weights in
    the inner loss, by the mixed second derivative, where the step takes its gradient with
    `create_graph=True`.

    Args:
        step: `step(state, batch) -> state`.
        loss: `loss(state) -> task`, taken after every step.
        state: The start, any pytree of tensors; only floating ones pass a gradient on. If
            one tensor appears twice in the state, clone one of them; otherwise a step's gradient
            covers only one of the two.
        batches: One minibatch a step.

    Returns:
        The losses, `step task`, with the values of the plain loop; the last state, detached.

    Raises:
        ValueError: If there is no minibatch or `loss` is not one number a task; and what `steady`
            raises.

    Source:
        Finn, Abbeel and Levine (2017), arXiv 1703.03400, section 5.2, where the rate is fixed and
        the loss is the last. Memory grows with the steps only where steps share learned parameters.

    >>> start = torch.tensor([1.0], requires_grad=True)
    >>> losses, _ = first_order(lambda w, _: w - 0.5 * w, torch.square, start, range(2))
    >>> losses[:, 0].tolist()  # w is 1/2, then 1/4
    [0.25, 0.0625]
    >>> torch.autograd.grad(losses[1, 0], start)[0].item()  # 2 w, of which unrolled takes a quarter
    0.5
    """
    step = steady(step)

    def crossed(state: State, batch: Any) -> State:
        after: State = mapped(_crossed, step(detach(state), batch), state)
        return after

    return rollout(crossed, loss, state, batches)


def _crossed(after: Any, before: Any) -> Any:
    if not (isinstance(before, Tensor) and before.is_floating_point()):
        return after
    crossed: Tensor = _Crossing.apply(after, before)  # type: ignore[no-untyped-call]
    return crossed


class _Crossing(torch.autograd.Function):
    """`after + (before - before.detach())`, but not NaN where a state is infinite."""

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
