"""The solution of an equation, as a differentiable function of all that the equation depends on."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import tree_leaves

from iai_iterate.linear_solver import LinearSolver, Solve
from iai_iterate.tree import rebuilt

_NOT_DIFFERENTIABLE = (
    "`residual` must depend differentiably on what is solved for; where it takes a gradient, that "
    "needs `create_graph=True`."
)


class ImplicitReport(NamedTuple):
    """How far an implicit gradient can be trusted. All tensors are constants."""

    residual: Float[Tensor, " task"]  # |F| at the last state: the gradient is right where it is 0
    solve: Solve | None  # of the linear systems; None before a backward pass


@dataclass(eq=False)
class Progress:
    """The residual of a rollout, and the latest solve of the backward passes through it."""

    residual: Float[Tensor, " task"]
    solve: Solve | None = None

    def report(self) -> ImplicitReport:
        """How things stand now; a later solve does not change what was returned."""
        return ImplicitReport(self.residual, self.solve)


@dataclass(frozen=True, eq=False)
class Equation:
    """F(unknowns) = 0, with the graph of F at the solution, which every product goes through."""

    unknowns: list[Tensor]  # leaves of that graph, led by the axis of tasks
    values: Any  # F, a pytree whose leaves are shaped as the unknowns
    solver: LinearSolver
    progress: Progress  # its `solve` is set by every solve

    def product(self, vectors: Any) -> Any:
        """(dF/dunknowns)' v."""
        pairs = zip(tree_leaves(self.values), tree_leaves(vectors), strict=True)
        outputs, weights = zip(*(pair for pair in pairs if pair[0].requires_grad), strict=True)
        products = torch.autograd.grad(
            outputs, self.unknowns, weights, retain_graph=True, allow_unused=True
        )
        if all(product is None for product in products):
            raise ValueError(_NOT_DIFFERENTIABLE)
        filled = (
            torch.zeros_like(leaf) if product is None else product
            for product, leaf in zip(products, self.unknowns, strict=True)
        )
        return rebuilt(self.values, filled)

    def solve(self, gradients: Iterable[Tensor]) -> list[Tensor]:
        """The v for which (dF/dunknowns)' v = gradient."""
        right = rebuilt(self.values, gradients)
        with torch.no_grad():
            solve = self.solver.solve(self.product, right)
        self.progress.solve = solve
        return tree_leaves(solve.solution)


def implicit_function(equation: Equation) -> tuple[Tensor, ...]:
    """The values of the unknowns, with the gradient of the solution.

    The implicit function theorem: a gradient g by the solution becomes the gradient -v by F, where
    (dF/dunknowns)' v = g, and goes on from F to all that F depends on.

    Raises:
        ValueError: If F does not depend on the unknowns differentiably; what the forward pass
            cannot see of it, the backward pass raises.

    >>> from iai_iterate import ConjugateGradient
    >>> square, root = (torch.tensor([n], requires_grad=True) for n in (16.0, 4.0))
    >>> progress = Progress(torch.zeros(1))
    >>> equation = Equation([root], root**2 - square, ConjugateGradient(), progress)
    >>> (solution,) = implicit_function(equation)
    >>> solution.item(), torch.autograd.grad(solution, square)[0].item()  # sqrt, 1 / (2 sqrt)
    (4.0, 0.125)
    """
    values = tree_leaves(equation.values)
    if torch.is_grad_enabled() and not any(value.requires_grad for value in values):
        raise ValueError(_NOT_DIFFERENTIABLE)
    for unknown in equation.unknowns:
        unknown.register_post_accumulate_grad_hook(_forget)  # type: ignore[no-untyped-call]
    solution: tuple[Tensor, ...] = _Solution.apply(equation, *values)  # type: ignore[no-untyped-call]
    return solution


def _forget(unknown: Tensor) -> None:
    """Drops the gradient that a backward pass through F also leaves at its unknowns."""
    unknown.grad = None


class _Solution(torch.autograd.Function):
    """backward(g) = -v, where (dF/dunknowns)' v = g."""

    @staticmethod
    def forward(ctx: Any, equation: Equation, *values: Tensor) -> tuple[Tensor, ...]:
        ctx.equation = equation
        return tuple(leaf.detach() for leaf in equation.unknowns)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        back = tuple(-leaf for leaf in ctx.equation.solve(gradients))
        if torch.is_grad_enabled():  # somebody may ask for the derivative of this
            sources = (*gradients, *tree_leaves(ctx.equation.values))
            back = _Once.apply(back, *sources)  # type: ignore[no-untyped-call]
        return None, *back


class _Once(torch.autograd.Function):
    """The same tensors; their derivative by `sources` raises RuntimeError.

    torch's own `once_differentiable` raises only where the incoming gradient requires a gradient.
    """

    @staticmethod
    def forward(ctx: Any, leaves: tuple[Tensor, ...], *sources: Tensor) -> tuple[Tensor, ...]:
        return leaves

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        raise RuntimeError(
            "An implicit gradient has no second derivative; take `unrolled` for that."
        )
