"""What learning costs, as rows."""

import json
import math
from pathlib import Path

import attrs
import pytest
import torch
from iai_train import Experiment, FitConfig, Settings, learning_costs, mean_squared_error
from least_squares import Batch, Descent, Regression


@attrs.frozen(kw_only=True)
class Train:
    pass


def experiment(out: Path, chunk: int | None = None) -> Experiment:
    fit = FitConfig(iterations=1, chunk=chunk)
    settings = Settings(out=out, train=Train(), fit=fit, device="cpu")
    return Experiment("toy", "smoke", settings, metrics={"error": mean_squared_error})


class Counted(Descent):
    """Notes how many tasks each meta-gradient is given, and how many steps adapting takes."""

    def __init__(self) -> None:
        super().__init__(steps=3)
        self.given, self.asked = [], []

    def forward(self, tasks, state=None):
        self.given.append(len(tasks.query.x))
        return super().forward(tasks, state)

    def trace(self, support, query_x, /, *, steps):
        self.asked.append((len(query_x), steps, torch.is_grad_enabled()))
        return super().trace(support, query_x, steps=steps)


def tasks(num_tasks: int) -> Batch:
    counts = {"num_support": 4, "num_query": 2}
    return Regression().sample(num_tasks, **counts, generator=torch.Generator().manual_seed(0))


def test_the_rows_are_those_of_the_learner_with_its_costs(tmp_path: Path) -> None:
    run, learner = experiment(tmp_path), Counted()
    rows = run.measure("descent", learner, [tasks(4)], [0, 3], split="far")
    learner.asked.clear()
    costs = learning_costs(run, rows, learner, tasks(4), tasks(5))
    metrics = ["adaptation_seconds", "meta_gradient_seconds", "meta_gradient_bytes"]
    assert [row.metric for row in costs] == metrics
    for row in costs:
        expected = attrs.evolve(rows[1], metric=row.metric, value=row.value, stderr=row.stderr)
        assert row.value > 0 and math.isnan(row.stderr)
        assert attrs.evolve(row, stderr=0.0) == attrs.evolve(expected, stderr=0.0)
    assert set(learner.asked) == {(4, 3, False)}
    assert set(learner.given) == {5}
    assert all(parameter.grad is None for parameter in learner.parameters())


def test_a_run_that_goes_on_reads_them_again(tmp_path: Path) -> None:
    run, learner = experiment(tmp_path), Counted()
    rows = run.measure("descent", learner, [tasks(4)], [3])
    costs = learning_costs(run, rows, learner, tasks(4), tasks(5))
    kept = json.loads((tmp_path / "costs.json").read_text())
    assert sorted(kept.values()) == sorted(row.value for row in costs)
    learner.given.clear()
    again = learning_costs(experiment(tmp_path), rows, learner, tasks(4), tasks(5))
    assert [row.value for row in again] == [row.value for row in costs]
    assert not learner.given
    learning_costs(run, rows, learner, tasks(4), tasks(6))
    assert set(learner.given) == {6}, "the costs of other tasks are others"


def test_a_meta_gradient_is_computed_in_chunks_as_in_training(tmp_path: Path) -> None:
    run, learner = experiment(tmp_path, chunk=2), Counted()
    rows = run.measure("descent", learner, [tasks(4)], [3])
    learning_costs(run, rows, learner, tasks(4), tasks(5))
    assert learner.given[:3] == [2, 2, 1]


def test_a_learner_that_was_not_measured_after_its_steps_is_refused(tmp_path: Path) -> None:
    run = experiment(tmp_path)
    rows = run.measure("descent", Descent(), [tasks(4)], [0, 2])
    with pytest.raises(ValueError, match="`rows` must have the learner's step 3; got 0, 2"):
        learning_costs(run, rows, Descent(), tasks(4), tasks(4))
