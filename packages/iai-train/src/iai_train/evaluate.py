"""Measuring a learner at chosen steps."""

from collections.abc import Callable, Collection, Iterable, Mapping

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from iai_train.interfaces import LabelledTasks, Query, Traceable
from iai_train.interfaces import SupportT_contra as SupportT
from iai_train.row import Row, summarise

Metric = Callable[[Shaped[Tensor, "task n _"], Query], Float[Tensor, " task"]]


def evaluate(
    learner: Traceable[SupportT],
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
        learner: Shows itself after each step by `trace`. An `nn.Module` is put into evaluation
            mode meanwhile.
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
                stages = learner.trace(
                    batch.support, query.x, steps=wanted[-1], generator=generator
                )
                for stage in stages:
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
