"""The largest amount of memory that some work holds at once, to the byte."""

import gc
import os
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile, record_function

# The profiler reads this when it is first started; 6 is above its highest level, so it is silent.
os.environ.setdefault("KINETO_LOG_LEVEL", "6")


def peak_memory(work: Callable[[], object], device: torch.device) -> float:
    """Growth of what torch's allocator has handed out, at its largest during the work, in MiB.

    On the CPU every allocation and release that the profiler saw is added up, so that two runs
    agree. The scratch memory that a kernel takes from elsewhere is not among them.
    """
    if device.type == "cuda":
        work()
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()  # what the second run releases, the profiler has seen allocated
        with record_function("measured"):
            work()
    kineto = recorded.profiler
    assert kineto is not None
    events = kineto.kineto_results.events()
    start = next(event.start_ns() for event in events if event.name() == "measured")
    held = before = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            before = held if event.start_ns() < start else before
            peak = max(peak, held - before)
    return peak / 2**20
