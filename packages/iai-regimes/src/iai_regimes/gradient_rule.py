"""Rules whose residual is the gradient of the minibatch's loss, and those made of one gradient."""

from abc import ABC, abstractmethod
from typing import Any

from torch import nn

from iai_regimes.evidence import Evidence, moved_where
from iai_regimes.gradient import gradient_at
from iai_regimes.interfaces import Examples, Objective, Theta


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
    """A step that is made of one gradient: write `start` and `move`.

    A task without an observed example in the minibatch keeps its theta and its carry, whatever
    `move` makes of them.

    Args:
        differentiate_gradient: Whether outer gradients flow through the gradient; if not, it is a
            constant. They flow through theta and the carry in any case.

    >>> import torch
    >>> class SignDescent(GradientRule):
    ...     def start(self, theta):
    ...         return ()
    ...     def move(self, theta, carry, gradient, evidence):
    ...         signs = {name: g.sign() for name, g in gradient.items()}
    ...         return {name: w - 0.5 * signs[name] for name, w in theta.items()}, carry
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
    def move(
        self, theta: Theta, carry: Any, gradient: Theta, evidence: Evidence
    ) -> tuple[Theta, Any]:
        """Theta and the carry after the step that the gradient asks for.

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
        moved = self.move(theta, carry, gradient, evidence)
        if not (isinstance(moved, tuple) and len(moved) == 2):
            raise TypeError(f"`move` must return theta and the carry; got {type(moved).__name__}.")
        theta, carry = moved_where(evidence.informed, moved, (theta, carry))
        return theta, carry
