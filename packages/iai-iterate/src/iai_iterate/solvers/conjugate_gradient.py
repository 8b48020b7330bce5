"""Conjugate gradients: symmetric positive definite systems, by products with the matrix alone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from iai_iterate.linear_solver import Product, Solve
from iai_iterate.task_matrix import from_matrix, to_matrix


@dataclass(frozen=True, kw_only=True)
class ConjugateGradient:
    """Solves (A + damping I) x = b by conjugate gradients from x = 0, every task by itself.

    A must be symmetric, as a Hessian is: for another A the answer is wrong, and the reported
    residual need not tell. Nothing stops early for the sake of another task: one that is done, or
    cannot go on, stays where it is while the others move.

    A task cannot go on once it meets a direction p along which p' A p <= 0 as far as its precision
    tells: A is then indefinite or singular. It keeps its last iterate and says so in `negative`.
    A residual of ten units of the numbers' precision counts as solved: beyond it there is noise.

    Args:
        steps: Products with A, at most.
        tolerance: A task is done when `|b - (A + damping I) x| <= tolerance |b|`. Above 0, all stop
            as soon as every task is done, which makes a GPU wait for the answer at each step; at 0
            nothing is asked.
        damping: Added to the diagonal of A. With 0 the system is the one that was handed over: for
            the residual of proximal descent, A = H + strength I, which is the implicit MAML
            paper's. Any other damping changes the answer; the residual reported is that of the
            damped system.
        preconditioner: r to about (A + damping I)^-1 r, trees as the right-hand side; linear,
            symmetric and positive definite. It changes how fast the answer is reached, not which.

    Raises:
        ValueError: If `steps` is below 1, or `tolerance` or `damping` below 0.

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
    damping: float = 0.0
    preconditioner: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"`steps` must be at least 1; got {self.steps}.")
        for name in ("tolerance", "damping"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` must be at least 0; got {getattr(self, name)}.")

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

        x = 0 * b  # NaN in b stays NaN: it is no task's solution
        r, error = b, total
        z = self._precondition(r, rebuild)
        p, slope = z, error if z is r else _dot(r, z)
        stretch = torch.zeros_like(total)
        steps = torch.zeros_like(total, dtype=torch.int64)
        negative = torch.zeros_like(total, dtype=torch.bool)
        for _ in range(self.steps):
            active = ~(error <= enough) & ~negative
            if self.tolerance > 0 and not bool(active.any()):
                break
            q = to_matrix(product(rebuild(p)))
            if self.damping:
                q = torch.add(q, p, alpha=self.damping)
            curvature, length = _dot(p, q), _dot(p, p)
            # p' A p / |p|^2 is at most the largest eigenvalue: what is tiny beside it is rounding.
            stretch = torch.maximum(stretch, curvature / torch.where(length > 0, length, 1))
            flat = (curvature <= precision * stretch * length) | (slope <= 0)
            negative = negative | (active & flat)
            moves = active & ~flat
            rate = torch.where(moves, slope / torch.where(moves, curvature, 1), 0)
            x = torch.addcmul(x, rate, p)
            r = torch.addcmul(r, rate, q, value=-1)
            error = _dot(r, r)
            z = self._precondition(r, rebuild)
            before, slope = slope, error if z is r else _dot(r, z)
            p = torch.addcmul(z, torch.where(moves, slope / torch.where(moves, before, 1), 0), p)
            steps += moves
        residual = torch.where(total == 0, 0, (error / total).sqrt())
        return Solve(rebuild(size * x), residual[:, 0], steps[:, 0], negative[:, 0])

    def _precondition(self, r: Tensor, rebuild: Callable[[Tensor], Any]) -> Tensor:
        if self.preconditioner is None:
            return r
        return to_matrix(self.preconditioner(rebuild(r)))


def _dot(one: Tensor, other: Tensor) -> Tensor:
    if len(one) == 1:  # one pass, without the products in memory
        return one @ other.mT
    return (one * other).sum(dim=1, keepdim=True)
