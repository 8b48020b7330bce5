"""Kills training again and again, and looks at what is left; run by hand.

    python tests/torture/training.py --kills 100

Half of the kills come at a random moment, and half at a file call: before it, after it, or in the
middle of what it writes. After each, training is started again in the same folder, and killed
again, until it ends. Nothing may be lost: losses, weights and log are those of a run that nobody
disturbed; the checkpoint is at every time one that loads, and never older than the one before. And
nothing may be left behind: the folder holds a checkpoint, a log and a lock file.
"""

import argparse
import builtins
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from iai_train import FitConfig, fit, read_log, whole_file
from iai_train.training.checkpoint import load_checkpoint
from torch import Tensor, nn

CONFIG = FitConfig(iterations=60, log_every=4, checkpoint_every=6, learning_rate=0.1)
CALLS = ("fsync", "replace", "unlink", "open", "fdopen", "mkdir")  # and what is written
MOST_CALLS = 170  # about as many as a run makes
KILLS_A_RUN = 4
REMAINS = {".lock", "checkpoint.safetensors", "log.jsonl"}


class Learner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.dropout = nn.Dropout(0.2)

    def forward(self, tasks: Tensor, state: None = None) -> tuple[Tensor, Tensor, None]:
        losses = (self.dropout(self.weight) - tasks[:, None]).square().mean(1)[None]
        return losses, torch.ones_like(losses), None


class Source:
    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def next(self) -> tuple[Tensor, None]:
        time.sleep(0.005)  # so that a random moment is mostly one of training
        return torch.randn(4, generator=self.generator), None

    def put(self, state: None) -> None:
        pass

    def state_dict(self) -> dict[str, object]:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.generator.set_state(state["generator"])


def train(out: Path) -> None:
    torch.manual_seed(0)
    fit(Learner(), Source(), CONFIG, out=out, device="cpu", progress=False)


class Die:
    """Kills this process at a file call: `when` is before, halfway or after."""

    def __init__(self, call: int, when: str) -> None:
        self.left, self.when = call, when

    def at(self, module: object, name: str) -> None:
        real = getattr(module, name, None) or getattr(builtins, name)

        def wrapped(*args: object, **options: object) -> object:
            self.left -= 1
            if self.left == 0 and self.when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*args, **options)
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return self.torn(result) if hasattr(result, "write") else result

        setattr(module, name, wrapped)

    def torn(self, file: object) -> object:
        """A file of which a write may stop halfway."""
        die = self

        class Torn:
            def write(self, content: bytes) -> int:
                die.left -= 1
                if die.left == 0:
                    size = {"before": 0, "halfway": len(content) // 2}.get(die.when, len(content))
                    file.write(content[:size])
                    file.flush()
                    os.kill(os.getpid(), signal.SIGKILL)
                return file.write(content)

            def __enter__(self) -> "Torn":
                file.__enter__()
                return self

            def __exit__(self, *error: object) -> object:
                return file.__exit__(*error)

            def __getattr__(self, name: str) -> object:
                return getattr(file, name)

        return Torn()


def child(out: Path, call: int, when: str) -> None:
    """What the killed process runs."""
    if call:
        die = Die(call, when)
        die.at(whole_file, "open")
        for name in CALLS:
            die.at(os, name)
    train(out)


def lines(out: Path) -> list[dict[str, int | float]]:
    return [{**line, "wall_seconds": 0} for line in read_log(out)]


def taken(out: Path) -> int:
    """Iterations of the checkpoint, which must load."""
    path = out / "checkpoint.safetensors"
    return len(load_checkpoint(path)[0]["losses"]) if path.exists() else 0


def check(out: Path, whole: Path) -> list[str]:
    """What differs from the run that nobody disturbed."""
    paths = (folder / "checkpoint.safetensors" for folder in (out, whole))
    ours, theirs = (load_checkpoint(path)[0] for path in paths)
    faults = []
    if not torch.equal(ours["losses"], theirs["losses"]):
        faults.append("other losses")
    if not torch.equal(ours["learner"]["weight"], theirs["learner"]["weight"]):
        faults.append("other weights")
    if lines(out) != lines(whole):
        faults.append("another log")
    if left := set(os.listdir(out)) - REMAINS:
        faults.append(f"left behind: {sorted(left)}")
    return faults


def torture(kills: int, seed: int) -> int:
    draw, counts, faults = random.Random(seed), Counter(), []
    with tempfile.TemporaryDirectory() as folder:
        whole, run = Path(folder, "whole"), 0
        train(whole)
        while counts["kills"] < kills:
            run += 1
            out, last = Path(folder, str(run)), 0
            for _ in range(KILLS_A_RUN):
                at_call = draw.random() < 0.5
                call = draw.randint(1, MOST_CALLS) if at_call else 0
                when = draw.choice(("before", "halfway", "after"))
                status = killed(out, call, when, None if at_call else draw.uniform(0, 0.5))
                if status == 0:
                    counts["ended before the kill"] += 1
                    break
                counts["kills"] += 1
                counts["at a file call" if at_call else "at a random moment"] += 1
                if status != -signal.SIGKILL:
                    faults.append(f"run {run}: status {status}")
                if (now := taken(out)) < last:
                    faults.append(f"run {run}: from iteration {last} back to {now}")
                last = now
                counts["goes on from a checkpoint"] += now > 0
                counts["temporary file after the kill"] += any(
                    name.endswith(".tmp") for name in (os.listdir(out) if out.exists() else ())
                )
            train(out)
            counts["runs"] += 1
            faults += [f"run {run}: {fault}" for fault in check(out, whole)]
    for name, count in counts.items():
        print(f"{count:5} {name}")
    print(f"{len(faults):5} faults")
    print(*faults, sep="\n")
    return len(faults)


def killed(out: Path, call: int, when: str, moment: float | None) -> int:
    """Trains in another process, which is forked here, once torch is imported; kills it."""
    pid = os.fork()
    if pid == 0:
        try:
            child(out, call, when)
        finally:
            os._exit(0 if sys.exc_info()[0] is None else 1)
    if moment is not None:
        time.sleep(moment)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    sys.exit(torture(given.kills, given.seed) > 0)
