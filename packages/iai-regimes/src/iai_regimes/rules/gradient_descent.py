"""Gradient descent as a rule, with rates that are fixed or learned, and momentum."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iai_regimes.check import check_numbers
from iai_regimes.gradient import gradient_at
from iai_regimes.interfaces import Examples, Objective


class DescentCarry(NamedTuple):
    """What gradient descent remembers of each task."""

    momentum: Float[Tensor, "task velocity"]  # no column without momentum
    steps: Float[Tensor, " task"]


class GradientDescent(nn.Module):
    """theta - rate * gradient of the minibatch's loss: the inner loop of MAML and its family.

    A task without an observed example in the minibatch stays as it is. Outer gradients flow to
    theta, through the gradient to what the tasks share, and to the rate where it is learned.

    Args:
        rate: Length of a step. A number, or a tensor of the shape (), (p,) (one for each adapted
            number), (step, 1) or (step, p) (one row a step; the last row serves all later ones). An
            `nn.Parameter` is learned, and any other tensor is as constant as it is. A number is
            above 0 and a tensor starts at 0 or above; learning may take it below.
        momentum: Decay of the running sum of gradients that a step follows.
        differentiate_gradient: Whether outer gradients flow through the gradient; if not, they pass
            each step as if it were a shift by a constant (first-order).

    Raises:
        ValueError: If a number is not finite or out of range, or `rate` has another shape or is no
            floating-point tensor.

    Source:
        Finn et al. (2017), arXiv 1703.03400: MAML, and its first-order form. Learned rates: Li et
        al. (2017), arXiv 1707.09835 (Meta-SGD, one a parameter); Antoniou et al. (2019), arXiv
        1810.09502 (one a step). Momentum as in `torch.optim.SGD`.

    >>> class Quadratic:
    ...     shared = False
    ...     def loss(self, theta):
    ...         return 0.5 * theta.square().sum(-1)
    ...     def residual(self, theta):
    ...         return theta[:, None]
    >>> rule, theta, informed = GradientDescent(0.25), torch.tensor([[4.0]]), torch.ones(1)
    >>> rule.step(theta, rule.start(theta), informed, Quadratic(), torch.zeros(1), True)[0].item()
    3.0
    """

    def __init__(
        self, rate: float | Tensor, *, momentum: float = 0.0, differentiate_gradient: bool = True
    ) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise ValueError(f"`momentum` must lie in 0..1, below 1; got {momentum}.")
        if isinstance(rate, Tensor):
            check_numbers("rate", rate)
        self.rate: float | Tensor
        if isinstance(rate, nn.Parameter):
            self.rate = rate
        elif isinstance(rate, Tensor):
            self.register_buffer("rate", rate)
        else:
            if not 0 < rate < math.inf:
                raise ValueError(f"`rate` must be finite and above 0; got {rate}.")
            self.rate = rate
        if isinstance(rate, Tensor) and (rate.dim() > 2 or not rate.numel()):
            raise ValueError(
                "`rate` must have the shape (), (p,), (step, 1) or (step, p); "
                f"got {tuple(rate.shape)}."
            )
        self.momentum, self.differentiate_gradient = momentum, differentiate_gradient

    def start(self, theta: Float[Tensor, "task p"]) -> DescentCarry:
        """No momentum and no step yet.

        Raises:
            ValueError: If `rate` does not fit theta.
        """
        num_tasks, size = theta.shape
        shape = tuple(self.rate.shape) if isinstance(self.rate, Tensor) else ()
        if len(shape) and shape[-1] != size and (len(shape) == 1 or shape[-1] != 1):
            raise ValueError(
                f"`rate` must have the shape (), ({size},), (step, 1) or (step, {size}); "
                f"got {shape}."
            )
        columns = size if self.momentum else 0
        return DescentCarry(theta.new_zeros(num_tasks, columns), theta.new_zeros(num_tasks))

    def encode(self, batch: Examples) -> Float[Tensor, " task"]:
        """1 for a task with an observed example in the minibatch, else 0."""
        return batch.mask.any(1).to(batch.x.dtype)

    def step(
        self,
        theta: Float[Tensor, "task p"],
        carry: DescentCarry,
        evidence: Float[Tensor, " task"],
        objective: Objective,
        seen: Float[Tensor, " task"],
        fresh: bool,
    ) -> tuple[Float[Tensor, "task p"], DescentCarry]:
        """One step down; gradients flow as the class says."""
        informed = evidence[:, None]
        direction = gradient_at(objective, theta, differentiate=self.differentiate_gradient)
        momentum = carry.momentum
        if self.momentum:
            summed = self.momentum * momentum + direction
            momentum = direction = torch.where(informed > 0, summed, momentum)
        # A factor of 0 keeps a task in place; of 1, it changes no rate.
        rate = self._rate(carry.steps) * informed
        moved = torch.addcmul(theta, rate, direction, value=-1)
        return moved, DescentCarry(momentum, carry.steps + evidence)

    def residual(
        self, theta: Float[Tensor, "task p"], carry: DescentCarry, objective: Objective
    ) -> Float[Tensor, "task p"]:
        """The gradient: zero where no step, whatever its rate, leads anywhere."""
        return gradient_at(objective, theta, differentiate=True)

    def _rate(self, steps: Tensor) -> float | Tensor:
        if not isinstance(self.rate, Tensor) or self.rate.dim() < 2:
            return self.rate
        return self.rate[steps.long().clamp(max=len(self.rate) - 1)]
