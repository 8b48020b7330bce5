"""What work costs: seconds of the fastest run, bytes at the peak."""

import subprocess
import sys
import time

import pytest
import torch
from iai_train import peak_bytes, seconds

CPU = torch.device("cpu")


def test_seconds_are_those_of_the_fastest_run_after_one_to_warm_up():
    pauses = iter([0.0, 0.06, 0.02, 0.06])
    found = seconds(lambda: time.sleep(next(pauses)), CPU, repeats=3)
    assert 0.02 <= found < 0.06
    assert next(pauses, None) is None


def test_a_run_at_least():
    with pytest.raises(ValueError, match="`repeats` must be at least 1"):
        seconds(lambda: None, CPU, repeats=0)


def test_the_peak_counts_what_lives_at_once():
    def one_after_another():
        for _ in range(4):
            torch.ones(250_000)  # a megabyte, gone before the next

    def together():
        return [torch.ones(250_000) for _ in range(4)]

    assert 1e6 <= peak_bytes(one_after_another, CPU) < 1.1e6
    assert 4e6 <= peak_bytes(together, CPU) < 4.1e6


def test_measuring_memory_prints_nothing():
    script = "import torch; from iai_train import peak_bytes; "
    script += "print(peak_bytes(lambda: torch.ones(1000), torch.device('cpu')))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("4000.0\n", "")


def test_work_without_memory_has_no_peak():
    assert peak_bytes(lambda: None, CPU) == 0
