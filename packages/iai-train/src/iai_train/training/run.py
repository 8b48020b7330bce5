"""A training run between two iterations, and its checkpoint."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import attrs
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn

from iai_train.config import FitConfig
from iai_train.interfaces import Source
from iai_train.training.checkpoint import (
    CheckpointError,
    check_setup,
    check_weights,
    load_checkpoint,
    save_checkpoint,
)
from iai_train.training.update import Updater


class NonFiniteError(ArithmeticError):
    """A loss or a gradient was not finite; the weights are those from before that iteration."""


@attrs.define(eq=False)
class Run:
    """A training run between two iterations."""

    accelerator: Accelerator
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
    updater: Updater = attrs.field(init=False)
    losses: list[float] = attrs.field(factory=list, init=False)
    """Of every iteration taken and read."""
    gradient_norm: float = attrs.field(default=math.nan, init=False)
    wall_seconds: float = attrs.field(default=0.0, init=False)
    _saved_at: int | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.updater = Updater(self.learner.parameters(), self.config)

    @property
    def iteration(self) -> int:
        """Number of iterations taken and read."""
        return len(self.losses)

    def on_main(self, action: Callable[[], object]) -> None:
        """Does something in the main process alone; all processes raise what it raises."""
        errors: list[Exception | None] = [None]
        if self.accelerator.is_main_process:
            try:
                action()
            except Exception as error:
                errors = [error]
        broadcast_object_list(errors)
        if errors[0] is not None:
            raise errors[0]

    def read(self) -> None:
        """Reads the losses since the last call, averaged over processes: waits for the device.

        Raises:
            NonFiniteError: One of them, or of the gradient norms, is not finite.
        """
        rows = self.accelerator.gather(self.updater.read().unsqueeze(0))
        losses, norms = cast(Tensor, rows).double().mean(0).tolist()
        for loss, norm in zip(losses, norms, strict=True):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise NonFiniteError(self._repeat("gradient" if math.isfinite(loss) else "loss"))
            self.losses.append(loss)
            self.gradient_norm = norm

    def save(self) -> None:
        """Writes the checkpoint: one file for all processes, so that it is whole or as it was.

        Raises:
            OSError: It could not be written; the one before is untouched.
        """
        if (path := self.path) is None:
            return
        tree = {
            "learner": self.learner.state_dict(),
            "optimizer": self.updater.optimizer.state_dict(),
            "processes": gather_object([self._process_state()]),
            "losses": torch.tensor(self.losses, dtype=torch.float64),
            "wall_seconds": self.wall_seconds,
        }
        self.on_main(partial(save_checkpoint, path, tree, self.setup))
        self._saved_at = self.iteration

    def restore(self) -> None:
        """Goes on from the checkpoint, where there is one; all of it is checked before any is used.

        Raises:
            CheckpointError: It is damaged, or belongs to another run.
        """
        if self.path is None or not self.path.is_file():
            return
        stored, setup = load_checkpoint(self.path)
        check_setup(self.path, setup, self.setup)
        tree = cast(dict[str, Any], stored)
        there, here = len(tree["processes"]), self.accelerator.num_processes
        if there != here:
            raise CheckpointError(
                f"`{self.path}` was written by {there} process(es); a run in {here} cannot go on "
                "from it."
            )
        check_weights(self.path, self.learner, tree["learner"])
        state = tree["processes"][self.accelerator.process_index]
        self.source.load_state_dict(state["source"])  # first, because it may still refuse
        torch.set_rng_state(state["cpu"])
        if state["cuda"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"], self.device)
        self.learner.load_state_dict(tree["learner"])
        self.updater.optimizer.load_state_dict(tree["optimizer"])
        self.losses = tree["losses"].tolist()
        self.wall_seconds = tree["wall_seconds"]
        self._saved_at = self.iteration

    def _process_state(self) -> dict[str, object]:
        # torch's own generators too: a learner's dropout draws from them.
        on_cuda = self.device.type == "cuda"
        return {
            "source": self.source.state_dict(),
            "cpu": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(self.device) if on_cuda else None,
        }

    def _repeat(self, what: str) -> str:
        setup = self.setup["setup"]
        seed = setup.get("seed") if isinstance(setup, dict) else None
        again = "the same run repeats it"
        if self._saved_at is not None:
            again = f"going on from `{self.path}`, iteration {self._saved_at}, repeats it"
        return (
            f"The {what} was not finite in iteration {self.iteration + 1}"
            f"{'' if seed is None else f' (seed {seed})'}: {again}. "
            "The learner has the weights from before that iteration."
        )
