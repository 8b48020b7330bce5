import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from iai_train import CheckpointError, process_generator, process_index, resolve_device
from least_squares import Descent, Interrupted, LiveTasks, train

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="needs torch.distributed"
)


def test_two_processes_are_one_with_twice_the_tasks(tmp_path: Path) -> None:
    script = Path(__file__).with_name("two_processes.py")
    train(Descent(dropout=0.2), LiveTasks(), out=tmp_path / "alone")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *launch, str(script), str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "of `learner` get no gradient and stay as they are: `idle`. Freeze" in done.stderr

    losses, weights = json.loads((tmp_path / "shared.json").read_text())
    alone = train()
    assert losses == pytest.approx(alone.losses, abs=1e-6)
    own = torch.cat([p.detach().flatten() for p in alone.learner.parameters()])
    assert weights == pytest.approx(own.tolist(), abs=1e-6)

    # A run of two processes is not one of a single process.
    with pytest.raises(CheckpointError, match=r"by 2 process\(es\); a run in 1 cannot go on"):
        train(Descent(dropout=0.2), Interrupted(LiveTasks(), 0), out=tmp_path / "whole")


def test_a_process_that_is_not_joined_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    train()  # joins no group: this process stands alone
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="started 2 processes and 1 joined"):
        train()


def test_the_main_process_draws_from_the_seed_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    assert process_index() == 0
    first = torch.randn(3, generator=process_generator(5, "cpu"))
    assert torch.equal(first, torch.randn(3, generator=torch.Generator().manual_seed(5)))
    monkeypatch.setenv("RANK", "1")
    second = torch.randn(3, generator=process_generator(5, "cpu"))
    assert not torch.equal(first, second)


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    with pytest.raises(ValueError, match="`device` is cuda, and there is no CUDA device here"):
        resolve_device("cuda")
