"""The largest amount of memory that some work holds at once, to the byte."""

import os
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

# The profiler reads this at its first start. 6 is above its levels: it prints nothing.
os.environ.setdefault("KINETO_LOG_LEVEL", "6")


def peak_memory(work: Callable[[], object], device: torch.device) -> float:
    """Growth of what torch's allocator has handed out, at its largest during the work, in MiB.

    On the CPU every allocation and release that the profiler saw is added up, so that two runs
    agree. The scratch memory that a kernel takes from elsewhere is not among them.
    """
    work()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    kineto = recorded.profiler
    assert kineto is not None
    events = [event for event in kineto.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak / 2**20
