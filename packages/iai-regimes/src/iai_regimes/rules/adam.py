"""Adam as a rule, the baseline of learned ones."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from iai_regimes.check import check_positive
from iai_regimes.evidence import Evidence, spread
from iai_regimes.gradient_rule import GradientRule
from iai_regimes.interfaces import Theta
from iai_regimes.ravel import task_zeros

_DECAY, _SQUARE_DECAY, _EPSILON = 0.9, 0.999, 1e-8


class AdamCarry(NamedTuple):
    """Adam's running means, for each task by itself."""

    mean: Theta
    square: Theta
    steps: Float[Tensor, " task"]


class Adam(GradientRule):
    """Moves theta by Adam on each minibatch's loss, for each task by itself.

    A task without an observed example in the minibatch stays as it is.

    Args:
        learning_rate: Length of a step.
        differentiate_gradient: Whether outer gradients flow through the gradient; by default it is
            a constant.

    Raises:
        ValueError: If `learning_rate` is not above 0.

    Source:
        Kingma and Ba (2015), arXiv 1412.6980, algorithm 1, with the constants proposed there.
    """

    def __init__(self, learning_rate: float, *, differentiate_gradient: bool = False) -> None:
        super().__init__(differentiate_gradient=differentiate_gradient)
        check_positive(learning_rate=learning_rate)
        self.learning_rate = learning_rate

    def start(self, theta: Theta) -> AdamCarry:
        """Running means before any gradient: zeros."""
        zeros = {name: torch.zeros_like(value) for name, value in theta.items()}
        return AdamCarry(zeros, zeros, task_zeros(theta))

    def move(
        self, theta: Theta, carry: AdamCarry, gradient: Theta, evidence: Evidence
    ) -> tuple[Theta, AdamCarry]:
        """Along mean / (sqrt(square) + epsilon), both means corrected for their start at 0."""
        new = AdamCarry({}, {}, carry.steps + 1)
        moved: Theta = {}
        for name, g in gradient.items():
            new.mean[name] = _DECAY * carry.mean[name] + (1 - _DECAY) * g
            square = _SQUARE_DECAY * carry.square[name] + (1 - _SQUARE_DECAY) * g.square()
            new.square[name] = square
            steps = spread(new.steps, g)
            square = square / (1 - _SQUARE_DECAY**steps)
            # A root has no derivative at zero: there it is taken of 1, and is a constant 0.
            zero = square == 0
            root = square.masked_fill(zero, 1.0).sqrt().masked_fill(zero, 0.0)
            direction = new.mean[name] / (1 - _DECAY**steps) / (root + _EPSILON)
            moved[name] = theta[name] - self.learning_rate * direction
        return moved, new
