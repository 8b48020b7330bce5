"""Adam as a rule: the update that learned ones are measured against."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from iai_regimes.evidence import moved_where
from iai_regimes.gradient import gradient_at
from iai_regimes.interfaces import Examples, Objective


class AdamCarry(NamedTuple):
    """Adam's running means, for each task by itself."""

    mean: Float[Tensor, "task p"]
    square: Float[Tensor, "task p"]
    steps: Float[Tensor, " task"]


class Adam:
    """Moves theta by Adam on each minibatch's loss; tasks do not share anything.

    A task without an observed example in the minibatch stays as it is.

    Args:
        learning_rate: Length of a step.
        betas: Decay of the running means of the gradient and of its square.
        epsilon: Added to the denominator.
        differentiate_gradient: Whether outer gradients flow through the gradient; by default it is
            a constant.

    Raises:
        ValueError: If a number is out of range.

    Source:
        Kingma and Ba (2015), arXiv 1412.6980, algorithm 1.
    """

    def __init__(
        self,
        learning_rate: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
        differentiate_gradient: bool = False,
    ) -> None:
        if not learning_rate > 0:
            raise ValueError(f"`learning_rate` must be above 0; got {learning_rate}.")
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"`betas` must lie in 0..1, below 1; got {betas}.")
        if not epsilon > 0:
            raise ValueError(f"`epsilon` must be above 0; got {epsilon}.")
        self.learning_rate, self.betas, self.epsilon = learning_rate, betas, epsilon
        self.differentiate_gradient = differentiate_gradient

    def start(self, theta: Float[Tensor, "task p"]) -> AdamCarry:
        """Running means of nothing."""
        zeros = torch.zeros_like(theta)
        return AdamCarry(zeros, zeros, theta.new_zeros(theta.shape[0]))

    def encode(self, batch: Examples) -> Float[Tensor, " task"]:
        """How many examples each task has in the minibatch."""
        return batch.mask.sum(1).to(batch.x.dtype)

    def step(
        self,
        theta: Float[Tensor, "task p"],
        carry: AdamCarry,
        evidence: Float[Tensor, " task"],
        objective: Objective,
        seen: Float[Tensor, " task"],
        fresh: bool,
    ) -> tuple[Float[Tensor, "task p"], AdamCarry]:
        """One step; gradients flow to theta and, where asked for, through the gradient."""
        gradient = gradient_at(objective, theta, differentiate=self.differentiate_gradient)
        decay, decay_square = self.betas
        moved = AdamCarry(
            decay * carry.mean + (1 - decay) * gradient,
            decay_square * carry.square + (1 - decay_square) * gradient.square(),
            carry.steps + 1,
        )
        steps = moved.steps[:, None]
        mean = moved.mean / (1 - decay**steps)
        square = moved.square / (1 - decay_square**steps)
        # A root has no derivative at zero: there it is taken of 1, and is a constant 0.
        zero = square == 0
        root = square.masked_fill(zero, 1.0).sqrt().masked_fill(zero, 0.0)
        target = theta - self.learning_rate * mean / (root + self.epsilon)
        theta, carry = moved_where(evidence > 0, (target, moved), (theta, carry))
        return theta, carry

    def residual(
        self, theta: Float[Tensor, "task p"], carry: AdamCarry, objective: Objective
    ) -> Float[Tensor, "task p"]:
        """The gradient, which is zero at a solution."""
        return gradient_at(objective, theta, differentiate=True)
