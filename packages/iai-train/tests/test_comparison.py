"""A comparison: every method on every split, on the same tasks, as an experiment measures it."""

from pathlib import Path

import attrs
import pytest
import torch
from iai_train import (
    Comparison,
    ComparisonSizes,
    Experiment,
    FitConfig,
    Settings,
    mean_squared_error,
    simple_classifiers,
)
from least_squares import Batch, Descent, Regression
from torch import Tensor

READ = {"in": {1: 3, 2: 6}, "short": {1: 3}}
SIZES = ComparisonSizes(num_tasks=5, num_tuning=3, num_query=4, chunk=2)


@attrs.frozen(kw_only=True)
class Config(Settings):
    train: int = 0
    fit: FitConfig = FitConfig(iterations=1)
    device: str = "cpu"


@pytest.fixture
def run(tmp_path: Path) -> Experiment:
    config = Config(out=tmp_path)
    return Experiment("toy", "smoke", config, metrics={"error": mean_squared_error})


@pytest.fixture
def tests(run: Experiment) -> Comparison:
    comparison = Comparison(run, SIZES)
    comparison.add("in", Regression(), Regression(), READ["in"])
    comparison.add("short", Regression(), Regression(), READ["short"], most_queries=2)
    return comparison


def drawn(run: Experiment, split: str, **how: object) -> list[Batch]:
    counts = {"num_support": max(READ[split].values()), "num_query": 4 if split == "in" else 2}
    return run.draw(Regression(), 3 if how else 5, **counts, chunk=2, **how)


@pytest.mark.parametrize("refines", [True, False])
def test_rows_are_those_of_the_experiment_on_each_split(
    run: Experiment, tests: Comparison, refines: bool
) -> None:
    learner, expected = Descent(), []
    for split, read in READ.items():
        steps = list(read) if refines else read
        expected += run.measure("a", learner, drawn(run, split), steps, split=split)
    assert tests.measure("a", learner, refines=refines) == expected
    assert [(row.split, row.step) for row in expected] == [("in", 1), ("in", 2), ("short", 1)]


def test_a_free_number_is_tuned_on_the_tuning_tasks_of_each_split(
    run: Experiment, tests: Comparison
) -> None:
    def make(choice: float):
        def answer(tasks: Batch) -> Tensor:
            return torch.full_like(tasks.query.y, choice)

        return answer

    expected = []
    for split, read in READ.items():
        tuning, batches = drawn(run, split, tuning=True), drawn(run, split)
        expected += run.tuned("a", make, (0.0, 9.0), tuning, batches, read, split=split)
    assert tests.tuned("a", make, (0.0, 9.0)) == expected


def test_simple_classifiers_are_tuned_and_asked_for_the_fewest_examples(
    tests: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(choice: float):
        return lambda tasks: torch.full_like(tasks.query.y, choice)

    def classifiers(num_examples: int) -> dict:
        return {"a": (make, (num_examples,)), "b": (make, (7.0, 8.0))}

    monkeypatch.setattr("iai_train.comparison.simple_classifiers", classifiers)
    expected = tests.tuned("a", make, (3,)) + tests.tuned("b", make, (7.0, 8.0))
    assert tests.measure_classifiers() == expected


@pytest.mark.parametrize("name", ["num_tasks", "num_tuning", "num_query", "chunk"])
def test_a_size_is_at_least_1(name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be a whole number from 1; got 0"):
        ComparisonSizes(**{name: 0})


def test_simple_classifiers_learn_a_task_each_with_its_numbers() -> None:
    pytest.importorskip("sklearn", reason="needs the extra `classifiers`")
    x = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]]).numpy()
    for make, choices in simple_classifiers(3).values():
        for choice in choices:
            classifier = make(choice)
            classifier.fit(x, [0, 0, 1, 1])
            assert list(classifier.predict([[-3.0], [3.0]])) == [0, 1]
    assert simple_classifiers(3)["nearest neighbours"][1] == (1, 3)
    assert simple_classifiers(40)["nearest neighbours"][1] == (1, 3, 5, 10)


def test_logistic_regression_is_stopped_without_a_warning() -> None:
    pytest.importorskip("sklearn", reason="needs the extra `classifiers`")
    make, choices = simple_classifiers(1)["logistic regression"]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 300, generator=generator) * torch.logspace(-4, 4, 300)
    y = torch.randint(5, (200,), generator=generator)
    classifier = make(max(choices))
    classifier.fit(x.numpy(), y.numpy())  # where a warning is an error
    assert classifier._model.n_iter_.max() == 200


def test_simple_classifiers_need_an_example() -> None:
    pytest.importorskip("sklearn", reason="needs the extra `classifiers`")
    with pytest.raises(ValueError, match="`num_examples` must be at least 1; got 0"):
        simple_classifiers(0)
