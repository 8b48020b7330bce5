"""A rule that is repeated on each minibatch until it converges."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iai_regimes.check import check_positive, check_sizes, check_solver
from iai_regimes.evidence import Evidence, moved_where, spread
from iai_regimes.gradient import gradient_at
from iai_regimes.interfaces import Examples, Objective, Solver, Theta
from iai_regimes.ravel import task_zeros


class ConvergedCarry(NamedTuple):
    """The wrapped rule's memory, and how it ended on the last minibatch."""

    inner: Any
    residual: Float[Tensor, " task"]  # norm of the residual; a constant; 0 before any minibatch
    steps: Float[Tensor, " task"]  # taken on the last minibatch, `max_steps` at most


class UntilConverged(nn.Module):
    """Repeats a rule on the same minibatch until the norm of its residual is small, task by task.

    A task that has converged stays while others go on, so it ends where it would alone. Outer
    gradients flow through every step; the norm is a constant. If the residual is the gradient at
    theta, the next step does not compute it again. Before each step, the host reads whether all
    tasks have converged, which waits for the device.

    Args:
        rule: The rule that is repeated.
        tolerance: Norm of the residual at which a task has converged.
        max_steps: Most steps on a minibatch. The carry has the number of steps that each task took
            and its residual, which shows whether it has converged.

    Raises:
        ValueError: If `tolerance` is not above 0 or `max_steps` is below 1.
        TypeError: If `rule` has no residual.

    >>> from iai_regimes import GradientDescent
    >>> class Quadratic:
    ...     shared = False
    ...     def loss(self, theta):
    ...         return 0.5 * theta["w"].square().sum(-1)
    ...     def residual(self, theta):
    ...         return theta["w"][:, None]
    >>> rule = UntilConverged(GradientDescent(0.5), tolerance=1.0, max_steps=9)
    >>> theta = {"w": torch.tensor([[4.0], [1.0]])}
    >>> told = Evidence((), torch.ones(2), torch.zeros(2), True)
    >>> theta, carry = rule.step(theta, rule.start(theta), told, Quadratic())
    >>> theta["w"].tolist(), carry.steps.tolist(), carry.residual.tolist()
    ([[1.0], [1.0]], [2.0, 0.0], [1.0, 1.0])
    """

    def __init__(self, rule: Solver, *, tolerance: float, max_steps: int) -> None:
        super().__init__()
        check_solver(rule)
        check_positive(tolerance=tolerance)
        check_sizes(max_steps=max_steps)
        self.rule, self.tolerance, self.max_steps = rule, tolerance, max_steps

    def start(self, theta: Theta) -> ConvergedCarry:
        """The wrapped rule's memory, and no steps."""
        zeros = task_zeros(theta)
        return ConvergedCarry(self.rule.start(theta), zeros, zeros)

    def encode(self, batch: Examples) -> Any:
        """What the wrapped rule makes of the minibatch."""
        return self.rule.encode(batch)

    def step(
        self, theta: Theta, carry: ConvergedCarry, evidence: Evidence, objective: Objective
    ) -> tuple[Theta, ConvergedCarry]:
        """The wrapped rule's steps, as many as each task needs."""
        inner, informed, objective = carry.inner, evidence.informed, _Remembering(objective)
        steps = torch.zeros_like(carry.steps)
        norm = self._norm(theta, inner, objective)
        for _ in range(self.max_steps):
            going = informed & ~(norm <= self.tolerance)  # what is NaN is not done
            if not bool(going.any()):
                break
            moved = self.rule.step(theta, inner, evidence, objective)
            theta, inner = moved_where(going, moved, (theta, inner))
            steps = steps + going
            norm = self._norm(theta, inner, objective)
            # From the second step on, the examples were read before.
            evidence = evidence._replace(seen=evidence.seen_after, fresh=False)
        norm, steps = moved_where(informed, (norm, steps), (carry.residual, carry.steps))
        return theta, ConvergedCarry(inner, norm, steps)

    def residual(self, theta: Theta, carry: ConvergedCarry, objective: Objective) -> Theta:
        """The wrapped rule's residual."""
        return self.rule.residual(theta, carry.inner, objective)

    def _norm(self, theta: Theta, inner: Any, objective: "_Remembering") -> Tensor:
        # A graph only where the rule's step will use it: a first-order rule's does not.
        with torch.set_grad_enabled(torch.is_grad_enabled() and objective.followed):
            residual = self.rule.residual(theta, inner, objective).values()
        norms = [value.detach().reshape(len(value), -1).norm(dim=1) for value in residual]
        norm: Tensor = torch.stack(norms).norm(dim=0)
        return norm


class _Remembering:
    """An objective that keeps its last gradient, for the residual and the step that follows."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self.loss, self.residual = objective.loss, objective.residual
        self._last: tuple[Theta, bool, Theta] | None = None  # where, whether it has a graph, what
        self.followed = False  # whether a gradient with a graph was asked for

    @property
    def shared(self) -> bool:
        return self._objective.shared

    def gradient_at(self, theta: Theta, *, differentiate: bool, scale: Tensor | None) -> Theta:
        """As the function of this name."""
        follow = differentiate and torch.is_grad_enabled()
        self.followed = self.followed or follow
        if self._last is None or self._last[0] is not theta or follow > self._last[1]:
            gradient = gradient_at(self._objective, theta, differentiate=differentiate)
            self._last = theta, follow, gradient
        gradient = self._last[2]
        if not follow:
            gradient = {name: g.detach() for name, g in gradient.items()}
        if scale is None:
            return gradient
        return {name: spread(scale, g) * g for name, g in gradient.items()}
