"""A rule repeated on each minibatch until it has nothing left to do."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iai_regimes.check import check_solver
from iai_regimes.evidence import moved_where
from iai_regimes.interfaces import Examples, Objective, Solver


class ConvergedCarry(NamedTuple):
    """The wrapped rule's carry, and how its last minibatch went."""

    inner: Any
    residual: Float[Tensor, " task"]  # its norm at theta; a constant; 0 before any minibatch
    steps: Float[Tensor, " task"]  # taken on the last minibatch; `max_steps`: it may not have ended


class ConvergedEvidence(NamedTuple):
    """What the wrapped rule makes of a minibatch, and how many examples it has."""

    inner: Any
    num_observed: Float[Tensor, " task"]


class UntilConverged(nn.Module):
    """Repeats a rule on the same minibatch until the norm of its residual is small, task by task.

    A task that is done stays where it is while others go on: it ends where it would alone. Outer
    gradients flow through every step that was taken; the norm is a constant. Before each step the
    residual is computed, for gradient descent a second gradient, and whether all tasks are done is
    read, which waits for the device.

    Args:
        rule: What is repeated.
        tolerance: Norm of the residual at which a task is done.
        max_steps: Most steps on a minibatch. A task that took them all may not be done: the carry
            has its steps and its residual.

    Raises:
        ValueError: If `tolerance` is not above 0 or `max_steps` is below 1.
        TypeError: If `rule` has no residual.

    >>> from iai_regimes import GradientDescent
    >>> class Quadratic:
    ...     shared = False
    ...     def loss(self, theta):
    ...         return 0.5 * theta.square().sum(-1)
    ...     def residual(self, theta):
    ...         return theta[:, None]
    >>> rule = UntilConverged(GradientDescent(0.5), tolerance=1.0, max_steps=9)
    >>> theta = torch.tensor([[4.0], [1.0]])
    >>> evidence = ConvergedEvidence(torch.ones(2), torch.ones(2))
    >>> carry = rule.start(theta)
    >>> theta, carry = rule.step(theta, carry, evidence, Quadratic(), torch.zeros(2), True)
    >>> theta.tolist(), carry.steps.tolist(), carry.residual.tolist()
    ([[1.0], [1.0]], [2.0, 0.0], [1.0, 1.0])
    """

    def __init__(self, rule: Solver, *, tolerance: float, max_steps: int) -> None:
        super().__init__()
        check_solver(rule)
        if not tolerance > 0:
            raise ValueError(f"`tolerance` must be above 0; got {tolerance}.")
        if max_steps < 1:
            raise ValueError(f"`max_steps` must be at least 1; got {max_steps}.")
        self.rule, self.tolerance, self.max_steps = rule, tolerance, max_steps

    def start(self, theta: Float[Tensor, "task p"]) -> ConvergedCarry:
        """The rule's own start."""
        zeros = theta.new_zeros(theta.shape[0])
        return ConvergedCarry(self.rule.start(theta), zeros, zeros)

    def encode(self, batch: Examples) -> ConvergedEvidence:
        """What the rule makes of the minibatch."""
        return ConvergedEvidence(self.rule.encode(batch), batch.mask.sum(1).to(batch.x.dtype))

    def step(
        self,
        theta: Float[Tensor, "task p"],
        carry: ConvergedCarry,
        evidence: ConvergedEvidence,
        objective: Objective,
        seen: Float[Tensor, " task"],
        fresh: bool,
    ) -> tuple[Float[Tensor, "task p"], ConvergedCarry]:
        """As many of the rule's steps as each task needs."""
        inner, informed = carry.inner, evidence.num_observed > 0
        steps = torch.zeros_like(carry.steps)
        norm = self._norm(theta, inner, objective)
        for _ in range(self.max_steps):
            going = informed & ~(norm <= self.tolerance)  # what is NaN is not done
            if not bool(going.any()):
                break
            moved = self.rule.step(theta, inner, evidence.inner, objective, seen, fresh)
            theta, inner = moved_where(going, moved, (theta, inner))
            steps = steps + going
            norm = self._norm(theta, inner, objective)
            if fresh:  # from the second step on, the examples were read before
                seen, fresh = seen + evidence.num_observed, False
        ended = moved_where(informed, (norm, steps), (carry.residual, carry.steps))
        return theta, ConvergedCarry(inner, *ended)

    def residual(
        self, theta: Float[Tensor, "task p"], carry: ConvergedCarry, objective: Objective
    ) -> Float[Tensor, "task p"]:
        """The rule's own residual."""
        return self.rule.residual(theta, carry.inner, objective)

    def _norm(self, theta: Tensor, inner: Any, objective: Objective) -> Tensor:
        with torch.no_grad():
            norm: Tensor = self.rule.residual(theta, inner, objective).norm(dim=-1)
        return norm
