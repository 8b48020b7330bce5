"""One meta-gradient of implicit MAML beside torchopt's and the same inner loop unrolled.

The inner loop takes the given number of steps of gradient descent on the support loss and the pull
of the start; the implicit gradients then take five steps of conjugate gradients. torchopt goes
through the tasks one by one, and so does ours with "1" behind its name; "all" has them side by
side. `time / torchopt` is a ratio of things timed in turn in one run (`/ unrolled` where torchopt
is not installed), `memory / first` the peak beside that of the same method at the first number of
steps.
"""

import argparse
import copy
from collections.abc import Callable
from importlib.util import find_spec
from statistics import median

import torch
from torch import nn
from workbench import Row, bare_arguments, in_turn, ratio, report
from workbench.few_shot import NETWORKS, draw_tasks, network
from workbench.imaml import ProximalAdaptation, by_torchopt, ours
from workbench.maml import Backward
from workbench.memory import peak_memory

WAYS, SHOTS, QUERIES = 5, 1, 15
MAKERS: dict[str, Callable[[nn.Module, ProximalAdaptation], Backward]] = {
    "implicit, 1": lambda own, how: ours(own, how, "implicit", chunk=1),
    "implicit, all": lambda own, how: ours(own, how, "implicit"),
    "unrolled, 1": lambda own, how: ours(own, how, "unrolled", chunk=1),
    "rematerialised, 1": lambda own, how: ours(own, how, "rematerialised", chunk=1),
}


def main() -> None:
    parser = bare_arguments(__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 5, 10, 50, 100])
    options = parser.parse_args()
    rows: list[Row] = []
    for name in options.networks:
        first: dict[str, float] = {}
        for steps in options.steps:
            rows += measure(name, steps, first, options)
    report("A meta-gradient of implicit MAML, 5-way 1-shot", rows, options)


def measure(
    name: str, steps: int, first: dict[str, float], options: argparse.Namespace
) -> list[Row]:
    """A row for each method; `first` has their peaks at the first number of steps."""
    torch.manual_seed(0)
    module = network(name, ways=WAYS, width=options.width).to(options.device)
    how = ProximalAdaptation(WAYS, steps=steps)
    generator = torch.Generator(options.device).manual_seed(0)
    tasks = draw_tasks(options.tasks, ways=WAYS, shots=SHOTS, queries=QUERIES, generator=generator)

    def gradient(make: Callable[[nn.Module, ProximalAdaptation], Backward]) -> Callable[[], None]:
        own = copy.deepcopy(module)
        backward = make(own, how)

        def work() -> None:
            backward(tasks)
            own.zero_grad()

        return work

    makers = {"torchopt": by_torchopt} if find_spec("torchopt") else {}
    works = {method: gradient(make) for method, make in (makers | MAKERS).items()}
    memory = {method: peak_memory(work, options.device) for method, work in works.items()}
    for method, peak in memory.items():
        first.setdefault(method, peak)
    times = in_turn(works, options)
    beside = next(iter(makers), "unrolled, 1")
    return [
        {
            "network": name,
            "steps": steps,
            "method": method,
            "ms": median(times[method]) * 1e3,
            f"time / {beside.split(',')[0]}": ratio(times[method], times[beside]),
            "MiB": memory[method],
            "memory / first": memory[method] / first[method],
        }
        for method in works
    ]


if __name__ == "__main__":
    main()
