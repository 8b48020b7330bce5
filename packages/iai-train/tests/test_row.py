import math
import statistics

import attrs
import pytest
import torch
from example_rows import WHAT, row
from hypothesis import given
from hypothesis import strategies as st
from iai_train import over_seeds, summarise

numbers = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20)


@given(numbers)
def test_mean_and_standard_error_are_those_of_the_tasks(values: list[float]) -> None:
    made = summarise(torch.tensor(values, dtype=torch.float64), seed=0, **WHAT)
    assert made.value == pytest.approx(statistics.mean(values), abs=1e-9)
    stderr = statistics.stdev(values) / math.sqrt(len(values))
    assert made.stderr == pytest.approx(stderr, abs=1e-9)


@given(numbers)
def test_seeds_are_averaged_with_their_own_spread(values: list[float]) -> None:
    [mean] = over_seeds(row(value, seed) for seed, value in enumerate(values))
    assert mean.value == pytest.approx(statistics.mean(values), abs=1e-9)
    stderr = statistics.stdev(values) / math.sqrt(len(values))
    assert mean.stderr == pytest.approx(stderr, abs=1e-9)
    assert mean.seed is None


def test_only_what_differs_in_the_seed_alone_is_averaged() -> None:
    rows = [row(), row(step=2), row(split="far"), row(method="b"), row(metric="accuracy")]
    assert over_seeds(rows) == rows
    both = [*rows, *(attrs.evolve(each, seed=1, value=3.0) for each in rows)]
    assert [each.value for each in over_seeds(both)] == [2.0] * 5


def test_the_same_seed_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="two rows of one seed for oracle, in, step 1, error"):
        over_seeds([row(), row()])


def test_one_task_has_a_value_and_no_spread() -> None:
    made = summarise(torch.tensor([2.0]), seed=0, **WHAT)
    assert made.value == 2
    assert math.isnan(made.stderr)


def test_what_diverged_is_kept() -> None:
    made = summarise(torch.tensor([2.0, math.inf]), seed=0, **WHAT)
    assert made.value == math.inf
    assert math.isnan(made.stderr)


def test_no_task_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one task; got none"):
        summarise(torch.zeros(0), seed=0, **WHAT)
