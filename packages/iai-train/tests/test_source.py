from collections.abc import Mapping

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_train import SamplerSource
from iai_train.interfaces import Source
from iai_train.testing import check_source
from least_squares import Batch, Descent, LiveTasks, Regression, sampler_source


def test_a_sampler_source_keeps_the_contract() -> None:
    check_source(sampler_source)


def test_a_source_of_live_tasks_keeps_the_contract() -> None:
    check_source(LiveTasks, Descent())


@given(st.integers(0, 2**31), st.integers(0, 4), st.integers(0, 4))
def test_sizes_fill_their_range(seed: int, low: int, spread: int) -> None:
    source = SamplerSource(
        Regression(),
        num_tasks=2,
        num_support=(low, low + spread),
        num_query=3,
        generator=torch.Generator().manual_seed(seed),
    )
    batches = [source.next()[0] for _ in range(60)]
    assert {batch.support.x.shape[1] for batch in batches} == set(range(low, low + spread + 1))
    assert {batch.query.x.shape[:2] for batch in batches} == {(2, 3)}


def test_batches_are_new_each_time() -> None:
    source = sampler_source()
    first, _ = source.next()
    second, _ = source.next()
    assert not torch.equal(first.query.x, second.query.x)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"num_tasks": 0}, "`num_tasks` must be at least 1; got 0."),
        ({"num_query": 0}, "`num_query` must be at least 1; got 0."),
        ({"num_support": -1}, "`num_support` must be 0 <= low <= high; got -1."),
        ({"num_support": (3, 2)}, r"`num_support` must be 0 <= low <= high; got \(3, 2\)."),
    ],
)
def test_counts_out_of_range_are_refused(counts: dict[str, object], message: str) -> None:
    settings = {"num_tasks": 1, "num_support": 1, "num_query": 1, **counts}
    with pytest.raises(ValueError, match=message):
        SamplerSource(Regression(), generator=torch.Generator(), **settings)


@pytest.mark.parametrize(
    "state",
    [
        {"other": 1},
        {"generator": torch.zeros(3, dtype=torch.uint8), "size_generator": torch.get_rng_state()},
        {"generator": torch.get_rng_state(), "size_generator": torch.zeros(3)},
    ],
)
def test_a_state_of_something_else_is_refused_whole(state: dict[str, object]) -> None:
    source, same = sampler_source(), sampler_source()
    with pytest.raises(ValueError, match="is not that of a `SamplerSource` on cpu"):
        source.load_state_dict(state)
    assert torch.equal(source.next()[0].query.x, same.next()[0].query.x)


class Forgetful(LiveTasks):
    """Does not store which task is replaced next."""

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        super().load_state_dict(state)
        self._next = 0


class Credulous(LiveTasks):
    """Fails over a state of something else when it looks for its own."""

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        super().load_state_dict({**self.state_dict(), "next": state["next"], **state})


class Unrepeatable(LiveTasks):
    def __init__(self) -> None:
        super().__init__(seed=torch.Generator().seed())


class Unstorable(LiveTasks):
    def state_dict(self) -> dict[str, object]:
        return {**super().state_dict(), "generator": self._generator}


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (Forgetful, "must go on as the one that was saved"),
        (Credulous, r"must refuse a state that is not its own, .*; got KeyError\('next'\)"),
        (Unrepeatable, "made alike must give the same tasks"),
    ],
)
def test_the_contract_catches(broken: type[Source[Batch, object]], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_source(broken, Descent())


def test_the_contract_catches_what_no_file_can_hold() -> None:
    with pytest.raises(TypeError, match="`generator` must be a tensor, number"):
        check_source(Unstorable)
