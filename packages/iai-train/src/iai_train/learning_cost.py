"""What it costs to adapt to a task, and to compute a meta-gradient."""

from collections.abc import Sequence
from typing import Any

import torch

from iai_train.experiment import Experiment
from iai_train.measuring.cost import cost_rows, peak_bytes, seconds
from iai_train.row import Row


def learning_costs(
    run: Experiment, rows: Sequence[Row], learner: Any, tasks: Any, batch: Any
) -> list[Row]:
    """The rows of a learner's costs, measured once and kept for a run that goes on.

    The metrics are "adaptation_seconds", for each of the tasks when they adapt side by side and
    answer their queries; "meta_gradient_seconds"; and "meta_gradient_bytes", the growth of memory
    during a meta-gradient. That is computed in chunks of tasks, as in training.

    Args:
        run: The experiment, whose costs.json keeps the numbers.
        rows: What `measure` gave for the learner, with the step that it was trained to take.
        learner: A trained `Learner` that is `Traceable`, with its number of `steps`. Its gradients
            are set to None.
        tasks: Labelled tasks to adapt to.
        batch: The labelled tasks of a meta-gradient.

    Raises:
        ValueError: No row is of the step `learner.steps`.
    """
    at = next((row for row in rows if row.step == learner.steps), None)
    if at is None:
        steps = ", ".join(str(row.step) for row in rows)
        raise ValueError(f"`rows` must have the learner's step {learner.steps}; got {steps}.")
    num_tasks, num_trained = len(tasks.query.mask), len(batch.query.mask)
    size = run.settings.fit.chunk or num_trained

    @torch.no_grad()
    def adapt() -> None:
        for stage in learner.trace(tasks.support, tasks.query.x, steps=at.step):
            if stage.step == at.step:
                stage.predict(tasks.query.x)

    def meta_gradient() -> None:
        for begin in range(0, num_trained, size):
            losses, _, _ = learner(batch[begin : begin + size])
            losses.mean().backward()
        learner.zero_grad()

    costs = {
        "adaptation_seconds": lambda: seconds(adapt, run.device) / num_tasks,
        "meta_gradient_seconds": lambda: seconds(meta_gradient, run.device),
        "meta_gradient_bytes": lambda: peak_bytes(meta_gradient, run.device),
    }
    sizes = f"{num_tasks} tasks, {num_trained} trained, {size} at a time"
    return cost_rows(at, f"of {at.method}, step {at.step}, {sizes}", costs, run.once)
