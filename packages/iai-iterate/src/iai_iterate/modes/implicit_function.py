"""The solution of an equation, as a function of all that the equation depends on."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from iai_iterate.linear_solver import LinearSolver, Solve

_NOT_DIFFERENTIABLE = (
    "`residual` must depend differentiably on what is solved for; where it takes a gradient, that "
    "needs `create_graph=True`."
)


@dataclass(frozen=True, eq=False)
class Equation:
    """F(unknowns) = 0: the graph of F at the solution, which every product goes through."""

    unknowns: list[Tensor]  # leaves of that graph, led by the axis of tasks
    values: Any  # F, a pytree whose leaves are shaped as the unknowns
    solver: LinearSolver
    report: Callable[[Solve], None]  # hears of every solve

    def product(self, vectors: Any) -> Any:
        """(dF/dunknowns)' v."""
        pairs = zip(tree_leaves(self.values), tree_leaves(vectors), strict=True)
        outputs, weights = zip(*(pair for pair in pairs if pair[0].requires_grad), strict=True)
        products = torch.autograd.grad(
            outputs, self.unknowns, weights, retain_graph=True, allow_unused=True
        )
        if all(product is None for product in products):
            raise ValueError(_NOT_DIFFERENTIABLE)
        filled = [
            torch.zeros_like(leaf) if product is None else product
            for product, leaf in zip(products, self.unknowns, strict=True)
        ]
        return tree_unflatten(filled, tree_flatten(self.values)[1])

    def solve(self, gradients: Iterable[Tensor]) -> list[Tensor]:
        """The v for which (dF/dunknowns)' v = gradient."""
        right = tree_unflatten(gradients, tree_flatten(self.values)[1])
        with torch.no_grad():
            solve = self.solver.solve(self.product, right)
        self.report(solve)
        return tree_leaves(solve.solution)


def implicit_function(equation: Equation) -> tuple[Tensor, ...]:
    """The unknowns' numbers, with the gradient of the solution where they stand.

    A gradient g that comes back to them goes on through F as -v, where (dF/dunknowns)' v = g.

    Raises:
        ValueError: If F does not depend on the unknowns differentiably; what the forward pass
            cannot see of it, the backward pass raises.

    >>> from iai_iterate import ConjugateGradient
    >>> square, root = (torch.tensor([n], requires_grad=True) for n in (16.0, 4.0))
    >>> equation = Equation([root], root**2 - square, ConjugateGradient(), lambda solve: None)
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
    """A backward pass through F reaches its unknowns as well, where nobody asks for it."""
    unknown.grad = None


class _Solution(torch.autograd.Function):
    """The solution's numbers, as a function of F: what F gains, the solution loses by a solve."""

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
    """The same numbers; who asks for their derivative by `others` is told that there is none.

    torch's own `once_differentiable` would not tell where the gradient that came in is constant.
    """

    @staticmethod
    def forward(ctx: Any, leaves: tuple[Tensor, ...], *others: Tensor) -> tuple[Tensor, ...]:
        return leaves

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        raise RuntimeError(
            "An implicit gradient has no second derivative; take `unrolled` for that."
        )
