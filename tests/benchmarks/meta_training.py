"""Tokens per second of a meta-training step, beside those of its matrix products alone.

One real step is recorded (tasks from a pool, forward, backward, AdamW): every matrix product, with
its shapes, strides and dtype. The same products are then computed alone, on random numbers, into
memory allocated before: the time of the step if everything else were free. Fused attention counts
as the products that it consists of, two forward and four backward. The step and the products are
timed in turn; `ratio` is the step's time divided by theirs.
"""

import argparse
from collections.abc import Callable

import torch
from iai_iterate import Iterated, Pool
from iai_tasks import LinearRegression
from torch import Tensor, nn
from workbench import DIM, REGIMES, Row, arguments, learner, report, side_by_side
from workbench.products import MatrixProducts, num_operations, replay


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


if __name__ == "__main__":
    main()
