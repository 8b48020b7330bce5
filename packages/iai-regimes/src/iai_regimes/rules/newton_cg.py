"""Hessian-free Newton steps as a rule: Hessian-vector products, a linear solver, a line search."""

from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iai_regimes.evidence import Evidence, moved_where
from iai_regimes.gradient_rule import DescentRule
from iai_regimes.hessian import hessian_products
from iai_regimes.interfaces import LinearSolver, Objective, Theta
from iai_regimes.ravel import of_vectors, ravel, shifted, task_zeros
from iai_regimes.rules.line_search import descend


class NewtonCarry(NamedTuple):
    """How the last step of each task went."""

    rate: Float[Tensor, " task"]  # of d in the step, 0 if d was given up
    negative: Bool[Tensor, " task"]  # whether the solver met negative curvature


class NewtonCG(DescentRule):
    """Steps along the solution d of H d = -g on each minibatch, as far as its loss falls.

    The solver sees the Hessian H as products with vectors, all from one graph of the gradient g.
    Each task's rate is halved until its loss falls enough. Where H is indefinite, a solver that
    stops at negative curvature returns a direction in which the loss still falls. A direction with
    no negative slope, or along which the loss never falls, is replaced by -g. The loss never rises,
    but for rounding.

    Outer gradients take the step for a constant and pass to theta unchanged. Differentiate through
    the solution instead, by an implicit gradient of `residual`. A task without an observed example
    in the minibatch stays as it is.

    Args:
        solver: Solves symmetric systems, positive definite or not, by products alone: conjugate
            gradients, say. The number of products is its option. A Hessian has any scale, so a
            series with a scale of its own, such as `Neumann`, does not serve. To damp, wrap the
            rule in `Proximal`.

    Raises:
        TypeError: If `solver` has no method `solve`.

    Source:
        Martens (2010), Hessian-free optimization, here with the Hessian; the inner solver of
        Rajeswaran et al. (2019), arXiv 1909.04630. Truncation and line search: Nocedal and Wright
        (2006), algorithm 7.1.

    >>> class Solve(NamedTuple):
    ...     solution: Tensor
    ...     negative: Tensor
    >>> class OneProduct:  # the best multiple of the right-hand side: exact for H = 2 I below
    ...     def solve(self, product, right):
    ...         rate = right.square().sum(1) / (right * product(right)).sum(1)
    ...         return Solve(rate[:, None] * right, rate < 0)
    >>> class Quadratic:
    ...     shared = False
    ...     def loss(self, theta):
    ...         return theta["w"].square().sum(-1)
    ...     def residual(self, theta):
    ...         return theta["w"][:, None]
    >>> rule, theta = NewtonCG(OneProduct()), {"w": torch.tensor([[4.0, -2.0]])}
    >>> told = Evidence((), torch.ones(1), torch.zeros(1), True)
    >>> moved, carry = rule.step(theta, rule.start(theta), told, Quadratic())
    >>> moved["w"].tolist(), carry.rate.item()
    ([[0.0, 0.0]], 1.0)
    """

    def __init__(self, solver: LinearSolver) -> None:
        if not isinstance(solver, LinearSolver):
            raise TypeError(f"`solver` must have a method `solve`; got {type(solver).__name__}.")
        self.solver, self._tried = solver, False

    def start(self, theta: Theta) -> NewtonCarry:
        """No step yet.

        Raises:
            ValueError: If `solver` does not solve A x = b for A = I and A = 1024 I.
        """
        if not self._tried:
            _check_scales(self.solver, ravel(theta)[:1])
            self._tried = True
        rate = task_zeros(theta)
        return NewtonCarry(rate, torch.zeros_like(rate, dtype=torch.bool))

    def step(
        self, theta: Theta, carry: NewtonCarry, evidence: Evidence, objective: Objective
    ) -> tuple[Theta, NewtonCarry]:
        """One Newton step, a constant; gradients pass to `theta` unchanged."""
        loss, flat = of_vectors(objective.loss, theta), ravel(theta)
        _, gradient, product = hessian_products(loss, flat)
        with torch.no_grad(), torch.autocast(flat.device.type, enabled=False):
            gradient = torch.where(evidence.informed[:, None], gradient, 0.0)
            solve = self.solver.solve(product, -gradient)
            shift, rate = descend(loss, flat, gradient, solve.solution)
        moved = NewtonCarry(rate, solve.negative)
        return shifted(theta, shift), moved_where(evidence.informed, moved, carry)


@torch.no_grad()
def _check_scales(solver: LinearSolver, like: Tensor) -> None:
    """Raises ValueError for a solver that fails on the identity times a number.

    It fails if it lowers x' A x / 2 - b' x, whose minimum is the solution, by less than a twentieth
    of what is possible.
    """
    b = torch.ones_like(like)
    for scale in (1.0, 1024.0):
        x = solver.solve(partial(torch.mul, b.new_tensor(scale)), b).solution
        decrease = (b * x - scale * x.square() / 2).sum()
        if not decrease >= 0.05 * b.square().sum() / (2 * scale):
            raise ValueError(
                "`solver` must solve A x = b at any scale of A, as ConjugateGradient does; "
                f"{solver!r} fails at A = {scale:g} I."
            )
