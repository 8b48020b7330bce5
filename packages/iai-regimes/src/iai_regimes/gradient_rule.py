"""Rules that read one gradient of the minibatch's loss at theta, and nothing else."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from iai_regimes.evidence import Evidence, moved_where, spread
from iai_regimes.gradient import gradient_at
from iai_regimes.interfaces import Examples, Objective, Theta


class Move(NamedTuple):
    """theta <- theta - rate * direction, and what the rule remembers afterwards."""

    rate: float | Mapping[str, Tensor]  # by name: each broadcasts with `task *shape`
    direction: Theta
    carry: Any


class DescentRule(ABC):
    """A rule that is done where the gradient of the minibatch's loss is zero: a `Solver`."""

    @abstractmethod
    def start(self, theta: Theta) -> Any:
        """What the rule remembers before the first step: a pytree of tensors led by the tasks."""

    @abstractmethod
    def step(
        self, theta: Theta, carry: Any, evidence: Evidence, objective: Objective
    ) -> tuple[Theta, Any]:
        """Moves theta and what the rule remembers by one minibatch."""

    def encode(self, batch: Examples) -> tuple[()]:
        """Nothing: the rule reads examples through the loss alone."""
        return ()

    def residual(self, theta: Theta, carry: Any, objective: Objective) -> Theta:
        """The gradient: zero where no step leads anywhere."""
        return gradient_at(objective, theta, differentiate=True)


class GradientRule(nn.Module, DescentRule):
    """A step theta - rate * direction that is made of one gradient.

    Write `start` and `move`. A task without an observed example in the minibatch keeps its theta
    and its carry, whatever finite step `move` gives it.

    Args:
        differentiate_gradient: Whether outer gradients flow through the gradient; if not, it is a
            constant. They flow through theta and the carry in any case.

    >>> class SignDescent(GradientRule):
    ...     def start(self, theta):
    ...         return ()
    ...     def move(self, theta, carry, gradient, evidence):
    ...         return Move(0.5, {name: g.sign() for name, g in gradient.items()}, carry)
    >>> class Linear:
    ...     shared = False
    ...     def loss(self, theta):
    ...         return (theta["w"] * torch.tensor([2.0, -3.0])).sum(-1)
    ...     def residual(self, theta):
    ...         return theta["w"][:, None]
    >>> rule, theta = SignDescent(differentiate_gradient=False), {"w": torch.zeros(1, 2)}
    >>> told = Evidence(None, torch.ones(1), torch.zeros(1), True)
    >>> rule.step(theta, rule.start(theta), told, Linear())
    ({'w': tensor([[-0.5000,  0.5000]])}, ())
    """

    def __init__(self, *, differentiate_gradient: bool) -> None:
        super().__init__()
        self.differentiate_gradient = differentiate_gradient

    @abstractmethod
    def move(self, theta: Theta, carry: Any, gradient: Theta, evidence: Evidence) -> Move:
        """The step that the gradient asks for.

        Args:
            theta: The adapted parameters of each task.
            carry: What `start`, or the step before, gave.
            gradient: Of each task's loss on the minibatch at `theta`.
            evidence: How many examples the minibatch has, and how many were seen before.
        """

    def step(
        self, theta: Theta, carry: Any, evidence: Evidence, objective: Objective
    ) -> tuple[Theta, Any]:
        """One step; gradients flow to theta, to the carry and to what the rule learns."""
        gradient = gradient_at(objective, theta, differentiate=self.differentiate_gradient)
        move = self.move(theta, carry, gradient, evidence)
        # A rate of 0 keeps a task where it is; to choose afterwards would copy theta once more.
        moving = evidence.informed.to(evidence.seen.dtype)
        if not isinstance(move.rate, Mapping):
            moving = move.rate * moving
        moved = {}
        for name, value in theta.items():
            rate = spread(moving, value)
            if isinstance(move.rate, Mapping):
                rate = move.rate[name] * rate
            moved[name] = torch.addcmul(value, rate, move.direction[name], value=-1)
        return moved, moved_where(evidence.informed, move.carry, carry)
