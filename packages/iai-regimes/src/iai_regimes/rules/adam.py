"""Adam as a rule: the update that learned ones are measured against."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from iai_regimes.evidence import Evidence
from iai_regimes.gradient_rule import GradientRule, Move
from iai_regimes.interfaces import Theta
from iai_regimes.ravel import task_zeros


class AdamCarry(NamedTuple):
    """Adam's running means, for each task by itself."""

    mean: Theta
    square: Theta
    steps: Float[Tensor, " task"]


class Adam(GradientRule):
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
        super().__init__(differentiate_gradient=differentiate_gradient)
        if not learning_rate > 0:
            raise ValueError(f"`learning_rate` must be above 0; got {learning_rate}.")
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"`betas` must lie in 0..1, below 1; got {betas}.")
        if not epsilon > 0:
            raise ValueError(f"`epsilon` must be above 0; got {epsilon}.")
        self.learning_rate, self.betas, self.epsilon = learning_rate, betas, epsilon

    def start(self, theta: Theta) -> AdamCarry:
        """Running means of nothing."""
        zeros = {name: torch.zeros_like(value) for name, value in theta.items()}
        return AdamCarry(zeros, zeros, task_zeros(theta))

    def move(self, theta: Theta, carry: AdamCarry, gradient: Theta, evidence: Evidence) -> Move:
        """Along mean / (sqrt(square) + epsilon), both means corrected for their start at 0."""
        decay, decay_square = self.betas
        mean, square, direction = {}, {}, {}
        steps = carry.steps + 1
        for name, g in gradient.items():
            mean[name] = decay * carry.mean[name] + (1 - decay) * g
            square[name] = decay_square * carry.square[name] + (1 - decay_square) * g.square()
            age = steps.reshape(-1, *[1] * (g.dim() - 1))
            corrected = square[name] / (1 - decay_square**age)
            # A root has no derivative at zero: there it is taken of 1, and is a constant 0.
            zero = corrected == 0
            root = corrected.masked_fill(zero, 1.0).sqrt().masked_fill(zero, 0.0)
            direction[name] = mean[name] / (1 - decay**age) / (root + self.epsilon)
        return Move(self.learning_rate, direction, AdamCarry(mean, square, steps))
