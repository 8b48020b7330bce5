"""Rules that read one gradient of the minibatch's loss at theta, and nothing else."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from iai_regimes.evidence import Evidence, moved_where, spread
from iai_regimes.gradient import gradient_at
from iai_regimes.interfaces import Examples, Objective, Rule, Theta


class Move(NamedTuple):
    """A step theta - rate * direction, and what the rule carries afterwards."""

    rate: float | Mapping[str, float | Tensor]  # by name: each broadcasts with `task *shape`
    direction: Theta
    carry: Any

    def take(self, theta: Theta, carry: Any, evidence: Evidence) -> tuple[Theta, Any]:
        """Theta and the carry after the step, for the tasks with an observed example.

        The other tasks keep theirs, whatever finite step this is.
        """
        moved = {}
        for name, value in theta.items():
            # A rate of 0 keeps a task where it is; to choose afterwards would copy theta once more.
            moving = spread(evidence.informed, value).to(value.dtype)
            rate = self.rate[name] if isinstance(self.rate, Mapping) else self.rate
            moved[name] = torch.addcmul(value, rate * moving, self.direction[name], value=-1)
        return moved, moved_where(evidence.informed, self.carry, carry)


@runtime_checkable
class GradientMover(Rule, Protocol):
    """A rule that can move theta by a gradient that is handed to it."""

    def move(self, theta: Theta, carry: Any, gradient: Theta, evidence: Evidence) -> Move:
        """The step that the gradient asks for."""


class DescentRule(ABC):
    """A rule that is done where the gradient of the minibatch's loss is zero: a `Solver`."""

    @abstractmethod
    def start(self, theta: Theta) -> Any:
        """What the rule carries before the first step: a pytree of tensors led by the tasks."""

    @abstractmethod
    def step(
        self, theta: Theta, carry: Any, evidence: Evidence, objective: Objective
    ) -> tuple[Theta, Any]:
        """Moves theta and what the rule carries by one minibatch."""

    def encode(self, batch: Examples) -> tuple[()]:
        """Nothing: the rule reads examples through the loss alone."""
        return ()

    def residual(self, theta: Theta, carry: Any, objective: Objective) -> Theta:
        """The gradient: zero where no step leads anywhere."""
        return gradient_at(objective, theta, differentiate=True)


class GradientRule(nn.Module, DescentRule):
    """A step theta - rate * direction that is made of one gradient: write `start` and `move`.

    A task without an observed example in the minibatch keeps its theta and its carry, whatever
    finite step `move` gives it.

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
    >>> evidence = Evidence((), torch.ones(1), torch.zeros(1), True)
    >>> rule.step(theta, rule.start(theta), evidence, Linear())
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
        return self.move(theta, carry, gradient, evidence).take(theta, carry, evidence)
