"""An experiment: what is trained, measured, chosen and written, and what a stopped one keeps."""

import json
import math
from pathlib import Path

import attrs
import pytest
import torch
from iai_train import (
    CheckpointError,
    Experiment,
    FitConfig,
    Settings,
    evaluate,
    first,
    mean_squared_error,
    read_metrics,
    summarise,
)
from iai_train.testing.comparison import equal as _equal
from least_squares import (
    CONFIG,
    Batch,
    Descent,
    GaveUpError,
    Interrupted,
    Regression,
    full_disk,
    sampler_source,
)
from torch import Tensor, nn

COUNTS = {"num_support": 4, "num_query": 2}


@attrs.frozen(kw_only=True)
class Train:
    width: int = 8
    sizes: object = None


@attrs.frozen(kw_only=True)
class Config(Settings):
    train: Train = Train()
    fit: FitConfig = CONFIG
    device: str = "cpu"
    test_tasks: int = 4


def experiment(out: Path, *, data: dict[str, str] | None = None, **changes: object) -> Experiment:
    metrics = {"error": mean_squared_error, "twice": lambda *given: 2 * mean_squared_error(*given)}
    config = Config(out=out, **changes)
    return Experiment("toy", "smoke", config, metrics=metrics, data=data)


def test_a_stopped_experiment_goes_on_where_it_was(tmp_path: Path) -> None:
    whole, parts = Descent(dropout=0.2), Descent(dropout=0.2)
    experiment(tmp_path / "whole").train("a, b's", whole, sampler_source())
    stopped, source = experiment(tmp_path / "parts"), Interrupted(sampler_source(), 11)
    with pytest.raises(GaveUpError):
        stopped.train("a, b's", Descent(dropout=0.2), source)
    again = experiment(tmp_path / "parts", test_tasks=7)
    again.train("a, b's", parts, sampler_source())
    assert _equal(parts.state_dict(), whole.state_dict())
    assert (tmp_path / "parts" / "a-bs" / "checkpoint.safetensors").exists()


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("a b", {"train": Train(width=9)}, "`setup.train.width` is 8 there and 9 here"),
        ("a b", {"seed": 1}, "`setup.seed` is 0 there and 1 here"),
        ("a b", {"data": {"images": "4 of them"}}, "`setup.data.images` is absent there"),
        ("a b", {"fit": attrs.evolve(CONFIG, warmup=1)}, "`fit.warmup` is 3 there and 1 here"),
        ("a, b", {}, "`setup.method` is a b there and a, b here"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(
    tmp_path: Path, method: str, changes: dict, message: str
) -> None:
    experiment(tmp_path).train("a b", Descent(), sampler_source())
    with pytest.raises(CheckpointError, match=message):
        experiment(tmp_path, **changes).train(method, Descent(), sampler_source())


@pytest.mark.parametrize("sizes", [Path("a.ttf"), [3, Path("a.ttf")], {"a": (Path("a.ttf"),)}])
def test_what_decides_the_weights_is_no_path(tmp_path: Path, sizes: object) -> None:
    with pytest.raises(
        TypeError, match=r"`settings.train.sizes(\.a)?` must not be a path: a check"
    ):
        experiment(tmp_path, train=Train(sizes=sizes))
    with pytest.raises(TypeError, match=r"got a\.ttf\.$"):
        experiment(tmp_path, train=Train(sizes=Train(sizes=sizes)))


def test_data_that_are_only_measured_on_may_change(tmp_path: Path) -> None:
    for images in ("one", "other"):
        run = experiment(tmp_path, data={"letters": "a"})
        run.data["images"], run.test_data["own"] = "trained on", images
        learner = Descent()
        run.train("a b", learner, sampler_source())
        run.rows += run.measure("a b", learner, run.draw(Regression(), 2, **COUNTS), [1])
        run.finish()
        data = read_metrics(tmp_path / "metrics.json")[0].data
        assert data == {"letters": "a", "images": "trained on", "own": images}
    with pytest.raises(
        CheckpointError, match=r"`setup\.data\.images` is trained on there and absent"
    ):
        experiment(tmp_path, data={"letters": "a"}).train("a b", Descent(), sampler_source())


def test_a_module_depends_on_the_seed_and_not_on_what_came_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawn(seed: int, before: int) -> tuple[Tensor, Tensor]:
        run = experiment(tmp_path, seed=seed)
        torch.randn(before)
        return run.build(nn.Linear, 3, 2).weight, torch.rand(3)

    weight, later = drawn(0, 0)
    assert torch.equal(weight, drawn(0, 5)[0]) and torch.equal(later, drawn(0, 5)[1])
    assert not torch.equal(weight, drawn(1, 0)[0])
    monkeypatch.setenv("RANK", "1")  # has the same weights, and other random numbers in training
    assert torch.equal(weight, drawn(0, 0)[0]) and not torch.equal(later, drawn(0, 0)[1])


def test_a_learner_can_have_a_training_and_a_weight_of_its_own(tmp_path: Path) -> None:
    quick = attrs.evolve(CONFIG, iterations=5)
    seen = []
    experiment(tmp_path).train(
        "quick", Descent(), sampler_source(), quick, weight=lambda n: seen.append(n) or n
    )
    assert len(seen) == 5


def test_the_seed_decides_weights_and_tasks(tmp_path: Path) -> None:
    def drawn(seed: int, **how: object) -> Tensor:
        run = experiment(tmp_path, seed=seed)
        (batch,) = run.draw(Regression(), 3, num_support=4, num_query=2, **how)
        assert batch.support.x.shape == (3, 4, 2) and batch.query.x.shape == (3, 2, 2)
        return torch.cat([batch.query.x.flatten(), torch.randn(1)])

    assert torch.equal(drawn(0), drawn(0))
    for other in (drawn(1), drawn(0, tuning=True)):
        assert not torch.equal(drawn(0)[:-1], other[:-1])
    run = experiment(tmp_path, seed=5)
    assert run.generator(10).initial_seed() == 15
    assert run.training_generator().initial_seed() == 5


def test_tasks_are_drawn_in_chunks(tmp_path: Path) -> None:
    chunks = experiment(tmp_path).draw(Regression(), 5, num_support=1, num_query=1, chunk=2)
    assert [len(batch.query.x) for batch in chunks] == [2, 2, 1]
    assert not torch.equal(chunks[0].query.x, chunks[1].query.x)


def test_a_learner_is_measured_after_its_steps(tmp_path: Path) -> None:
    run, learner = experiment(tmp_path, seed=3), Descent()
    tasks = run.draw(Regression(), 4, num_support=5, num_query=3)
    rows = run.measure("descent", learner, tasks, [0, 2], split="far")
    assert [(row.step, row.metric) for row in rows] == [
        (step, metric) for step in (0, 2) for metric in ("error", "twice")
    ]
    expected = evaluate(
        learner,
        tasks,
        steps=[0, 2],
        metrics={"error": mean_squared_error},
        method="descent",
        split="far",
        seed=3,
    )
    assert [row for row in rows if row.metric == "error"] == expected


def test_a_learner_reads_the_first_examples_in_one_step(tmp_path: Path) -> None:
    run = experiment(tmp_path)
    tasks = run.draw(Regression(), 4, num_support=5, num_query=3, chunk=3)
    rows = run.measure("at once", Descent(), tasks, {2: 1, 7: 5})
    for step, examples in ((2, 1), (7, 5)):
        cut = [first(batch, examples) for batch in tasks]
        (row, _) = run.measure("at once", Descent(), cut, [1])
        assert attrs.evolve(row, step=step) in rows
        assert row.examples == examples


def test_a_function_is_given_the_first_examples_and_may_train(tmp_path: Path) -> None:
    run, given = experiment(tmp_path), []

    def descended(tasks: Batch) -> Tensor:
        given.append(tasks.support.x.shape[1])
        weights = torch.zeros(len(tasks.support.x), 2, 1, requires_grad=True)
        optimizer = torch.optim.Adam([weights], 0.1)
        for _ in range(300 * (given[-1] > 0)):
            optimizer.zero_grad()
            (tasks.support.x @ weights - tasks.support.y).square().sum().backward()
            optimizer.step()
        return tasks.query.x @ weights

    tasks = run.draw(Regression(), 4, num_support=20, num_query=3)
    rows = run.measure("adam", descended, tasks, {0: 0, 5: 20})
    assert given == [0, 20]
    errors = {row.step: row.value for row in rows if row.metric == "error"}
    assert errors[0] == pytest.approx(tasks[0].query.y.square().mean().item(), rel=1e-5)
    assert errors[5] < 1e-4
    assert [row.examples for row in rows] == [0, 0, 20, 20]


def scaled(errors: dict[tuple[str, int], dict[int, float]]):
    """A baseline whose error with a choice is what a table says, by tasks and their examples."""

    def make(choice: int):
        def answer(tasks: Batch) -> Tensor:
            which = "tuning" if len(tasks.query.x) == 3 else "test"
            wrong = errors[which, tasks.support.x.shape[1]][choice]
            return tasks.query.y + math.sqrt(wrong)

        return answer

    return make


@pytest.mark.parametrize(("best", "expected"), [("smallest", [40, 4]), ("largest", [10, 1])])
def test_a_free_number_is_chosen_at_each_step_and_on_other_tasks_alone(
    tmp_path: Path, best: str, expected: list[float]
) -> None:
    errors = {  # by tasks and examples: the error of choices 1, 2, 3
        ("tuning", 1): {1: 9.0, 2: 4.0, 3: 1.0},
        ("tuning", 2): {1: 1.0, 2: 2.0, 3: 9.0},
        ("test", 1): {1: 10.0, 2: 20.0, 3: 40.0},
        ("test", 2): {1: 4.0, 2: 2.0, 3: 1.0},
    }
    metrics, config = {"error": mean_squared_error}, Config(out=tmp_path)
    run = Experiment("toy", "smoke", config, metrics=metrics, best=best)
    tuning = run.draw(Regression(), 3, num_support=2, num_query=1, tuning=True)
    tasks = run.draw(Regression(), 4, num_support=2, num_query=1)
    rows = run.tuned("it", scaled(errors), [1, 2, 3], tuning, tasks, {1: 1, 2: 2}, split="far")
    assert [row.value for row in rows] == pytest.approx(expected)
    assert [(row.method, row.split, row.step) for row in rows] == [
        ("it", "far", 1),
        ("it", "far", 2),
    ]


def test_a_choice_that_diverges_is_the_last_to_be_taken(tmp_path: Path) -> None:
    errors = {
        ("tuning", 1): {1: math.inf, 2: math.nan, 3: 5.0},
        ("tuning", 2): {1: math.nan, 2: math.inf, 3: math.nan},
        ("test", 1): {1: 1.0, 2: 2.0, 3: 3.0},
        ("test", 2): {1: 1.0, 2: 2.0, 3: 3.0},
    }
    run = experiment(tmp_path)
    tuning = run.draw(Regression(), 3, num_support=2, num_query=1, tuning=True)
    tasks = run.draw(Regression(), 4, num_support=2, num_query=1)
    rows = run.tuned("it", scaled(errors), [1, 2, 3], tuning, tasks, {1: 1, 2: 2})
    assert [row.value for row in rows] == pytest.approx([3, 6, 1, 2])  # and twice the error


def test_a_free_number_cannot_be_chosen_on_the_tasks_themselves(tmp_path: Path) -> None:
    run = experiment(tmp_path)
    tasks = run.draw(Regression(), 3, num_support=2, num_query=1)
    with pytest.raises(ValueError, match="`tuning` must be other tasks than `batches`"):
        run.tuned("it", scaled({}), [1], [*tasks], tasks, [1])
    other = run.draw(Regression(), 3, num_support=2, num_query=1, tuning=True)
    with pytest.raises(ValueError, match="`choices` must hold at least one number; got none"):
        run.tuned("it", scaled({}), [], other, tasks, [1])


def test_a_cost_is_measured_once(tmp_path: Path) -> None:
    costs = iter([1.5, 2.5])
    for _ in range(2):  # the second is of a run that goes on
        run = experiment(tmp_path)
        assert run.once("seconds of a", lambda: next(costs)) == 1.5
    assert run.once("seconds of b", lambda: next(costs)) == 2.5
    assert json.loads((tmp_path / "costs.json").read_text()) == {
        "seconds of a, on cpu": 1.5,
        "seconds of b, on cpu": 2.5,
    }


@pytest.mark.parametrize(
    "content", ['{"seconds', "[" * 10**5, "[]", '{"seconds of a": "1"}', f'{{"a": {10**400}}}']
)
def test_a_damaged_file_of_costs_is_named(tmp_path: Path, content: str) -> None:
    run = experiment(tmp_path)
    (tmp_path / "costs.json").write_text(content)
    with pytest.raises(ValueError, match=r"costs\.json` .*\. Delete it to measure anew"):
        run.once("seconds of a", lambda: 1.0)


class Mean:
    """An estimator: the mean of the targets."""

    def fit(self, x, y):
        self.mean = y.mean(0)

    def predict(self, x):
        return 0 * x[:, :1] + self.mean


def test_an_estimator_is_fitted_to_the_first_examples_of_each_task(tmp_path: Path) -> None:
    run = experiment(tmp_path)
    tasks = run.draw(Regression(), 4, num_support=5, num_query=3)
    (row, _) = run.measure("mean", Mean(), tasks, {2: 3})
    means = tasks[0].support.y[:, :3].mean(1, keepdim=True)
    expected = (tasks[0].query.y - means).square().mean().item()
    assert (row.step, row.examples) == (2, 3)
    assert row.value == pytest.approx(expected, rel=1e-5)
    tuning = run.draw(Regression(), 4, num_support=5, num_query=3, tuning=True)
    assert run.tuned("mean", lambda _: Mean(), [1, 2], tuning, tasks, {2: 3})[0] == row


def priced(out: Path) -> Experiment:
    return Experiment(
        "toy", "smoke", Config(out=out), metrics={"error": mean_squared_error}, costs=True
    )


def test_costs_are_of_the_tasks_in_distribution_and_measured_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def rows(run: Experiment) -> list:
        tasks = run.draw(Regression(), 4, num_support=5, num_query=3, chunk=3)
        run.rows += run.measure("descent", Descent(), tasks, [1, 2])
        run.rows += run.measure("descent", Descent(), tasks, [1], split="far")
        run.rows += run.measure("mean", Mean(), tasks, {2: 3})
        return run.rows

    first, again = priced(tmp_path), priced(tmp_path)
    costs = {
        (row.method, row.step, row.metric): row for row in rows(first) if row.metric != "error"
    }
    assert set(costs) == {
        *(("descent", step, metric) for step in (1, 2) for metric in ("seconds", "bytes")),
        ("mean", 2, "seconds"),  # the memory of an estimator is not torch's
    }
    for row in costs.values():
        assert row.value > 0 and math.isnan(row.stderr) and row.split == "in"
    assert [row.examples for row in costs.values()] == [5, 5, 5, 5, 3]
    assert [row.value for row in rows(again)] == [row.value for row in first.rows]
    first.finish()
    shown = capsys.readouterr().out
    assert "error by examples" in shown and "seconds by examples" in shown


def test_costs_grow_with_the_examples_that_are_read(tmp_path: Path) -> None:
    run, given = priced(tmp_path), []

    def answer(tasks: Batch) -> Tensor:
        given.append(tuple(tasks.support.x.shape[:2]))
        return tasks.query.y + tasks.support.x.repeat(1, 1, 1000).mean((1, 2), keepdim=True)

    tasks = run.draw(Regression(), 4, num_support=500, num_query=3, chunk=3)
    rows = run.measure("it", answer, tasks, {1: 5, 2: 500})
    few, many = (row.value for row in rows if row.metric == "bytes")
    assert many > 50 * few
    assert set(given) == {(3, 5), (1, 5), (3, 500), (1, 500)}  # costs are of the first batch
    assert given.count((1, 500)) == 1


def test_costs_of_a_baseline_are_of_the_choice_that_is_best(tmp_path: Path) -> None:
    run, asked = priced(tmp_path), []

    def make(choice: int):
        def answer(tasks: Batch) -> Tensor:
            asked.append((choice, len(tasks.query.x), tasks.support.x.shape[1]))
            return tasks.query.y + abs(choice - tasks.support.x.shape[1])

        return answer

    tuning = run.draw(Regression(), 3, num_support=2, num_query=1, tuning=True)
    tasks = run.draw(Regression(), 4, num_support=2, num_query=1)
    rows = run.tuned("it", make, [1, 2], tuning, tasks, {1: 1, 2: 2})
    assert {(row.step, row.metric) for row in rows} == {
        (step, metric) for step in (1, 2) for metric in ("error", "seconds", "bytes")
    }
    assert {ask for ask in asked if ask[1] == 4} == {(1, 4, 1), (2, 4, 2)}
    kept = json.loads((tmp_path / "costs.json").read_text())
    assert all("it with 1, step 1," in what or "it with 2, step 2," in what for what in kept)


def finished(out: Path, **how: object) -> Experiment:
    run = experiment(out, seed=2, data={"images": "4 of them"})
    tasks = run.draw(Regression(), 4, num_support=5, num_query=3)
    for method in ("first", "second"):
        run.rows += run.measure(method, Descent(), tasks, [0, 1, 2])
    run.rows.append(
        summarise(0.5, method="first", step=1, examples=5, metric="seconds", seed=2, split="in")
    )
    run.finish(**how)
    return run


def test_the_end_is_a_record_a_figure_and_one_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished(tmp_path, by="step")
    info, rows = read_metrics(tmp_path / "metrics.json")
    assert [attrs.evolve(row, stderr=0.0) for row in rows] == [
        attrs.evolve(row, stderr=0.0) for row in run.rows
    ]
    assert (info.example, info.preset, info.seed, info.device) == ("toy", "smoke", 2, "cpu")
    assert info.data == {"images": "4 of them"}
    assert info.wall_seconds > 0
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    shown = capsys.readouterr().out
    assert shown.count("error by step") == 1
    assert shown.count("first") == shown.count("second") == 1
    assert "seconds" not in shown and "twice" not in shown
    assert "".join(f"Wrote {tmp_path / 'metrics.json'}".split()) in "".join(shown.split())


def test_the_main_process_alone_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    finished(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_record_is_whole_or_as_it_was(tmp_path: Path) -> None:
    finished(tmp_path)
    before = (tmp_path / "metrics.json").read_bytes()
    with full_disk(100), pytest.raises(OSError, match="could not be written: File too large"):
        finished(tmp_path)
    assert (tmp_path / "metrics.json").read_bytes() == before


def test_a_folder_that_cannot_be_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="cannot be written to: Not a directory"):
        experiment(tmp_path / "file" / "out")
