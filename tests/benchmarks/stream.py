"""Memory and speed of a learner that reads one task as a stream: the peak must not grow.

Prints the peak memory of the process and the examples per second after 1%, 10% and all of the
stream, each with its ratio to the first row.
"""

import argparse
import resource
import sys
import time
from collections.abc import Iterator

import torch
from iai_encoders import DeepSet, MemoryTransformer, RunningTransformer, SetTransformer
from iai_iterate import Adapted
from iai_regimes import (
    ExplicitMemory,
    Gaussian,
    LearnedRule,
    Parametric,
    Predictor,
    RunningAttention,
)
from iai_tasks import Examples, LinearRegression

DIM = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=10**7, help="length of the stream")
    parser.add_argument("--minibatch", type=int, default=1000)
    parser.add_argument("--learner", choices=LEARNERS, default="parametric")
    options = parser.parse_args()

    torch.manual_seed(0)
    adapted = Adapted.new(LEARNERS[options.learner](), 1, torch.randn(1, 16, DIM))

    num_steps = max(100, options.examples // options.minibatch)
    shown = {num_steps // 100, num_steps // 10, num_steps}
    print(f"{'examples':>12} {'peak MiB':>9} {'ratio':>6} {'examples/s':>11} {'ratio':>6}")
    rows: list[tuple[float, float]] = []
    for batch in stream(3, options.minibatch):
        adapted.update(batch)  # a warm-up
    started, last = time.perf_counter(), 0
    for step, batch in enumerate(stream(num_steps, options.minibatch), start=1):
        adapted = adapted.update(batch)
        if step in shown:
            now = time.perf_counter()
            read = (step - last) * options.minibatch
            rows.append((peak_memory(), read / (now - started)))
            started, last = now, step
            (peak, rate), (first_peak, first_rate) = rows[-1], rows[0]
            print(
                f"{step * options.minibatch:>12,} {peak:>9.1f} {peak / first_peak:>6.3f} "
                f"{rate:>11,.0f} {rate / first_rate:>6.2f}",
                flush=True,
            )


def parametric() -> Parametric:
    predictor, likelihood = Predictor(torch.nn.Linear(DIM, 1)), Gaussian(1, scale=0.5)
    rule = LearnedRule(predictor, likelihood, DeepSet(32), x_dim=DIM)
    return Parametric(predictor, likelihood, rule)


def memory() -> ExplicitMemory:
    encoder = MemoryTransformer(32, num_layers=2, num_heads=2)
    return ExplicitMemory(encoder, Gaussian(1, scale=0.5), x_dim=DIM)


def running() -> RunningAttention:
    encoder = RunningTransformer(SetTransformer(32, num_layers=2, num_heads=2))
    return RunningAttention(encoder, Gaussian(1, scale=0.5), x_dim=DIM)


LEARNERS = {"parametric": parametric, "memory": memory, "running": running}


def stream(num_steps: int, minibatch: int) -> Iterator[Examples]:
    """New examples of one task, drawn one minibatch at a time."""
    sampler, generator = LinearRegression(DIM), torch.Generator().manual_seed(0)
    latent = sampler.sample(1, num_support=0, num_query=0, generator=generator).latent
    for _ in range(num_steps):
        yield sampler.sample(
            1, num_support=minibatch, num_query=0, generator=generator, latent=latent
        ).support


def peak_memory() -> float:
    """Largest resident size of this process so far, in MiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


if __name__ == "__main__":
    main()
