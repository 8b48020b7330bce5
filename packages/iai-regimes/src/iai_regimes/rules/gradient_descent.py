"""Gradient descent as a rule, with rates that are fixed or learned, and momentum."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from iai_regimes.evidence import Evidence
from iai_regimes.gradient import gradient_at
from iai_regimes.gradient_rule import DescentRule, Move
from iai_regimes.interfaces import Objective, Theta
from iai_regimes.ravel import task_zeros
from iai_regimes.rules.coefficient import Coefficient, Coefficients


class DescentCarry(NamedTuple):
    """What gradient descent remembers of each task."""

    momentum: Theta  # empty without momentum
    steps: Float[Tensor, " task"]


class GradientDescent(nn.Module, DescentRule):
    """theta - rate * gradient of the minibatch's loss: the inner loop of MAML and its family.

    A task without an observed example in the minibatch stays as it is. Outer gradients flow to
    theta, through the gradient to what the tasks share, and to the rate where it is learned.

    Args:
        rate: Length of a step: a number, a tensor of the shape () or (step,), or a tensor for each
            adapted parameter under its name, `*shape` or `step *shape`, such as
            `predictor.full(0.1)`. The last row serves all later steps. An `nn.Parameter` is
            learned, and any other tensor is a constant. Rates start at 0 or above; learning may
            take them below.
        momentum: Decay of the running sum of gradients that a step follows.
        differentiate_gradient: Whether outer gradients flow through the gradient; if not, they pass
            each step as if it were a shift by a constant (first-order).

    Raises:
        ValueError: If a number is not finite or out of range, or a tensor of `rate` has another
            shape or is not floating point.

    Source:
        Finn et al. (2017), arXiv 1703.03400: MAML, and its first-order form. Learned rates: Li et
        al. (2017), arXiv 1707.09835 (Meta-SGD, one a parameter); Antoniou et al. (2019), arXiv
        1810.09502 (one a step). Momentum as in `torch.optim.SGD`.

    >>> import torch
    >>> class Quadratic:
    ...     shared = False
    ...     def loss(self, theta):
    ...         return 0.5 * theta["w"].square().sum(-1)
    ...     def residual(self, theta):
    ...         return theta["w"][:, None]
    >>> rule, theta = GradientDescent(0.25), {"w": torch.tensor([[4.0]])}
    >>> told = Evidence((), torch.ones(1), torch.zeros(1), True)
    >>> rule.step(theta, rule.start(theta), told, Quadratic())[0]
    {'w': tensor([[3.]])}
    """

    def __init__(
        self, rate: Coefficients, *, momentum: float = 0.0, differentiate_gradient: bool = True
    ) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise ValueError(f"`momentum` must lie in 0..1, below 1; got {momentum}.")
        self.rate, self.momentum = Coefficient("rate", rate, by_step=True), momentum
        self.differentiate_gradient = differentiate_gradient

    def start(self, theta: Theta) -> DescentCarry:
        """No momentum and no step yet.

        Raises:
            ValueError: If `rate` does not fit theta.
        """
        self.rate.check(theta)
        moving = theta if self.momentum else {}
        momentum = {name: value.new_zeros(value.shape) for name, value in moving.items()}
        return DescentCarry(momentum, task_zeros(theta))

    def move(self, theta: Theta, carry: DescentCarry, gradient: Theta, evidence: Evidence) -> Move:
        """Along the gradient, or the running sum of gradients."""
        rate = {name: self.rate.at(name, value, carry.steps) for name, value in theta.items()}
        momentum = {
            name: self.momentum * value + gradient[name] for name, value in carry.momentum.items()
        }
        return Move(rate, momentum or gradient, DescentCarry(momentum, carry.steps + 1))

    def step(
        self, theta: Theta, carry: DescentCarry, evidence: Evidence, objective: Objective
    ) -> tuple[Theta, DescentCarry]:
        """One step down; gradients flow as the class says."""
        differentiate = self.differentiate_gradient
        if self.momentum or self.rate.named:
            gradient = gradient_at(objective, theta, differentiate=differentiate)
            return self.move(theta, carry, gradient, evidence).take(theta, carry, evidence)
        # The step is the gradient of -rate * loss: nothing as large as theta is multiplied.
        moving = evidence.informed.to(carry.steps.dtype)
        scale = -self.rate.of_tasks(carry.steps) * moving
        change = gradient_at(objective, theta, differentiate=differentiate, scale=scale)
        moved = {name: value + change[name] for name, value in theta.items()}
        return moved, DescentCarry({}, carry.steps + moving)
