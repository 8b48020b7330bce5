"""What `test_processes.py` starts twice with torchrun: each process checks what it sees."""

import json
import sys
from pathlib import Path

import attrs
import torch
from iai_train import FitResult, NonFiniteError, process_generator, process_index
from least_squares import (
    CONFIG,
    Batch,
    Descent,
    GaveUpError,
    Interrupted,
    LiveTasks,
    Spoiled,
    full_disk,
    sampler_source,
    train,
)


class Share:
    """This process's half of the tasks of a source."""

    def __init__(self) -> None:
        self._source = sampler_source()

    def next(self) -> tuple[Batch, None]:
        tasks, _ = self._source.next()
        return tasks[4 * process_index() : 4 * process_index() + 4], None

    def __getattr__(self, name: str) -> object:
        return getattr(self._source, name)


def live(out: Path | None = None, batches: int = 1000, seed: int = 0) -> FitResult:
    torch.manual_seed(process_index())
    tasks = LiveTasks(seed + process_index())
    return train(Descent(dropout=0.2), Interrupted(tasks, batches), out=out)


def expect(error: type[Exception], message: str, action: object) -> None:
    try:
        action()
    except error as caught:
        if message not in str(caught):
            raise
    else:
        raise RuntimeError(f"Expected {error.__name__}.")


def main(out: Path) -> None:
    shared = train(source=Share(), out=out / "shared")
    if process_index() == 0:
        weights = torch.cat([p.detach().flatten() for p in shared.learner.parameters()])
        (out / "shared.json").write_text(json.dumps([shared.losses, weights.tolist()]))

    # In ragged chunks it is the same run, and its processes exchange gradients once an update.
    chunked = train(source=Share(), config=attrs.evolve(CONFIG, chunk=3))
    for one, other in zip(chunked.losses, shared.losses, strict=True):
        if abs(one - other) > 1e-6:
            raise RuntimeError("In chunks the run is another one.")

    # A source and dropout of its own in each process, and all of it comes back.
    whole = live(out / "whole")
    expect(GaveUpError, "", lambda: live(out / "parts", batches=9))
    resumed = live(out / "parts", seed=7)
    if (resumed.resumed_at, resumed.losses) != (8, whole.losses):
        raise RuntimeError("The resumed run is another one.")

    # What goes wrong in one process stops all of them.
    nan = [Descent(), Spoiled(11, "loss")][process_index()]
    expect(NonFiniteError, "in iteration 11", lambda: train(nan))
    again = attrs.evolve(CONFIG, iterations=4)
    with full_disk(1000 if process_index() == 0 else 10**9):
        expect(
            OSError, "File too large", lambda: train(source=Share(), config=again, out=out / "full")
        )

    if process_generator(3, "cpu").initial_seed() != 3 + 1_000_003 * process_index():
        raise RuntimeError("The processes draw the same tasks.")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
