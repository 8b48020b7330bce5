"""What a checkpoint holds of a training run, checked in plain data before any of it is used."""

import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import attrs
import torch
from torch import Tensor, nn

from iai_train.processes import Processes
from iai_train.source import is_generator_state
from iai_train.training.checkpoint import CheckpointError, differences
from iai_train.training.log import FIELDS
from iai_train.training.tree import is_named
from iai_train.training.update import Moments
from iai_train.training.weights import checked_weights, first_not_finite, kinds

_PARTS = {"learner", "moments", "processes", "losses", "log", "wall_seconds"}
_OF_A_PROCESS = {"source", "cpu", "cuda"}


@attrs.frozen(eq=False, kw_only=True)
class SavedRun:
    """A training run between two iterations, as a checkpoint holds it."""

    weights: dict[str, Any]
    """Weights and buffers of the learner."""
    moments: Moments
    """What the optimizer knows of each trained parameter, by the parameter's name."""
    process: dict[str, Any]
    """What this process draws from: its source, and torch's generators."""
    losses: list[float]
    """Of every iteration."""
    log: list[dict[str, int | float]]
    """The lines of the log."""
    wall_seconds: float
    """Time in the training loop."""


def run_tree(
    learner: nn.Module,
    moments: Moments,
    processes: list[dict[str, object]],
    losses: list[float],
    log: list[dict[str, int | float]],
    wall_seconds: float,
) -> dict[str, object]:
    """The state that a checkpoint of a run holds: `saved_run` reads it."""
    return {
        "learner": learner.state_dict(),
        "moments": moments,
        "processes": processes,
        "losses": torch.tensor(losses, dtype=torch.float64),
        "log": {
            name: torch.tensor([line[name] for line in log], dtype=torch.float64) for name in FIELDS
        },
        "wall_seconds": wall_seconds,
    }


def saved_run(
    path: Path,
    tree: Mapping[str, object],
    learner: nn.Module,
    moments: Moments,
    *,
    iterations: int,
    processes: Processes,
    device: torch.device,
) -> SavedRun:
    """Checks the state that a checkpoint holds against the run that is to go on from it.

    Args:
        path: The checkpoint, which errors name.
        tree: Its state.
        learner: What is trained.
        moments: Those of the run's own optimizer.
        iterations: Of the whole run.
        processes: Those that the run is in.
        device: Where the learner is.

    Raises:
        CheckpointError: Any part is missing, of another type, shape or dtype, not finite, or
            belongs to another run.
    """
    if tree.keys() != _PARTS:
        raise CheckpointError(f"`{path}` holds no training run.")
    losses = _numbers(path, "losses", tree["losses"])
    if len(losses) > iterations:
        raise CheckpointError(
            f"`{path}` holds {len(losses)} losses; the run has {iterations} iterations."
        )
    wall_seconds = tree["wall_seconds"]
    if not (type(wall_seconds) in (int, float) and 0 <= cast(float, wall_seconds) < math.inf):
        raise CheckpointError(f"`{path}` must hold the `wall_seconds` of a run.")
    return SavedRun(
        process=_process(path, tree["processes"], processes, device),
        weights=checked_weights(path, learner, tree["learner"]),
        moments=_moments(path, tree["moments"], moments, len(losses)),
        losses=losses.tolist(),
        log=_log(path, tree["log"], len(losses)),
        wall_seconds=float(cast(float, wall_seconds)),
    )


def _numbers(path: Path, name: str, value: object) -> Tensor:
    """Finite numbers, float64 in one row."""
    if (
        isinstance(value, Tensor)
        and value.dtype == torch.float64
        and value.ndim == 1
        and bool(value.isfinite().all())
    ):
        return value
    raise CheckpointError(f"`{path}` must hold `{name}` as finite numbers, float64 in one row.")


def _moments(path: Path, state: object, own: Moments, iterations: int) -> Moments:
    if not (is_named(state) and all(map(is_named, state.values()))):
        raise CheckpointError(f"`{path}` holds no state of an optimizer.")
    stored = cast(Moments, state)
    if stored.keys() != own.keys():
        there, here = (dict.fromkeys(names, "trained") for names in (stored, own))
        raise CheckpointError(
            f"`{path}` was trained with other weights frozen: {differences(there, here)}."
        )
    for name, kept in own.items():
        part = stored[name]
        if found := differences(kinds(part), kinds(kept)):
            raise CheckpointError(
                f"`{path}` holds other moments of `{name}` than AdamW has of it: {found}."
            )
        step = float(part["step"])
        if not (0 <= step <= iterations and step.is_integer()):
            raise CheckpointError(
                f"`{path}` holds {step} updates of `{name}`, after {iterations} iterations."
            )
        if first_not_finite(part) or bool((part["exp_avg_sq"] < 0).any()):
            raise CheckpointError(
                f"`{path}` holds moments of `{name}` that are not finite, or squares below 0."
            )
    return stored


def _process(
    path: Path, stored: object, processes: Processes, device: torch.device
) -> dict[str, Any]:
    if not (
        isinstance(stored, list)
        and all(is_named(part) and part.keys() == _OF_A_PROCESS for part in stored)
        and all(is_named(part["source"]) for part in stored)
    ):
        raise CheckpointError(f"`{path}` holds no state of processes.")
    if len(stored) != processes.count:
        raise CheckpointError(
            f"`{path}` was written by {len(stored)} process(es); a run in {processes.count} cannot "
            "go on from it, since each process draws tasks of its own."
        )
    process = cast(dict[str, Any], stored[processes.index])
    intact = is_generator_state(process["cpu"], torch.device("cpu"))
    if process["cuda"] is not None and device.type == "cuda":
        intact = intact and is_generator_state(process["cuda"], device)
    if not intact:
        raise CheckpointError(f"`{path}` holds no state of torch's generators.")
    return process


def _log(path: Path, stored: object, iterations: int) -> list[dict[str, int | float]]:
    if not (isinstance(stored, dict) and stored.keys() == set(FIELDS)):
        raise CheckpointError(f"`{path}` holds no log.")
    columns = {name: _numbers(path, name, stored[name]).tolist() for name in FIELDS}
    taken = columns["iteration"]
    rising = all(first < second for first, second in pairwise(taken))
    if len({len(column) for column in columns.values()}) != 1 or not (
        rising and all(1 <= at <= iterations and at.is_integer() for at in taken)
    ):
        raise CheckpointError(f"`{path}` must hold a log whose lines are of rising iterations.")
    columns["iteration"] = [int(at) for at in taken]
    return [
        dict(zip(FIELDS, line, strict=True))
        for line in zip(*(columns[name] for name in FIELDS), strict=True)
    ]
