"""Conjugate gradients: symmetric positive definite systems, by products with the matrix alone."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from iai_iterate.linear_solver import Product, Solve
from iai_iterate.task_matrix import from_matrix, to_matrix


@dataclass(frozen=True, kw_only=True)
class ConjugateGradient:
    """Solves A x = b by conjugate gradients from x = 0, each task by itself.

    A must be symmetric, as a Hessian is: for another A the answer is wrong, and the reported
    residual need not show it.

    What this does differently from other implementations:

    - All tasks take their steps together. One that is done, or cannot go on, keeps its x while the
      others move; no task stops early because another did.
    - A task cannot go on once p' A p <= 0, to its precision, for a direction p: A is indefinite or
      singular. It keeps its last x, and `negative` says so. Nothing becomes NaN.
    - A relative residual of ten units of the numbers' precision counts as 0.
    - Half precision is solved in float32.

    Args:
        steps: Products with A, at most.
        tolerance: A task is done when `|b - A x| <= tolerance |b|`. Above 0, the solver stops as
            soon as every task is done, for which a GPU is waited for at each step; at 0 it never
            waits.

    Raises:
        ValueError: If `steps` is below 1, or `tolerance` below 0.

    Source:
        Hestenes and Stiefel (1952). The stop at negative curvature is that of Steihaug (1983),
        without its step to the boundary of a region.

    >>> scale = torch.tensor([[2.0, 4.0]])
    >>> solve = ConjugateGradient(steps=2).solve(lambda x: scale * x, torch.tensor([[2.0, 8.0]]))
    >>> solve.solution, solve.steps, solve.negative
    (tensor([[1., 2.]]), tensor([2]), tensor([False]))
    """

    steps: int = 10
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"`steps` must be at least 1; got {self.steps}.")
        if not self.tolerance >= 0:
            raise ValueError(f"`tolerance` must be at least 0; got {self.tolerance}.")

    @torch.no_grad()
    def solve(self, product: Product, right: Any, /) -> Solve:
        """See `LinearSolver`."""
        rebuild, b = from_matrix(right), to_matrix(right)
        # A system is solved for b of size 1, so that squares neither vanish nor overflow.
        size = b.abs().amax(dim=1, keepdim=True)
        b = b / torch.where(size == 0, 1, size)
        total = _dot(b, b)
        precision = torch.finfo(b.dtype).eps
        enough = max(self.tolerance, 10 * precision) ** 2 * total

        x = 0 * b  # NaN in b stays NaN, as no x solves that task
        r, error, p = b, total, b
        largest = torch.zeros_like(total)
        steps = torch.zeros_like(total, dtype=torch.int64)
        negative = torch.zeros_like(total, dtype=torch.bool)
        for _ in range(self.steps):
            active = ~(error <= enough) & ~negative
            if self.tolerance > 0 and not bool(active.any()):
                break
            q = to_matrix(product(rebuild(p)))
            curvature, length = _dot(p, q), _dot(p, p)
            # p' A p / p' p is at most the largest eigenvalue: what is tiny beside it is rounding.
            largest = torch.maximum(largest, curvature / torch.where(length > 0, length, 1))
            flat = curvature <= precision * largest * length
            negative = negative | (active & flat)
            moves = active & ~flat
            rate = torch.where(moves, error / torch.where(moves, curvature, 1), 0)
            x = torch.addcmul(x, rate, p)
            r = torch.addcmul(r, rate, q, value=-1)
            before, error = error, _dot(r, r)
            p = torch.addcmul(r, torch.where(moves, error / torch.where(moves, before, 1), 0), p)
            steps += moves
        residual = torch.where(total == 0, 0, (error / total).sqrt())
        return Solve(rebuild(size * x), residual[:, 0], steps[:, 0], negative[:, 0])


def _dot(one: Tensor, other: Tensor) -> Tensor:
    if len(one) == 1:  # one pass, without the products in memory
        return one @ other.mT
    return (one * other).sum(dim=1, keepdim=True)
