"""The directions that a learned rule may take down the loss of a minibatch."""

from abc import ABC, abstractmethod
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from iai_regimes.evidence import Evidence
from iai_regimes.gradient import gradient_at
from iai_regimes.interfaces import Objective, Theta
from iai_regimes.ravel import ravel


class Slope(nn.Module, ABC):
    """Directions made of a minibatch's loss, along which a learned rule moves theta.

    `initial_rates` holds one number for each direction: the value at which the rule's learned rates
    along it start.
    """

    initial_rates: tuple[float, ...]

    @abstractmethod
    def start(self, theta: Theta) -> Any:
        """The memory before the first minibatch: a pytree of tensors, each led by the task axis."""

    @abstractmethod
    def directions(
        self,
        theta: Theta,
        memory: Any,
        evidence: Evidence,
        objective: Objective,
        share: Float[Tensor, " task"],
    ) -> tuple[list[Float[Tensor, "task p"]], Any]:
        """The directions at theta, raveled and pointing uphill, and the updated memory.

        Args:
            theta: The adapted parameters of each task.
            memory: What `start`, or the step before, gave.
            evidence: The examples that are seen; `evidence.encoded` holds the minibatch's inputs
                `x`, zeros where not observed, and its `mask`.
            objective: The loss on the minibatch.
            share: What the rule multiplies the directions by, beside its learned rates: the gain in
                the annealed form, else 1.

        Raises:
            ValueError: In inference mode.
        """


class Gradient(Slope):
    """The gradient of the minibatch's mean loss: the signal of the paper.

    Its rates start at 0: before training, the rule does not move. Use it in place of `Newton` for a
    predictor without second derivatives.

    Args:
        differentiate: Whether outer gradients flow through the gradient, as in MAML; by default it
            is a constant.

    Source:
        Mittal et al. (2025), arXiv 2510.11471.
    """

    initial_rates = (0.0,)

    def __init__(self, *, differentiate: bool = False) -> None:
        super().__init__()
        self.differentiate = differentiate

    def start(self, theta: Theta) -> tuple[()]:
        """No memory."""
        return ()

    def directions(
        self,
        theta: Theta,
        memory: tuple[()],
        evidence: Evidence,
        objective: Objective,
        share: Float[Tensor, " task"],
    ) -> tuple[list[Float[Tensor, "task p"]], tuple[()]]:
        """The gradient."""
        gradient = gradient_at(objective, theta, differentiate=self.differentiate)
        return [ravel(gradient)], memory
