"""The role of a linear solver that sees its matrix through products alone, and what it reports."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor

Product = Callable[[Any], Any]
"""A linear map of pytrees, every leaf led by the axis of tasks. Tasks do not mix."""


class Solve(NamedTuple):
    """What a solver made of the system of each task. All are constants."""

    solution: Any  # x, shaped as the right-hand side
    residual: Float[Tensor, " task"]  # |b - A x| / |b|; 0 where b is 0
    steps: Int[Tensor, " task"]  # products that moved x
    negative: Bool[Tensor, " task"]  # stopped, as A is not positive definite; x is the last iterate


@runtime_checkable
class LinearSolver(Protocol):
    """Solves A x = b of every task at once, each by itself."""

    def solve(self, product: Product, right: Any, /) -> Solve:
        """An x that makes `product(x)` come near `right`, and how near.

        Args:
            product: x to A x.
            right: b, any pytree of floating tensors led by the axis of tasks.
        """
