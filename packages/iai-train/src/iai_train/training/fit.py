"""Training a learner: the outer loop."""

import math
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import attrs
from rich.progress import Progress
from torch import nn

from iai_train.config import FitConfig
from iai_train.files import locked
from iai_train.interfaces import Learner, Source, StateT, TasksT
from iai_train.processes import Device, join_processes, resolve_device
from iai_train.progress import progress_bar
from iai_train.training.averaging import averaging
from iai_train.training.checkpoint import plain
from iai_train.training.gradient import MetaGradient, Weight
from iai_train.training.log import Log, OnLog
from iai_train.training.run import Run
from iai_train.training.signals import Signals


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
    finished: bool
    """Whether all iterations were taken; False: the wall-time budget was spent before."""


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
    on_log: OnLog | None = None,
    max_seconds: float | None = None,
) -> FitResult:
    """Trains a learner on the tasks of a source.

    Each iteration takes `tasks, state = source.next()`, computes
    `losses, seen, state = learner(tasks, state)`, follows the gradient of
    `mean(weight(seen) * losses)` over steps and tasks with AdamW, and gives the state back by
    `source.put(state)`. With `config.chunk`, the learner is called on so many of the tasks at a
    time, `tasks[i:j]`, and on the same part of the state. With `config.average`, a finished run
    leaves the exponential mean of the weights in the learner; one that was stopped, the last ones.

    With `out`, the run is kept in `out/checkpoint.safetensors` and `out/log.jsonl`. Called again,
    `fit` goes on from the last checkpoint of a run that was stopped: the losses are those of a run
    that was not, bit for bit on a CPU. A run that was finished returns at once. While it trains, it
    holds a lock on `out/.lock`: another call is refused.

    With `out`, SIGTERM and SIGINT (Ctrl-C) end the program after the current iteration, when the
    checkpoint is written; a second one ends it at once. Several processes wait with this until the
    next line of the log or checkpoint, where they meet.

    Started by `torchrun`, every process calls `fit` with a source of its own (see
    `process_generator`) and gradients are averaged; the main process writes the files. `out` is
    then a folder that all of them see. A program's own `Accelerator` may have joined the processes;
    its precision does not count, but that of `config`. Another number of processes cannot go on
    from a checkpoint, whose sources belong to its processes.

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
        on_log: Called in the main process with each new line of the log: `iteration`, `loss` (the
            mean since the line before), `gradient_norm`, `learning_rate` and `wall_seconds`.
        max_seconds: Time that this call may train: it then writes the checkpoint and returns. The
            next call goes on. Several processes see it where they meet, as with signals.

    Warns:
        UserWarning: A trainable weight gets no gradient in the first iteration of this call.

    Returns:
        The learner and its losses.

    Raises:
        NonFiniteError: A loss, gradient, weight or buffer was not finite. Weights, buffers and
            checkpoint are from before.
        CheckpointError: The checkpoint in `out` is damaged, or of another configuration. Nothing
            was loaded.
        OSError: `out` cannot be written to, or its disk is full; the last checkpoint is untouched.
        TypeError: `learner` is no `nn.Module`, something cannot be stored, or tasks and states
            cannot be cut into chunks.
        ValueError: Another run uses `out`; no weight gets a gradient; or a weight is a view with
            gaps or repeats. With `out`: a weight is not finite, or a buffer holds NaN.
    """
    if not isinstance(learner, nn.Module):
        raise TypeError(f"`learner` must be an nn.Module; got {type(learner).__name__}.")
    if max_seconds is not None and not max_seconds > 0:
        raise ValueError(f"`max_seconds` must be above 0; got {max_seconds}.")
    where, folder = resolve_device(device), None if out is None else Path(out)
    run = Run(
        processes=join_processes(where),
        learner=learner.to(where),
        source=source,
        config=config,
        device=where,
        setup=plain({"fit": config.identity(), "setup": dict(setup or {})}),
        path=None if folder is None else folder / "checkpoint.safetensors",
        log=Log(folder, tensorboard=config.tensorboard, on_log=on_log),
    )
    run.processes.together(run.check_storable)
    with ExitStack() as until_the_end:
        free = folder is None or run.processes.on_main(
            lambda: until_the_end.enter_context(locked(folder))
        )
        saved = run.stored()
        if not (free or (saved and len(saved.losses) == config.iterations)):
            raise ValueError(
                f"`out` must be a folder that no other run uses now; `{folder}` is in use. Wait "
                "for that run, or give another folder."
            )
        if saved is not None:
            run.resume(saved)
        resumed_at, was_training = run.iteration, learner.training
        if resumed_at < config.iterations:
            try:
                _train(run, weight, progress=progress, name=name, max_seconds=max_seconds)
            finally:
                learner.train(was_training)
        if run.iteration == config.iterations:
            run.updater.finish()
    return FitResult(
        learner=learner,
        losses=tuple(run.losses),
        wall_seconds=run.wall_seconds,
        resumed_at=resumed_at,
        finished=run.iteration == config.iterations,
    )


def _train(
    run: Run, weight: Weight | None, *, progress: bool, name: str, max_seconds: float | None
) -> None:
    run.learner.train()
    bar = progress_bar(shown=progress and run.processes.index == 0)
    ends = time.perf_counter() + (math.inf if max_seconds is None else max_seconds)
    with (
        Signals(enabled=run.path is not None) as signals,
        averaging(run.learner, run.processes) as model,
        closing(run.log),
        bar,
    ):
        run.processes.on_main(partial(run.log.open, run.iteration, run.records))
        gradient = MetaGradient(model, run.config, run.device, weight)
        _iterate(run, gradient, signals, bar, name, ends)


def _iterate(
    run: Run, gradient: MetaGradient, signals: Signals, bar: Progress, name: str, ends: float
) -> None:
    config = run.config
    task = bar.add_task(name, total=config.iterations, completed=run.iteration)
    began = time.perf_counter() - run.wall_seconds
    for iteration in range(run.iteration, config.iterations):
        tasks, state = run.source.next()
        loss, losses, state = gradient.add(tasks, state)
        run.updater.step(loss, losses, iteration)
        run.source.put(state)

        taken = iteration + 1
        logged = taken % config.log_every == 0 or taken == config.iterations
        saved = taken % config.checkpoint_every == 0 or taken == config.iterations
        signal, over = 0, False
        if logged or saved or run.processes.count == 1:  # where several processes meet
            asked = run.processes.gather((signals.received, time.perf_counter() >= ends))
            signal, over = max(number for number, _ in asked), any(late for _, late in asked)
        if logged or saved or signal or over:  # the only iterations that wait for the device
            run.read()
            run.wall_seconds = time.perf_counter() - began
        if logged:
            bar.update(task, description=f"{name}: loss {run.write_log()['loss']:.4g}")
        if saved or signal or over:
            run.save()
        bar.update(task, completed=taken)
        if over or (signal and not _delivered(signal, signals, bar)):
            return


def _delivered(signal: int, signals: Signals, bar: Progress) -> bool:
    bar.stop()
    goes_on = signals.deliver(signal)
    if goes_on:
        bar.start()
    return goes_on
