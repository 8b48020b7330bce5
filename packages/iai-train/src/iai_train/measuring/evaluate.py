"""Measuring a learner at chosen steps."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import attrs
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from iai_train.interfaces import LabelledTasks, Query, Snapshot, Traceable
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
    generator: torch.Generator | None = None,
) -> list[Row]:
    """Measure a learner after some of its steps, on every task of every batch.

    Args:
        learner: Shows itself after each step by `trace`; an `nn.Module` is put into evaluation
            mode meanwhile. Or a function, such as an oracle: given labelled tasks it returns
            outputs for their queries, which are those of step 1.
        batches: Labelled tasks, on the learner's device; all tasks count alike.
        steps: The steps to report, 0 being the learned start.
        metrics: Name and function of each metric: outputs and query to one number a task.
        method: Name of the learner in the rows.
        split: Name of the batches in the rows: "in", or that of a shift.
        seed: Seed of the run, for the rows.
        generator: What the learner draws its minibatches from.

    Returns:
        One row a step and metric, mean and standard error over tasks. No gradients flow.

    Raises:
        ValueError: `steps` or `batches` are empty, or the learner stops before the last step.
    """
    wanted = sorted(set(steps))
    if not wanted or wanted[0] < 0:
        raise ValueError(f"`steps` must be at least one number, none below 0; got {list(steps)}.")
    was_training = isinstance(learner, nn.Module) and learner.training
    if isinstance(learner, nn.Module):
        learner.eval()
    values: dict[tuple[int, str], list[Tensor]] = {}
    seen: dict[int, list[Tensor]] = {}
    try:
        with torch.no_grad():
            for batch in batches:
                query = batch.query
                for stage in _stages(learner, batch, wanted[-1], generator):
                    if stage.step not in wanted:
                        continue
                    outputs = stage.predict(query.x)
                    seen.setdefault(stage.step, []).append(stage.seen)
                    for name, metric in metrics.items():
                        values.setdefault((stage.step, name), []).append(metric(outputs, query))
    finally:
        if isinstance(learner, nn.Module):
            learner.train(was_training)
    if not seen:
        raise ValueError("`batches` must hold at least one batch; got none.")
    if list(seen) != wanted:
        raise ValueError(f"`learner` must show the steps {wanted}; it showed {list(seen)}.")
    return [
        summarise(
            torch.cat(values[step, name]),
            method=method,
            split=split,
            step=step,
            examples=torch.cat(seen[step]).double().mean().item(),
            metric=name,
            seed=seed,
        )
        for step in wanted
        for name in metrics
    ]


@attrs.frozen(eq=False)
class _Answered:
    """What a function answers, as the only step of a learner."""

    seen: Tensor
    outputs: Tensor
    step: int = 1

    def predict(self, _: Tensor, /) -> Tensor:
        return self.outputs


def _stages(
    learner: Traceable[Any] | Answer,
    batch: LabelledTasks[Any],
    steps: int,
    generator: torch.Generator | None,
) -> Iterator[Snapshot]:
    if isinstance(learner, Traceable):
        yield from learner.trace(batch.support, batch.query.x, steps=steps, generator=generator)
        return
    with torch.enable_grad():  # a baseline may train on the tasks
        outputs = learner(batch)
    yield _Answered(batch.support.mask.sum(1), outputs.detach())


def first(tasks: Any, examples: int) -> Any:
    """The same tasks with the first examples of their support alone.

    Args:
        tasks: An attrs record with a `support` that has `support[:, i:j]`.
        examples: How many examples of each task to keep.
    """
    return attrs.evolve(tasks, support=tasks.support[:, :examples])
