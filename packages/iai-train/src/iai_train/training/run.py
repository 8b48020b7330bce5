"""A training run between two iterations, and its checkpoint."""

import contextlib
import math
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import attrs
import torch
from torch import nn

from iai_train.config import FitConfig
from iai_train.interfaces import Source
from iai_train.processes import Processes
from iai_train.training.checkpoint import (
    CheckpointError,
    check_setup,
    load_checkpoint,
    packed,
    save_checkpoint,
    short,
)
from iai_train.training.log import Log
from iai_train.training.saved_run import SavedRun, run_tree, saved_run
from iai_train.training.tree import flatten, unflatten
from iai_train.training.update import Updater, learning_rate
from iai_train.training.weights import first_not_finite


class NonFiniteError(ArithmeticError):
    """A loss, gradient, weight or buffer was not finite; no checkpoint holds it."""


@attrs.define(eq=False)
class Run:
    """A training run between two iterations."""

    processes: Processes
    """The processes it runs in."""
    learner: nn.Module
    """What is trained, on its device."""
    source: Source[Any, Any]
    """Where this process takes its tasks from."""
    config: FitConfig
    """The settings."""
    device: torch.device
    """Where the learner is."""
    setup: Mapping[str, object]
    """What a checkpoint must have been written with, as plain JSON values."""
    path: Path | None
    """The checkpoint, or None."""
    log: Log
    """Where lines are written."""
    updater: Updater = attrs.field(init=False)
    losses: list[float] = attrs.field(factory=list, init=False)
    """Of every iteration taken and read."""
    records: list[dict[str, int | float]] = attrs.field(factory=list, init=False)
    """The lines of the log."""
    gradient_norm: float = attrs.field(default=math.nan, init=False)
    wall_seconds: float = attrs.field(default=0.0, init=False)
    _saved_at: int | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.updater = Updater(self.learner, self.config)

    @property
    def iteration(self) -> int:
        """Number of iterations taken and read."""
        return len(self.losses)

    def read(self) -> None:
        """Reads the losses since the last call, averaged over processes: waits for the device.

        Raises:
            NonFiniteError: One of them, a gradient norm or a buffer was not finite.
        """
        taken = self.updater.read()
        columns = zip(*((one.finite, one.loss, one.norm) for one in taken), strict=True)
        rows = torch.stack([torch.stack(column).double() for column in columns], 1).tolist()
        for index, of_each in enumerate(zip(*self.processes.gather(rows), strict=True)):
            finite, loss, norm = (
                sum(column) / len(of_each) for column in zip(*of_each, strict=True)
            )
            if finite < 1:
                culprits = self.processes.gather(self.updater.blame(taken[index]))
                raise NonFiniteError(self._repeat(min(culprits)[1]))
            self.losses.append(loss)
            self.gradient_norm = norm

    def write_log(self) -> dict[str, int | float]:
        """Writes a line of the log: the loss is the mean since the line before."""
        since = (self.iteration - 1) // self.config.log_every * self.config.log_every
        record: dict[str, int | float] = {
            "iteration": self.iteration,
            "loss": math.fsum(self.losses[since:]) / (self.iteration - since),
            "gradient_norm": self.gradient_norm,
            "learning_rate": learning_rate(self.config, self.iteration - 1),
            "wall_seconds": self.wall_seconds,
        }
        self.records.append(record)
        self.processes.on_main(partial(self.log.write, record))
        return record

    def check_storable(self) -> None:
        """Finds out before training whether a checkpoint can be written.

        Raises:
            TypeError: Something that it would hold cannot be stored.
            ValueError: A weight is not finite, or a buffer holds NaN.
        """
        if self.path is not None:
            if name := self._first_not_finite():
                raise ValueError(
                    f"`learner` must have finite weights, and buffers without NaN, to be saved; "
                    f"`{name}` is not finite."
                )
            tree = {"learner": self.learner.state_dict(), "process": self._process_state()}
            packed(tree, self.setup)

    def save(self) -> None:
        """Writes the checkpoint: one file for all processes, so that it is whole or as it was.

        Raises:
            NonFiniteError: A weight, buffer or moment is not finite; the one before is untouched.
            OSError: It could not be written; the one before is untouched.
        """
        if self.path is None:
            return
        self.processes.on_main(
            partial(self._write, self.path, self.processes.gather(self._process_state()))
        )
        self._saved_at = self.iteration

    def stored(self) -> SavedRun | None:
        """What the checkpoint holds, where there is one: all of it is checked, none is used.

        Raises:
            CheckpointError: It is damaged, or belongs to another run.
            OSError: It cannot be read.
        """
        found = self.processes.together(self._read)
        taken = self.processes.gather(None if found is None else len(found.losses))
        if len(set(taken)) > 1:
            raise CheckpointError(
                "`out` must be one folder, which all processes see; they found checkpoints of "
                f"iterations {', '.join(map(str, taken))}."
            )
        return found

    def resume(self, saved: SavedRun) -> None:
        """Goes on from a checkpoint.

        Raises:
            CheckpointError: The source refuses its state; nothing was loaded.
        """
        before = unflatten(*flatten(self.source.state_dict()))
        try:
            self.processes.together(partial(self._load_source, saved.process["source"]))
        except CheckpointError:
            with contextlib.suppress(Exception):  # another's error must not be replaced by this
                self.source.load_state_dict(cast(dict[str, object], before))
            raise
        torch.set_rng_state(saved.process["cpu"])
        if saved.process["cuda"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(saved.process["cuda"], self.device)
        self.learner.load_state_dict(saved.weights)
        self.updater.load(saved.moments)
        self.losses, self.records = saved.losses, saved.log
        self.wall_seconds = saved.wall_seconds
        self._saved_at = self.iteration

    def _read(self) -> SavedRun | None:
        if self.path is None or not os.path.lexists(self.path):
            return None
        tree, setup = load_checkpoint(self.path)
        check_setup(self.path, setup, self.setup)
        return saved_run(
            self.path,
            tree,
            self.learner,
            self.updater.moments,
            iterations=self.config.iterations,
            processes=self.processes,
            device=self.device,
        )

    def _load_source(self, state: Any) -> None:
        try:
            self.source.load_state_dict(state)
        except Exception as error:
            raise CheckpointError(
                f"`{self.path}` holds a state that `source` refuses: {short(error)}"
            ) from error

    def _write(self, path: Path, processes: list[dict[str, object]]) -> None:
        moments = self.updater.moments
        tree = run_tree(
            self.learner, moments, processes, self.losses, self.records, self.wall_seconds
        )
        bad = [f"weight or buffer `{name}`"] if (name := self._first_not_finite()) else []
        bad += [f"moment of `{name}`" for name, part in moments.items() if first_not_finite(part)]
        if bad:
            kept = "there is no earlier one"
            if self._saved_at is not None:
                kept = f"that of iteration {self._saved_at} is kept"
            raise NonFiniteError(
                f"The {bad[0]} was not finite after iteration {self.iteration}{self._seed()}: no "
                f"checkpoint was written; {kept}."
            )
        self.log.flush()  # so that a power cut does not take lines that the checkpoint is after
        save_checkpoint(path, tree, self.setup)

    def _first_not_finite(self) -> str | None:
        return first_not_finite(self.learner.state_dict(), self.updater.buffers.infinite)

    def _process_state(self) -> dict[str, object]:
        # torch's own generators too: a learner's dropout draws from them.
        on_cuda = self.device.type == "cuda"
        return {
            "source": self.source.state_dict(),
            "cpu": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(self.device) if on_cuda else None,
        }

    def _repeat(self, what: str) -> str:
        again = "the same run repeats it"
        if self._saved_at is not None:
            again = f"going on from `{self.path}`, iteration {self._saved_at}, repeats it"
        return (
            f"The {what} was not finite in iteration {self.iteration + 1}{self._seed()}: {again}. "
            "The learner has the weights and buffers from before that iteration."
        )

    def _seed(self) -> str:
        setup = self.setup["setup"]
        seed = setup.get("seed") if isinstance(setup, dict) else None
        return "" if seed is None else f" (seed {seed})"
