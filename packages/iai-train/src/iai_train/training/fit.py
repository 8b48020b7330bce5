"""Training a learner: the outer loop."""

import math
import time
from collections.abc import Mapping
from contextlib import closing
from functools import partial
from pathlib import Path

import attrs
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from iai_train.config import FitConfig
from iai_train.files import make_folder
from iai_train.interfaces import Learner, Source, StateT, TasksT
from iai_train.processes import Device, join_processes, resolve_device
from iai_train.training.checkpoint import plain
from iai_train.training.gradient import MetaGradient, Weight
from iai_train.training.log import Log
from iai_train.training.run import Run
from iai_train.training.update import learning_rate


@attrs.frozen(eq=False, kw_only=True)
class FitResult:
    """What a training run gives."""

    learner: nn.Module
    """The learner that was given, trained."""
    losses: tuple[float, ...]
    """Training loss of every iteration, those before the run was stopped too."""
    wall_seconds: float
    """Time in the training loop, that before the run was stopped too."""
    resumed_at: int
    """Iterations that were already taken when this call began."""


def fit(
    learner: Learner[TasksT, StateT],
    source: Source[TasksT, StateT],
    config: FitConfig,
    *,
    out: str | Path | None = None,
    device: Device = "auto",
    weight: Weight | None = None,
    progress: bool = True,
    name: str = "fit",
    setup: Mapping[str, object] | None = None,
) -> FitResult:
    """Trains a learner on the tasks of a source.

    Each iteration takes `tasks, state = source.next()`, computes
    `losses, seen, state = learner(tasks, state)`, follows the gradient of
    `mean(weight(seen) * losses)` over steps and tasks with AdamW, and gives the state back by
    `source.put(state)`. With `config.chunk`, the learner is called on so many of the tasks at a
    time, `tasks[i:j]`, and on the same part of the state.

    With `out`, the run is kept in `out/checkpoint.safetensors` and `out/log.jsonl`. Called again,
    `fit` goes on from the last checkpoint of a run that was stopped: the losses are those of a run
    that was not, bit for bit on a CPU. A run that was finished returns at once.

    Started by `torchrun`, every process calls `fit` with a source of its own (see
    `process_generator`) and gradients are averaged; the main process writes the files. `out` is
    then a folder that all of them see.

    Args:
        learner: An `nn.Module`, trained in place, and left on `device`.
        source: Where the tasks come from, on `device`.
        config: The settings.
        out: Folder of the checkpoint and the log; None keeps nothing.
        device: "auto" is CUDA where there is one, else the CPU.
        weight: Weight of each loss given the number of examples seen, both `step task`; None is 1.
            In chunks, it is given those of a chunk.
        progress: Whether to show a progress bar, on standard error.
        name: What the progress bar calls the run.
        setup: What a checkpoint must agree with beside `config`, as JSON values and paths: the
            settings of the learner and the source, the seed. A checkpoint with another setup is
            refused.

    Returns:
        The learner and its losses.

    Raises:
        NonFiniteError: A loss or gradient was not finite. Weights and checkpoint are from before.
        CheckpointError: The checkpoint in `out` is damaged, or of another configuration.
        OSError: `out` cannot be written to, or its disk is full; the last checkpoint is untouched.
        TypeError: `learner` is no `nn.Module`, something cannot be stored, or tasks and states
            cannot be cut into chunks.
    """
    if not isinstance(learner, nn.Module):
        raise TypeError(f"`learner` must be an nn.Module; got {type(learner).__name__}.")
    where, folder = resolve_device(device), None if out is None else Path(out)
    run = Run(
        accelerator=join_processes(where),
        learner=learner.to(where),
        source=source,
        config=config,
        device=where,
        setup=plain({"fit": config.identity(), "setup": dict(setup or {})}),
        path=None if folder is None else folder / "checkpoint.safetensors",
    )
    if folder is not None:
        run.on_main(partial(make_folder, folder))
    run.restore()
    resumed_at, was_training = run.iteration, learner.training
    if resumed_at < config.iterations:
        learner.train()
        log = Log(folder, tensorboard=config.tensorboard)
        bar = progress_bar(shown=progress and run.accelerator.is_main_process)
        try:
            with closing(log), bar:
                run.on_main(partial(log.open, run.iteration))
                model = run.accelerator.prepare(learner)
                gradient = MetaGradient(run.accelerator, model, config, where, weight)
                _iterate(run, gradient, log, bar, name)
        finally:
            learner.train(was_training)
            if run.accelerator.num_processes > 1:  # collects garbage: slow, but the wrapper must go
                run.accelerator.free_memory()
    return FitResult(
        learner=learner,
        losses=tuple(run.losses),
        wall_seconds=run.wall_seconds,
        resumed_at=resumed_at,
    )


def progress_bar(*, shown: bool = True) -> Progress:
    """A progress bar on standard error."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not shown,
    )


def _iterate(run: Run, gradient: MetaGradient, log: Log, bar: Progress, name: str) -> None:
    config = run.config
    task = bar.add_task(name, total=config.iterations, completed=run.iteration)
    began = time.perf_counter() - run.wall_seconds
    for iteration in range(run.iteration, config.iterations):
        tasks, state = run.source.next()
        loss, state = gradient.add(tasks, state)
        run.updater.step(loss, iteration)
        run.source.put(state)

        taken = iteration + 1
        logged = taken % config.log_every == 0 or taken == config.iterations
        saved = taken % config.checkpoint_every == 0 or taken == config.iterations
        if logged or saved:  # the only iterations that wait for the device
            run.read()
            run.wall_seconds = time.perf_counter() - began
        if logged:
            record = _record(run)
            bar.update(task, description=f"{name}: loss {record['loss']:.4g}")
            run.on_main(partial(log.write, record))
        if saved:
            run.save()
        bar.update(task, completed=taken)


def _record(run: Run) -> dict[str, int | float]:
    """A line of the log: the loss is the mean since the line before."""
    since = (run.iteration - 1) // run.config.log_every * run.config.log_every
    return {
        "iteration": run.iteration,
        "loss": math.fsum(run.losses[since:]) / (run.iteration - since),
        "gradient_norm": run.gradient_norm,
        "learning_rate": learning_rate(run.config, run.iteration - 1),
        "wall_seconds": run.wall_seconds,
    }
