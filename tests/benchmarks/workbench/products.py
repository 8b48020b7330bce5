"""The matrix products of some work, recorded, to be computed again alone."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
# Index of the first factor among the arguments; the second follows it.
FACTORS = {aten.mm: 0, aten.bmm: 0, aten.mv: 0, aten.dot: 0, aten.addmm: 1, aten.baddbmm: 1}


class Factor(NamedTuple):
    """The layout of a matrix, or of a batch of them."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> "Factor":
        return cls(tuple(tensor.shape), tensor.stride(), tensor.dtype)

    def random(self, device: torch.device) -> Tensor:
        if 0 in self.stride:  # expanded: random numbers cannot be written to it
            return torch.randn(self.size, dtype=self.dtype, device=device)
        return torch.empty_strided(
            self.size, self.stride, dtype=self.dtype, device=device
        ).normal_()


Product = tuple[Factor, Factor]


class MatrixProducts(TorchDispatchMode):
    """Records the factors of every matrix product, backward pass included."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Product] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        operation = func.overloadpacket
        name = operation.__name__
        if operation in FACTORS:
            at = FACTORS[operation]
            self.found.append((Factor.of(args[at]), Factor.of(args[at + 1])))
        elif name.startswith("_scaled_dot_product"):
            backward = name.endswith("_backward")
            self.found += attention(*args[1:4] if backward else args[:3], backward=backward)
        return func(*args, **(kwargs or {}))


def attention(query: Tensor, key: Tensor, value: Tensor, *, backward: bool) -> list[Product]:
    """The products of one attention; a kernel's recomputation of the scores is not counted."""
    rows, slots, keys, values = query.shape[2], key.shape[2], query.shape[3], value.shape[3]

    def matrices(first: int, second: int) -> Tensor:
        return query.new_empty(1).expand(query.shape[0] * query.shape[1], first, second)

    scores = (matrices(rows, keys), matrices(keys, slots))
    answers = (matrices(rows, slots), matrices(slots, values))
    pairs = [scores, answers]
    if backward:  # the gradients of both factors of both products
        pairs = [
            (gradient, other)
            for left, right in pairs
            for gradient, other in (
                (matrices(left.shape[1], right.shape[2]), right.mT),
                (left.mT, matrices(left.shape[1], right.shape[2])),
            )
        ]
    return [(Factor.of(left), Factor.of(right)) for left, right in pairs]


def replay(products: Sequence[Product], device: torch.device) -> Callable[[], None]:
    """The same products in the same order; products of the same layout share their memory."""
    made = {}
    for left, right in dict.fromkeys(products):
        factors = left.random(device), right.random(device)
        made[left, right] = (*factors, torch.matmul(*factors))
    calls = [made[product] for product in products]

    def work() -> None:
        for left, right, out in calls:
            torch.matmul(left, right, out=out)

    return work


def num_operations(product: Product) -> int:
    """Floating-point operations of a product: one multiplication and one addition per pair."""
    left, right = product[0].size, product[1].size
    columns = right[-1] if len(right) > 1 else 1
    return 2 * torch.Size(left).numel() * columns
