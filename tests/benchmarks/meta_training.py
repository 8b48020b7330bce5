"""Tokens per second of a meta-training step, beside those of its matrix products alone.

One real step is recorded (tasks from a pool, forward, backward, AdamW): every matrix product, with
its shapes, strides and dtype. The same products are then computed alone, on random numbers, into
memory allocated before: the time of the step if everything else were free. Fused attention counts
as the products that it consists of, two forward and four backward. The step and the products are
timed in turn; `ratio` is the step's time divided by theirs.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from iai_iterate import Iterated, Pool
from iai_tasks import LinearRegression
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from workbench import DIM, REGIMES, Row, arguments, learner, report, side_by_side

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


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--tasks", type=int, default=256, help="live tasks in the pool")
    parser.add_argument("--bf16", action="store_true", help="autocast, as on a GPU")
    options = parser.parse_args()
    torch.manual_seed(0)
    rows = [measure(regime, width, options) for regime in REGIMES for width in options.widths]
    report("A meta-training step beside its matrix products alone", rows, options)


def measure(regime: str, width: int, options: argparse.Namespace) -> Row:
    """One row: times of the step and of its products, and the rates that follow."""
    model = learner(regime, options, width=width, steps=1, minibatch=options.minibatch)
    step = training_step(model, options)
    step()  # creates the optimizer's state
    num_tokens = 0

    def count(_module: nn.Module, inputs: tuple[Tensor], _output: Tensor) -> None:
        nonlocal num_tokens
        num_tokens += inputs[0].shape[0] * inputs[0].shape[1]

    # Every token and every query passes through this layer once.
    first = next(part for name, part in model.named_modules() if name.endswith("0.key_value"))
    with first.register_forward_hook(count), MatrixProducts() as products:
        step()
    operations = sum(map(num_operations, products.found))
    step_time, bare_time, ratio = side_by_side(
        step, replay(products.found, options.device), options
    )
    return {
        "regime": regime,
        "width": width,
        "tokens": num_tokens,
        "products": len(products.found),
        "step ms": step_time * 1e3,
        "bare ms": bare_time * 1e3,
        "tokens/s": num_tokens / step_time,
        "bare tokens/s": num_tokens / bare_time,
        "GFLOP/s": operations / step_time / 1e9,
        "bare GFLOP/s": operations / bare_time / 1e9,
        "ratio": ratio,
    }


def training_step(model: Iterated, options: argparse.Namespace) -> Callable[[], None]:
    """One iteration of training, the drawing of the tasks included."""
    pool = Pool(
        model,
        LinearRegression(DIM),
        num_tasks=options.tasks,
        num_query=options.queries,
        max_steps=100,
        generator=torch.Generator(options.device).manual_seed(0),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    kind = options.device.type

    def step() -> None:
        tasks, state = pool.next()
        with torch.autocast(kind, torch.bfloat16, enabled=options.bf16):
            losses, _, state = model(tasks, state)
        losses.float().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        pool.put(state)

    return step


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


if __name__ == "__main__":
    main()
