"""Hessian-free Newton steps as a rule: Hessian-vector products, a linear solver, a line search."""

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
            gradients, say. The number of products is its option. To damp, wrap the rule in
            `Proximal`.

    Raises:
        TypeError: If `solver` has no method `solve`.

    Source:
        Martens (2010), Hessian-free optimization, here with the Hessian; the inner solver of
        Rajeswaran et al. (2019), arXiv 1909.04630. Truncation and line search: Nocedal and Wright
        (2006), algorithm 7.1.

    >>> class Solve(NamedTuple):
    ...     solution: Tensor
    ...     negative: Tensor
    >>> class Halving:  # of the right matrix: the quadratic below has H = 2 I
    ...     def solve(self, product, right):
    ...         return Solve(right / 2, torch.zeros(1, dtype=torch.bool))
    >>> class Quadratic:
    ...     shared = False
    ...     def loss(self, theta):
    ...         return theta["w"].square().sum(-1)
    ...     def residual(self, theta):
    ...         return theta["w"][:, None]
    >>> rule, theta = NewtonCG(Halving()), {"w": torch.tensor([[4.0, -2.0]])}
    >>> told = Evidence((), torch.ones(1), torch.zeros(1), True)
    >>> moved, carry = rule.step(theta, rule.start(theta), told, Quadratic())
    >>> moved["w"].tolist(), carry.rate.item()
    ([[0.0, 0.0]], 1.0)
    """

    def __init__(self, solver: LinearSolver) -> None:
        if not isinstance(solver, LinearSolver):
            raise TypeError(f"`solver` must have a method `solve`; got {type(solver).__name__}.")
        self.solver = solver

    def start(self, theta: Theta) -> NewtonCarry:
        """No step yet."""
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
