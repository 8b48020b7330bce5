"""What the benchmarks share: learners, timing in turn, and the table of results."""

import argparse
import itertools
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

import torch
from iai_encoders import SetTransformer
from iai_iterate import Iterated
from iai_regimes import Gaussian, Implicit, LearnedRule, Parametric, Predictor
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

DIM = 4
REGIMES = ("implicit", "parametric")

Row = dict[str, str | int | float]


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark of a regime has."""
    parser = bare_arguments(description)
    parser.add_argument("--minibatch", type=int, default=16)
    parser.add_argument("--queries", type=int, default=32)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=4)
    return parser


def bare_arguments(description: str | None) -> argparse.ArgumentParser:
    """The options of every benchmark: device, duration and output file."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", type=torch.device, default=device)
    parser.add_argument("--seconds", type=float, default=1.5, help="least time for each comparison")
    parser.add_argument("--out", type=Path, help="write the rows here, as JSON")
    return parser


def learner(
    regime: str, options: argparse.Namespace, *, width: int, steps: int, minibatch: int
) -> Iterated:
    """An untrained learner as in the examples; its cost does not depend on its weights."""
    encoder = SetTransformer(width, options.layers, options.heads, 2 * width)
    likelihood = Gaussian(1, scale=0.5)
    made: Implicit | Parametric
    if regime == "implicit":
        made = Implicit(encoder, likelihood, x_dim=DIM)
    else:
        predictor = Predictor(torch.nn.Linear(DIM, 1))
        rule = LearnedRule(predictor, likelihood, encoder, x_dim=DIM)
        made = Parametric(predictor, likelihood, rule)
    return Iterated(made, steps=steps, minibatch=minibatch).to(options.device)


def side_by_side(
    one: Callable[[], object], other: Callable[[], object], options: argparse.Namespace
) -> tuple[float, float, float]:
    """Median seconds of each, and the median over rounds of the ratio one / other.

    Each round times both, and the next round times them in the opposite order, so that other load
    on the machine affects both alike.
    """
    one()
    other()
    times: list[tuple[float, float]] = []
    started = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - started < options.seconds:
        if len(times) % 2:
            second, first = seconds(other, options.device), seconds(one, options.device)
        else:
            first, second = seconds(one, options.device), seconds(other, options.device)
        times.append((first, second))
    firsts, seconds_ = zip(*times, strict=True)
    return median(firsts), median(seconds_), median(a / b for a, b in times)


def in_turn(
    works: Mapping[str, Callable[[], object]], options: argparse.Namespace
) -> dict[str, list[float]]:
    """Seconds of each in every round; the order rotates by one from round to round."""
    names = list(works)
    for work in works.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in names}
    started = time.perf_counter()
    for index in itertools.count():
        if index >= 3 and time.perf_counter() - started >= options.seconds:
            return times
        first = index % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(seconds(works[name], options.device))
    raise AssertionError  # `count` does not end


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call, including the work that it queued on the device."""
    _wait(device)
    started = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - started


def ratio(times: Sequence[float], others: Sequence[float]) -> float:
    """Median over the rounds of times / others."""
    return median(one / other for one, other in zip(times, others, strict=True))


def report(title: str, rows: Sequence[Row], options: argparse.Namespace) -> None:
    """Print the rows as a table, and write them to `--out` if it is given."""
    where = torch.cuda.get_device_name(options.device) if _on_cuda(options.device) else "CPU"
    table = Table(
        title=f"{title} ({where}, {torch.get_num_threads()} threads)",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*map(_cell, row.values()))
    Console(width=max(Console().width, 110)).print(table)
    if options.out is not None:
        setting = {name: value for name, value in vars(options).items() if name != "out"}
        content = {
            "benchmark": title,
            "device": where,
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "options": setting,
            "rows": rows,
        }
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(content, indent=1, default=str) + "\n")


def _cell(value: str | int | float) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else value


def _wait(device: torch.device) -> None:
    if _on_cuda(device):
        torch.cuda.synchronize(device)


def _on_cuda(device: torch.device) -> bool:
    return device.type == "cuda"
