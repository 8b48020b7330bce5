"""Methods that draw samples: what they are given, what they are compared with, and for how long."""

import math
import time

import attrs
import numpy as np
import pytest
import torch
from iai_train import Experiment, FitConfig, SampleComparison, Settings
from torch import Tensor

pytest.importorskip("scipy", reason="needs the extra `distances`")

READ = {1: 4, 2: 8}
NUM_SAMPLES = 6


@attrs.frozen(eq=False)
class Examples:
    x: Tensor
    mask: Tensor

    def __getitem__(self, key):
        return Examples(self.x[key], self.mask[key])


@attrs.frozen(eq=False)
class Batch:
    support: Examples
    query: Examples
    latent: Tensor


class Clouds:
    """A task is N(latent, 1) in the plane, around `shift`."""

    def __init__(self, shift=0.0):
        self.shift = shift

    def sample(self, num_tasks, *, num_support, num_query, generator, latent=None):
        if latent is None:
            latent = self.shift + torch.randn(num_tasks, 1, 2, generator=generator)
        x = latent + torch.randn(num_tasks, num_support, 2, generator=generator)
        examples = Examples(x, torch.ones(x.shape[:2], dtype=torch.bool))
        return Batch(examples, examples[:, :0], latent)


@attrs.frozen(kw_only=True)
class Config(Settings):
    train: int = 0
    fit: FitConfig = FitConfig(iterations=1)
    device: str = "cpu"


def flow(field, noise, *, tolerance):
    """One step of Euler's method; the tolerance is not needed."""
    assert tolerance == 0.1
    return noise + field(torch.cat([noise, torch.zeros_like(noise[..., :1])], -1))


@pytest.fixture
def make(tmp_path):
    def comparison(metrics=SampleComparison.metrics):
        run = Experiment("toy", "smoke", Config(out=tmp_path), metrics=metrics)
        sizes = {"num_tasks": 3, "num_samples": NUM_SAMPLES, "read": READ}
        splits = {"in": Clouds(), "far": Clouds(50.0)}
        return SampleComparison(run, splits, **sizes, flow=flow, tolerance=0.1)

    return comparison


def to_the_true_mean(tasks):
    return lambda query: tasks.latent.expand(-1, query.shape[1], -1)


def by_metric(rows, metric="w2"):
    return {(row.split, row.step): row.value for row in rows if row.metric == metric}


def test_there_is_a_row_for_each_split_step_and_distance(make):
    rows = make().measure_field("true field", to_the_true_mean)
    found = {(row.split, row.step, row.examples, row.metric) for row in rows}
    metrics = ("w2", "w1", "mmd")
    expected = {(s, i, n, m) for s in ("in", "far") for i, n in READ.items() for m in metrics}
    assert found == expected and len(rows) == len(expected)
    assert {row.method for row in rows} == {"true field"}
    assert all(row.value < 2 for row in rows), "both are samples of the same distribution"
    assert all(by_metric(rows, "w1")[key] <= value for key, value in by_metric(rows).items())


def test_a_field_that_ignores_the_task_is_as_far_as_its_samples(make):
    values = by_metric(make().measure_field("still", lambda _: lambda query: 0 * query[..., :2]))
    assert values["far", 1] == pytest.approx(math.hypot(50, 50), abs=4)


def test_a_method_reads_the_first_samples_and_none_that_are_held_back(make):
    read, seen = [], make()
    seen.measure_field("it", lambda tasks: read.append(tasks) or to_the_true_mean(tasks))
    assert [tasks.support.x.shape[1] for tasks in read] == [4, 8, 4, 8]
    assert torch.equal(read[0].support.x, read[1].support.x[:, :4])
    assert [tasks.query.x.shape[1] for tasks in read] == [NUM_SAMPLES] * 4
    gaps = torch.cdist(read[1].support.x, read[1].query.x)
    assert gaps.min() > 0


def test_all_fields_carry_the_same_noise(make):
    asked = []

    def field(tasks):
        return lambda query: asked.append(query) or to_the_true_mean(tasks)(query)

    comparison = make()
    for method in ("a", "b"):
        comparison.measure_field(method, field)
    assert all(torch.equal(query, asked[0]) for query in asked)


