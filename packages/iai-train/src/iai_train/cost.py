"""What a piece of work costs: seconds, and peak memory."""

import json
import tempfile
import time
from collections.abc import Callable
from itertools import accumulate
from operator import itemgetter
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile


def seconds(work: Callable[[], object], device: torch.device, *, repeats: int = 5) -> float:
    """The fastest of several runs, after one that warms up: what else the machine does only adds.

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
    """How far the memory that torch has handed out on a device grows while work is done.

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
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "trace.json"
        recorded.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    sizes = sorted((one for one in events if one["name"] == "[memory]"), key=itemgetter("ts"))
    return float(max(accumulate((event["args"]["Bytes"] for event in sizes), initial=0)))
