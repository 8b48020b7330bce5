"""K steps of B examples by states that are memories, beside one pass over K x B and bare products.

"train" takes the loss after every step and unrolled gradients through all of them; "adapt" reads
the support and predicts. One pass is `Implicit` with a `SetTransformer` of the same width, layers
and heads, which reads K x B examples in one step and has one loss. `time / pass` and
`memory / pass` are ratios to it, `time / products` to the matrix products of the same work alone,
everything timed in turn in one run: below 1, iterating is cheaper. Memory is the growth of the
peak.
"""

import argparse
from collections.abc import Callable
from statistics import median

import torch
from iai_encoders import MemoryTransformer, RunningTransformer, SetTransformer
from iai_iterate import Iterated, unrolled
from iai_regimes import ExplicitMemory, Gaussian, Implicit, RunningAttention
from iai_tasks import LinearRegression, TaskBatch
from workbench import DIM, Row, arguments, in_turn, ratio, report
from workbench.memory import peak_memory
from workbench.products import MatrixProducts, replay

LEARNERS = ("running attention", "ridge memory", "one pass")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 10, 100])
    options = parser.parse_args()
    rows = [
        row
        for mode in ("train", "adapt")
        for steps in options.steps
        for row in measure(mode, steps, options)
    ]
    report("K steps of states that are memories, beside one pass", rows, options)


def measure(mode: str, steps: int, options: argparse.Namespace) -> list[Row]:
    """One row for each learner with a memory."""
    torch.manual_seed(0)
    tasks: TaskBatch = LinearRegression(DIM).sample(
        options.tasks,
        num_support=steps * options.minibatch,
        num_query=options.queries,
        generator=torch.Generator(options.device).manual_seed(0),
    )
    works = {name: work(mode, learner(name, steps, options), tasks) for name in LEARNERS}
    peaks = {name: peak_memory(works[name], options.device) for name in LEARNERS}
    for name in LEARNERS[:2]:
        with MatrixProducts() as products:
            works[name]()
        works[f"{name}, products"] = replay(products.found, options.device)
    times = in_turn(works, options)
    once = times["one pass"]
    return [
        {
            "mode": mode,
            "learner": name,
            "K": steps,
            "ms": median(times[name]) * 1e3,
            "time / pass": ratio(times[name], once),
            "time / products": ratio(times[name], times[f"{name}, products"]),
            "MiB": peaks[name],
            "memory / pass": peaks[name] / peaks["one pass"],
        }
        for name in LEARNERS[:2]
    ]


def learner(name: str, steps: int, options: argparse.Namespace) -> Iterated:
    """An untrained learner; its cost does not depend on its weights."""
    likelihood, width = Gaussian(1, scale=0.5), options.width
    sets = SetTransformer(width, options.layers, options.heads)
    regime: RunningAttention | ExplicitMemory | Implicit
    if name == "running attention":
        regime = RunningAttention(RunningTransformer(sets), likelihood, x_dim=DIM)
    elif name == "ridge memory":
        encoder = MemoryTransformer(width, options.layers, options.heads)
        regime = ExplicitMemory(encoder, likelihood, x_dim=DIM)
    else:
        regime, steps = Implicit(sets, likelihood, x_dim=DIM), 1
    minibatch = None if name == "one pass" else options.minibatch
    model = Iterated(regime, steps=steps, minibatch=minibatch, gradient=unrolled)
    return model.to(options.device)


def work(mode: str, model: Iterated, tasks: TaskBatch) -> Callable[[], None]:
    """The work as a function."""

    def adapt() -> None:
        model.adapt(tasks.support, tasks.query.x).predict(tasks.query.x)

    def train() -> None:
        model(tasks).losses.mean().backward()
        model.zero_grad()

    return adapt if mode == "adapt" else train


if __name__ == "__main__":
    main()