def test_a_learner_is_asked_what_it_predicts_of_the_support(make):
    @attrs.frozen
    class Mean:
        mean: Tensor
        step: int = 1
        seen: Tensor | None = None

        def predict(self, query_x):
            return self.mean.expand(-1, query_x.shape[1], -1)

    rows = make().measure_learner("mean", lambda support: Mean(support.x.mean(1, keepdim=True)))
    fields = make().measure_field(
        "mean", lambda tasks: Mean(tasks.support.x.mean(1, keepdim=True)).predict
    )
    assert rows == fields


def test_a_fit_takes_as_long_as_the_slowest_before_it(make, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    asked = []

    def lasting(seconds):
        def field(tasks):
            clock[0] += seconds
            return to_the_true_mean(tasks)

        return field

    def fit(tasks, iterations):
        asked.append(iterations)
        clock[0] += 0.5 * iterations
        return to_the_true_mean(tasks)

    comparison = make()
    for method, seconds in (("slow", 40.0), ("fast", 2.0)):
        comparison.measure_field(method, lasting(seconds))
    rows = comparison.measure_as_long("fit", fit)
    comparison.measure_field("later", lasting(1000.0))
    assert asked == [20, 20, 80] * 4  # a warm-up, a trial, and then 40 s of 0.5 s an iteration
    asked.clear()

    again = make()  # a run that goes on, on a machine that is twice as fast
    for method, seconds in (("slow", 20.0), ("fast", 1.0)):
        again.measure_field(method, lasting(seconds))
    assert again.measure_as_long("fit", fit) == rows
    assert asked == [80] * 4


def test_a_fit_that_nothing_is_measured_before_takes_a_second(make, monkeypatch):
    clock, asked = [0.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def fit(tasks, iterations):
        asked.append(iterations)
        clock[0] += 2.0 * iterations
        return to_the_true_mean(tasks)

    make().measure_as_long("fit", fit)
    assert set(asked) == {20, 1}, "one iteration at least"


def test_a_density_has_fewer_components_than_there_are_samples(make):
    class Constant:
        def fit(self, x):
            self.mean = x.mean(0)

        def bic(self, x):
            return 0.0

        def sample(self, num_samples):
            return np.tile(self.mean, (num_samples, 1)), None

    numbers = []
    rows = make().measure_density("EM", lambda n: numbers.append(n) or Constant(), range(1, 7))
    assert numbers == 2 * [1, 2, 3, 1, 2, 3, 4, 5, 6]  # of two splits; 4 samples are read, then 8
    assert all(value < 3 for value in by_metric(rows).values())


def test_true_samples_are_new_ones_whatever_was_read(make):
    rows = [row for row in make().measure_references() if row.method == "as many true samples"]
    values = by_metric(rows)
    assert all(0 < value < 3 for value in values.values())
    assert values["in", 1] == values["in", 2]


def test_samples_are_drawn_again_and_none_twice_if_there_are_enough(make):
    drawn, read = [], []

    def keep(samples, _):
        drawn.append(samples)
        return torch.zeros(len(samples))

    comparison = make({"none": keep})
    comparison.measure_references()
    again = drawn[: 2 * len(READ)]
    comparison.measure_field("it", lambda tasks: read.append(tasks) or to_the_true_mean(tasks))
    for samples, tasks in zip(again, read, strict=True):
        number = tasks.support.x.shape[1]
        assert samples.shape == (3, NUM_SAMPLES, 2)
        assert (torch.cdist(samples, tasks.support.x).amin(2) == 0).all()
        distinct = len(samples[0].unique(dim=0))
        assert distinct == NUM_SAMPLES if number >= NUM_SAMPLES else distinct <= number


def test_the_figure_shows_the_first_field(make, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(
        "iai_train.sample_comparison.clouds", lambda lines, path: shown.append((lines, path))
    )
    comparison = make()
    comparison.measure_field("first", to_the_true_mean)
    comparison.measure_field("second", lambda _: lambda query: 0 * query[..., :2])
    comparison.draw(tmp_path / "samples.png")
    [(lines, path)] = shown
    assert path == tmp_path / "samples.png"
    assert [label for label, _ in lines] == ["in", "in", "far", "far"]
    assert all(list(panels) == ["4 read", "8 read", "held back"] for _, panels in lines)
    assert lines[2][1]["8 read"].mean() > 40, "not the second"


def test_the_main_process_alone_draws(make, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    make().draw(tmp_path / "samples.png")
    assert not (tmp_path / "samples.png").exists()
