"""Neumann series: linear systems near the identity, symmetric or not, by products alone."""

from dataclasses import dataclass
from typing import Any

import torch

from iai_iterate.linear_solver import Product, Solve
from iai_iterate.task_matrix import from_matrix, to_matrix


@dataclass(frozen=True, kw_only=True)
class Neumann:
    """Solves A x = b by x = scale (b + (I - scale A) b + (I - scale A)^2 b + ..).

    It converges where every eigenvalue of I - scale A is below 1 in size; A need not be symmetric.
    For the fixed point of a step, with the residual x - step(x) and a scale of 1, the terms are
    those of backpropagation through `steps` steps at the solution. Where it does not converge the
    residual says so: it is above 1, and grows with `steps`.

    Args:
        steps: Terms, each with a product with A; the last one's product gives the residual.
        scale: Above 0. For a symmetric A, below 2 over the largest eigenvalue.

    Raises:
        ValueError: If `steps` is below 1 or `scale` is not above 0.

    Source:
        Lorraine, Vicol and Duvenaud (2020), arXiv 1911.02590, equation 5 and algorithm 3; they
        leave the residual unknown.

    >>> half = Neumann(steps=3).solve(lambda x: 0.5 * x, torch.tensor([1.0]))
    >>> half.solution, half.residual  # 1 + 1/2 + 1/4 towards 2
    (tensor([1.7500]), tensor([0.1250]))
    """

    steps: int
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"`steps` must be at least 1; got {self.steps}.")
        if not self.scale > 0:
            raise ValueError(f"`scale` must be above 0; got {self.scale}.")

    @torch.no_grad()
    def solve(self, product: Product, right: Any, /) -> Solve:
        """See `LinearSolver`. `negative` is False: nothing here asks for a definite matrix."""
        rebuild, b = from_matrix(right), to_matrix(right)
        x, r = torch.zeros_like(b), b
        for _ in range(self.steps):
            x = x + self.scale * r
            r = r - self.scale * to_matrix(product(rebuild(r)))
        left, total = (torch.linalg.vector_norm(matrix, dim=1) for matrix in (r, b))
        residual = torch.where(total == 0, 0, left / total)
        steps = torch.full_like(residual, self.steps, dtype=torch.int64)
        return Solve(rebuild(x), residual, steps, torch.zeros_like(residual, dtype=torch.bool))
