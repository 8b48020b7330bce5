"""Leaks: thousands of meta-steps must add no live tensor and no resident memory.

One row for each gradient mode: live tensors and resident size after a warm-up, and what the
meta-steps after it added to them.
"""

import argparse
import gc
import os
from collections.abc import Callable

import psutil
import torch
from workbench import Row, bare_arguments, report
from workbench.few_shot import draw_tasks, mlp
from workbench.imaml import MODES, ProximalAdaptation
from workbench.imaml import ours as proximal
from workbench.maml import Adaptation, Backward, ours

WAYS = 5


def main() -> None:
    parser = bare_arguments(__doc__)
    parser.add_argument("--meta-steps", type=int, default=10_000)
    parser.add_argument("--warm-up", type=int, default=1_000)
    parser.add_argument("--tasks", type=int, default=4)
    options = parser.parse_args()
    methods: dict[str, Callable[[torch.nn.Module], Backward]] = {
        "unrolled": lambda own: ours(own, Adaptation(WAYS)),
        "first-order": lambda own: ours(own, Adaptation(WAYS, first_order=True)),
    }
    for mode in MODES:
        methods[f"proximal, {mode}"] = lambda own, mode=mode: proximal(
            own, ProximalAdaptation(WAYS, steps=5), mode
        )
    rows = [measure(method, make, options) for method, make in methods.items()]
    report("Meta-steps in a row", rows, options)


def measure(
    method: str, make: Callable[[torch.nn.Module], Backward], options: argparse.Namespace
) -> Row:
    """One row: tensors and memory after the warm-up, and what the meta-steps added."""
    torch.manual_seed(0)
    module = mlp(28 * 28, (8,), WAYS).to(options.device)
    backward, optimizer = make(module), torch.optim.Adam(module.parameters(), lr=1e-3)
    generator = torch.Generator(options.device).manual_seed(0)

    def run(meta_steps: int) -> None:
        for _ in range(meta_steps):
            backward(draw_tasks(options.tasks, ways=WAYS, shots=1, queries=3, generator=generator))
            optimizer.step()
            optimizer.zero_grad()

    run(options.warm_up)
    tensors, resident = held()
    run(options.meta_steps)
    tensors_after, resident_after = held()
    return {
        "method": method,
        "meta-steps": options.meta_steps,
        "tensors": tensors,
        "tensors added": tensors_after - tensors,
        "MiB": resident,
        "MiB added": resident_after - resident,
        "ratio": resident_after / resident,
    }


def held() -> tuple[int, float]:
    """Live tensors, and the resident size of this process in MiB."""
    gc.collect()
    tensors = sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())
    return tensors, psutil.Process(os.getpid()).memory_info().rss / 2**20


if __name__ == "__main__":
    main()
