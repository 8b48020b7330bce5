"""What `test_processes.py` starts twice with torchrun: each process checks what it sees."""

import json
import signal
import sys
from contextlib import nullcontext
from pathlib import Path

import attrs
import torch
from accelerate import Accelerator
from iai_train import (
    CheckpointError,
    FitResult,
    NonFiniteError,
    process_generator,
    process_index,
)
from iai_train.files import locked
from iai_train.processes import Processes
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


def live(
    out: Path, make: type[Interrupted] = Interrupted, batches: int = 1000, seed: int = 0
) -> FitResult:
    torch.manual_seed(process_index())
    tasks = LiveTasks(seed + process_index())
    return train(Descent(dropout=0.2), make(tasks, batches), out=out)


class Idle(Descent):
    """Has a weight that no process uses, and one that the second process alone uses."""

    def __init__(self) -> None:
        super().__init__()
        self.idle, self.rare = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))

    def forward(self, tasks: Batch, state: object = None) -> tuple[object, ...]:
        losses, *rest = super().forward(tasks, state)
        return losses + (self.rare if process_index() else 0), *rest


class Signalled(Interrupted):
    """A source that a signal reaches at one of its batches, in the second process alone."""

    def next(self) -> object:
        self._left -= 1
        if self._left == 0 and process_index() == 1:
            signal.raise_signal(signal.SIGINT)
        return self._source.next()


def expect(error: type[BaseException], message: str, action: object) -> None:
    try:
        action()
    except error as caught:
        if message not in str(caught):
            raise
    else:
        raise RuntimeError(f"Expected {error.__name__}.")


def main(out: Path) -> None:
    Accelerator(mixed_precision="bf16", cpu=True)  # the program's own, which joins the processes
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

    # A signal to one process ends both when they meet: after 10 iterations, at a line of the log.
    expect(KeyboardInterrupt, "", lambda: live(out / "signal", Signalled, 9))
    resumed = live(out / "signal", seed=7)
    if (resumed.resumed_at, resumed.losses) != (10, whole.losses):
        raise RuntimeError("The run that a signal stopped is another one.")

    # Weights without a gradient stay, and one process's are averaged.
    idle = train(Idle()).learner
    if idle.idle.item() != 1 or idle.rare.item() == 1:
        raise RuntimeError("Weights without a gradient moved, or others did not.")
    told = Processes(index=process_index(), count=2).gather(idle.rare.item())
    if len(set(told)) > 1:
        raise RuntimeError("The processes have other weights.")

    # A run of one process is not one of two, and a folder in use is refused in both.
    expect(CheckpointError, "by 1 process(es); a run in 2 cannot", lambda: live(out / "alone"))
    with locked(out / "busy") if process_index() == 0 else nullcontext():
        torch.distributed.barrier()
        expect(ValueError, "is in use", lambda: live(out / "busy"))

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
