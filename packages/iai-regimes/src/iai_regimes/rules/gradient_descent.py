"""Gradient descent as a rule, with rates that are fixed or learned."""

from jaxtyping import Float
from torch import Tensor, nn

from iai_regimes.check import check_positive
from iai_regimes.evidence import Evidence
from iai_regimes.gradient import gradient_at
from iai_regimes.gradient_rule import DescentRule
from iai_regimes.interfaces import Objective, Theta
from iai_regimes.ravel import task_zeros
from iai_regimes.rules.coefficient import Coefficient, Coefficients


class GradientDescent(nn.Module, DescentRule):
    """theta - rate * gradient of the minibatch's loss: the inner loop of MAML and its family.

    A task without an observed example in the minibatch stays as it is. Outer gradients flow to
    theta, through the gradient to what the tasks share, and to the rate where it is learned.

    Args:
        rate: Length of a step: a number; a tensor of the shape (), or (step,) with the last number
            for all later steps; or a tensor for each adapted parameter, under its name and with its
            shape, such as `predictor.full(0.1)`. An `nn.Parameter` is learned, any other tensor is
            a constant. Rates start at 0 or above; learning may take them below.
        differentiate_gradient: Whether outer gradients flow through the gradient; if not, they pass
            each step as if it were a shift by a constant (first-order).

    Raises:
        ValueError: If a rate is not finite or below 0, or a tensor of rates has another shape or is
            not floating point.

    Source:
        Finn et al. (2017), arXiv 1703.03400: MAML, and its first-order form. Learned rates: Li et
        al. (2017), arXiv 1707.09835 (Meta-SGD, one a parameter); Antoniou et al. (2019), arXiv
        1810.09502 (one a step).

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

    def __init__(self, rate: Coefficients, *, differentiate_gradient: bool = True) -> None:
        super().__init__()
        if isinstance(rate, int | float) and rate == 0:
            check_positive(rate=rate)
        self.rate = Coefficient("rate", rate, by_step=True)
        self.differentiate_gradient = differentiate_gradient

    def start(self, theta: Theta) -> Float[Tensor, " task"]:
        """The number of steps taken: none.

        Raises:
            ValueError: If `rate` does not fit theta.
        """
        self.rate.check(theta)
        return task_zeros(theta)

    def step(
        self,
        theta: Theta,
        carry: Float[Tensor, " task"],
        evidence: Evidence,
        objective: Objective,
    ) -> tuple[Theta, Float[Tensor, " task"]]:
        """One step down; gradients flow as the class says."""
        moving = evidence.informed.to(carry.dtype)  # a rate of 0 keeps a task where it is
        # The gradient of -rate * loss is the step: no product as large as theta is formed.
        scale = -moving if self.rate.attributes else -self.rate.of_tasks(carry) * moving
        change = gradient_at(
            objective, theta, differentiate=self.differentiate_gradient, scale=scale
        )
        if self.rate.attributes:
            change = {name: self.rate.of(name) * value for name, value in change.items()}
        return {name: value + change[name] for name, value in theta.items()}, carry + moving
