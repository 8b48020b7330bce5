"""Time and memory of K steps of B examples beside one step of K x B examples, as K grows.

Attention computes (K B)^2 scores in one step of K x B examples, and K B^2 in K steps. But each of
the K steps reads the queries again, and has costs that do not depend on B. "use" adapts to a
support and predicts. "train" takes the greedy loss after every step and its gradients, which keeps
all K steps in memory until the end (training from a pool costs what K = 1 does, at any depth). A
ratio is K steps / one step: below 1, iterating is cheaper.

Memory is how much the peak grows, including the tasks and the drawing of them. On the CPU it is the
peak resident size, measured for each figure in a fresh process after a warm-up with one small task.
"""

import argparse
import multiprocessing
import resource
import sys
from collections.abc import Callable

import torch
from iai_tasks import LinearRegression, TaskBatch
from workbench import DIM, REGIMES, Row, arguments, learner, report, side_by_side

Case = tuple[str, str, int, int, argparse.Namespace]  # mode, regime, steps, minibatch


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--tasks", type=int, default=32)
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 3, 10, 30, 100])
    parser.add_argument("--train-steps", type=int, nargs="*", default=[1, 3, 10, 30])
    options = parser.parse_args()
    pairs: list[tuple[Case, Case]] = []
    for mode, counts in (("use", options.steps), ("train", options.train_steps)):
        for regime in REGIMES:
            for steps in counts:
                iterated = (mode, regime, steps, options.minibatch, options)
                at_once = (mode, regime, 1, steps * options.minibatch, options)
                pairs.append((iterated, at_once))
    peaks = peak_memories([case for pair in pairs for case in pair], options.device)
    rows = [
        measure(*pair, *peak)
        for pair, peak in zip(pairs, zip(peaks[::2], peaks[1::2], strict=True), strict=True)
    ]
    report("K steps of B examples beside one step of K x B", rows, options)


def measure(iterated: Case, at_once: Case, peak: float, peak_at_once: float) -> Row:
    """One row: both ways timed in turn, beside their peaks."""
    mode, regime, steps, minibatch, options = iterated
    time, time_at_once, ratio = side_by_side(work(iterated), work(at_once), options)
    return {
        "mode": mode,
        "regime": regime,
        "K": steps,
        "pairs": steps * minibatch**2,
        "pairs, once": (steps * minibatch) ** 2,
        "ms": time * 1e3,
        "ms, once": time_at_once * 1e3,
        "time ratio": ratio,
        "MiB": peak,
        "MiB, once": peak_at_once,
        "memory ratio": peak / peak_at_once if peak_at_once > 0 else float("nan"),
    }


def work(case: Case, num_tasks: int | None = None) -> Callable[[], None]:
    """The work of a case as a function; its tasks are drawn here, before it is called."""
    mode, regime, steps, minibatch, options = case
    torch.manual_seed(0)
    model = learner(regime, options, width=options.width, steps=steps, minibatch=minibatch)
    tasks: TaskBatch = LinearRegression(DIM).sample(
        options.tasks if num_tasks is None else num_tasks,
        num_support=steps * minibatch,
        num_query=options.queries,
        generator=torch.Generator(options.device).manual_seed(0),
    )

    def use() -> None:
        model.adapt(tasks.support, tasks.query.x).predict(tasks.query.x)

    def train() -> None:
        model(tasks).losses.mean().backward()
        model.zero_grad()

    return use if mode == "use" else train


def peak_memories(cases: list[Case], device: torch.device) -> list[float]:
    """Growth of the peak memory in each case, in MiB."""
    if device.type == "cuda":
        return [peak_on_device(case) for case in cases]
    # Each process is forked from a server that has imported torch and computed nothing: it is fresh
    # and starts at once.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["workbench", "iai_tasks"])
    with context.Pool(1, maxtasksperchild=1) as pool:
        return pool.map(peak_of_process, cases, chunksize=1)


def peak_on_device(case: Case) -> float:
    device = case[-1].device
    work(case, num_tasks=1)()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work(case)()
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


def peak_of_process(case: Case) -> float:
    mode, regime, _, _, options = case
    work((mode, regime, 1, 2, options), num_tasks=1)()
    before = resident_peak()
    work(case)()
    return resident_peak() - before


def resident_peak() -> float:
    """Largest resident size of this process so far, in MiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


if __name__ == "__main__":
    main()
