"""Kills training again and again, and looks at what is left; run by hand.

    python tests/torture/training.py --kills 100

Nothing may be lost: losses, weights and log are those of a run that nobody disturbed; the
checkpoint is at every time one that loads, and never older than the one before. And nothing may be
left behind: the folder holds a checkpoint, a log and a lock file.
"""

import os
import time
from pathlib import Path

import torch
from iai_train import FitConfig, fit, read_log, whole_file
from iai_train.training.checkpoint import load_checkpoint
from killing import Work, main
from torch import Tensor, nn

CONFIG = FitConfig(iterations=60, log_every=4, checkpoint_every=6, learning_rate=0.1)
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


def lines(out: Path) -> list[dict[str, int | float]]:
    return [{**line, "wall_seconds": 0} for line in read_log(out)]


def taken(out: Path) -> int:
    """Iterations of the checkpoint, which must load."""
    path = out / "checkpoint.safetensors"
    return len(load_checkpoint(path)[0]["losses"]) if path.exists() else 0


def differences(out: Path, whole: Path) -> list[str]:
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


if __name__ == "__main__":
    main(
        Work(
            title=__doc__.splitlines()[0],
            work=train,
            opens=whole_file,
            calls=("fsync", "replace", "unlink", "open", "fdopen", "mkdir"),
            most_calls=170,
            longest=0.5,
            done=taken,
            faults=differences,
        )
    )
