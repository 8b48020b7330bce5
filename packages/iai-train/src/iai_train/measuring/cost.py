"""What a piece of work costs: seconds, and peak memory."""

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from itertools import accumulate
from pathlib import Path

import attrs
import torch
from torch.profiler import ProfilerActivity, profile

from iai_train.files import parse_json, write_atomically
from iai_train.row import Row


def seconds(work: Callable[[], object], device: torch.device, *, repeats: int = 5) -> float:
    """The time of the fastest of several runs, which other processes disturbed least.

    One more run comes first, to warm up.

    Args:
        work: What is timed, from its call until the device has finished.
        device: Where it runs.
        repeats: How many runs are timed, at least 1.

    Raises:
        ValueError: `repeats` is below 1.

    >>> seconds(lambda: None, torch.device("cpu")) < 1
    True
    """
    if repeats < 1:
        raise ValueError(f"`repeats` must be at least 1; got {repeats}.")
    times = []
    for _ in range(1 + repeats):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    return min(times[1:])


def peak_bytes(work: Callable[[], object], device: torch.device) -> float:
    """How much torch's allocated memory on a device grows at most while work is done.

    Args:
        work: What is measured; run once.
        device: The device whose memory counts. On the CPU torch's profiler counts, which slows the
            work down.

    >>> peak_bytes(lambda: torch.zeros(1000).sum(), torch.device("cpu")) >= 4000
    True
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return float(torch.cuda.max_memory_allocated(device) - before)
    # Else the profiler prints a line as it starts and one as it stops; read at its first use.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    events = recorded.profiler.kineto_results.events()
    changes = [event for event in events if event.name() == "[memory]"]
    changes.sort(key=lambda event: event.start_ns())
    return float(max(accumulate((change.nbytes() for change in changes), initial=0)))


def cost_rows(
    row: Row,
    what: str,
    costs: Mapping[str, Callable[[], float]],
    once: Callable[[str, Callable[[], float]], float],
) -> list[Row]:
    """The rows of costs of a method, beside a row of it.

    Args:
        row: The method and the step that the costs are of.
        what: What the costs are of, and all that they depend on.
        costs: What measures each cost, by the name of its metric.
        once: Returns a cost by its name, measured or kept: `Experiment.once`.
    """
    return [
        attrs.evolve(row, metric=metric, value=once(f"{metric} {what}", cost), stderr=math.nan)
        for metric, cost in costs.items()
    ]


def measure_once(path: Path, what: str, work: Callable[[], float]) -> float:
    """A number that is measured once, such as a cost, and read again by a run that goes on.

    Args:
        path: The JSON file that keeps it.
        what: What the number is of, and all that it depends on beside training.
        work: Measures it.

    Raises:
        ValueError: The file is damaged.
    """
    try:
        kept = parse_json(path.read_bytes()) if path.exists() else {}
    except ValueError as error:
        raise ValueError(f"`{path}` is damaged: {error}. Delete it to measure anew.") from error
    if not (isinstance(kept, dict) and all(type(value) in (int, float) for value in kept.values())):
        raise ValueError(f"`{path}` must hold numbers by name. Delete it to measure anew.")
    if what not in kept:
        kept[what] = work()
        write_atomically(path, json.dumps(kept, indent=1).encode())
    return float(kept[what])
