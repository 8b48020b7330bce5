"""One meta-step of MAML beside the libraries that people use for it.

5-way 1-shot, five inner steps, fifteen queries a class: the gradient of the mean query loss over
the tasks, and a step of Adam. The others go through the tasks one by one, which is what their
examples do; ours takes them in chunks. `time / plain` and `memory / plain` are ratios to a loop of
bare `autograd.grad`, everything having been timed in turn in one run; `time / best` is the ratio to
the fastest of the libraries. Memory is the growth of the peak: what is handed out on top of the
weights, the optimizer's state and the tasks.
"""

import argparse
import copy
import itertools
from collections.abc import Callable
from importlib.util import find_spec
from statistics import median

import torch
from torch import nn
from workbench import Row, bare_arguments, in_turn, ratio, report
from workbench.few_shot import NETWORKS, draw_tasks, network
from workbench.maml import PEERS, Adaptation, Backward, ours, plain
from workbench.memory import peak_memory

WAYS, SHOTS, QUERIES = 5, 1, 15
Maker = Callable[[nn.Module], Backward]


def main() -> None:
    parser = bare_arguments(__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--tasks", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--chunks", type=int, nargs="*", default=[1, 4, 8], help="and all at once")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--first-order", action="store_true")
    options = parser.parse_args()
    rows = [
        row
        for name, num_tasks in itertools.product(options.networks, options.tasks)
        for row in measure(name, num_tasks, options)
    ]
    report("A meta-step of MAML, 5-way 1-shot", rows, options)


def measure(name: str, num_tasks: int, options: argparse.Namespace) -> list[Row]:
    """A row for each library, and for each size of our chunks."""
    torch.manual_seed(0)
    module = network(name, ways=WAYS).to(options.device)
    how = Adaptation(WAYS, steps=options.steps, first_order=options.first_order)
    generator = torch.Generator(options.device).manual_seed(0)
    tasks = draw_tasks(num_tasks, ways=WAYS, shots=SHOTS, queries=QUERIES, generator=generator)

    def step(make: Maker) -> Callable[[], None]:
        own = copy.deepcopy(module)
        backward, optimizer = make(own), torch.optim.Adam(own.parameters(), lr=1e-3)

        def work() -> None:
            backward(tasks)
            optimizer.step()
            optimizer.zero_grad()

        return work

    makers: dict[str, Maker] = {"plain": lambda own: plain(own, how)}
    for peer in filter(find_spec, PEERS):
        makers[peer] = lambda own, peer=peer: PEERS[peer](own, how)
    for chunk in [*(chunk for chunk in options.chunks if chunk < num_tasks), num_tasks]:
        makers[f"ours, {chunk}"] = lambda own, chunk=chunk: ours(own, how, chunk=chunk)
    works = {method: step(make) for method, make in makers.items()}
    memory = {method: peak_memory(work, options.device) for method, work in works.items()}
    times = in_turn(works, options)
    libraries = [method for method in works if method in PEERS] or ["plain"]
    best = min(libraries, key=lambda method: median(times[method]))
    least = min(memory[method] for method in libraries)
    return [
        {
            "network": name,
            "tasks": num_tasks,
            "method": method,
            "ms": median(times[method]) * 1e3,
            "time / plain": ratio(times[method], times["plain"]),
            "time / best": ratio(times[method], times[best]),
            "MiB": memory[method],
            "memory / plain": memory[method] / memory["plain"],
            "memory / least": memory[method] / least,
        }
        for method in works
    ]


if __name__ == "__main__":
    main()
