"""Measuring learners and baselines at chosen steps."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import attrs
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from iai_train.interfaces import LabelledTasks, Query, Traceable
from iai_train.interfaces import SupportT_contra as SupportT
from iai_train.row import Row, summarise

Metric = Callable[[Shaped[Tensor, "task n _"], Query], Float[Tensor, " task"]]
Answer = Callable[[Any], Shaped[Tensor, "task n _"]]  # labelled tasks to outputs for their queries


def evaluate(
    learner: Traceable[SupportT] | Answer,
    batches: Iterable[LabelledTasks[SupportT]],
    *,
    steps: Collection[int],
    metrics: Mapping[str, Metric],
    method: str,
    split: str,
    seed: int,
) -> list[Row]:
    """Measures a learner after some of its steps, on every task of every batch.

    Args:
        learner: A learner with `trace`; an `nn.Module` is put into evaluation mode meanwhile. Or a
            function, such as an oracle: it is given labelled tasks and returns outputs for their
            queries, which count as those of step 1.
        batches: Labelled tasks, on the learner's device; all tasks count alike.
        steps: The steps to report; 0 is before any example.
        metrics: Name and function of each metric: from outputs and query to one number a task.
        method: Name of the learner in the rows.
        split: Name of the batches in the rows: "in", or that of a shift.
        seed: Seed of the run, for the rows.

    Returns:
        One row for each step and metric, mean and standard error over tasks. No gradients flow.

    Raises:
        ValueError: `steps` or `batches` are empty, the learner does not show all of the steps, or
            a metric does not give one number a task.
    """
    wanted = sorted(set(steps))
    if not wanted or wanted[0] < 0:
        raise ValueError(f"`steps` must be at least one number, none below 0; got {list(steps)}.")
    seen: dict[int, list[Tensor]] = defaultdict(list)
    values: dict[tuple[int, str], list[Tensor]] = defaultdict(list)
    was_training = isinstance(learner, nn.Module) and learner.training
    if isinstance(learner, nn.Module):
        learner.eval()
    try:
        with torch.no_grad():
            for batch in batches:
                for stage in _stages(learner, batch, wanted[-1]):
                    if stage.step in wanted:
                        outputs = stage.predict(batch.query.x)
                        seen[stage.step].append(stage.seen)
                        for name, metric in metrics.items():
                            value = metric(outputs, batch.query)
                            _check_value(name, value, batch.query.mask)
                            values[stage.step, name].append(value)
    finally:
        if isinstance(learner, nn.Module):
            learner.train(was_training)
    if not seen:
        raise ValueError("`batches` must hold at least one batch; got none.")
    if list(seen) != wanted:
        raise ValueError(f"`learner` must show the steps {wanted}; it showed {list(seen)}.")
    rows = []
    for step in wanted:
        fields: dict[str, Any] = {"method": method, "split": split, "step": step, "seed": seed}
        fields["examples"] = torch.cat(seen[step]).double().mean().item()
        for name in metrics:
            rows.append(summarise(torch.cat(values[step, name]), metric=name, **fields))
    return rows


def _check_value(name: str, value: object, mask: Tensor) -> None:
    shape = (len(mask),)
    if not isinstance(value, Tensor) or value.shape != shape:
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"The metric {name!r} must give a tensor with one number a task, of shape {shape}; "
            f"got {got}."
        )


def _stages(
    learner: Traceable[Any] | Answer, batch: LabelledTasks[Any], steps: int
) -> Iterator[Any]:
    if isinstance(learner, Traceable):
        yield from learner.trace(batch.support, batch.query.x, steps=steps)
        return
    with torch.enable_grad():  # a baseline may train on the tasks
        outputs = learner(batch).detach()
    seen = batch.support.mask.sum(1)
    yield SimpleNamespace(step=1, seen=seen, predict=lambda query_x: outputs)


def first(tasks: Any, examples: int) -> Any:
    """The same tasks with the first examples of their support alone.

    Args:
        tasks: An attrs record with a `support` that has `support[:, i:j]`.
        examples: How many examples of each task to keep.
    """
    return attrs.evolve(tasks, support=tasks.support[:, :examples])
