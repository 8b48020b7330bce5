import pytest
import torch
from iai_train import AlternatingSource
from iai_train.testing import check_source
from least_squares import Descent, LiveTasks, Regression


def sampler_sources(*sizes: int) -> AlternatingSource:
    counts = {"num_query": 2, "generator": torch.Generator().manual_seed(3)}
    return AlternatingSource.of_sizes(Regression(), sizes, num_tasks=2, **counts)


def test_it_keeps_the_contract() -> None:
    check_source(lambda: sampler_sources(2, 6))
    check_source(lambda: AlternatingSource([LiveTasks(), LiveTasks()]), Descent())


def test_sizes_take_turns_with_as_many_examples_and_queries_in_all() -> None:
    source, shapes = sampler_sources(2, 6), []
    for _ in range(4):
        tasks, state = source.next()
        source.put(state)
        shapes.append(tuple(tasks.support.x.shape[:2]))
    assert shapes == [(4, 2), (2, 6), (4, 2), (2, 6)]


def test_a_state_of_others_is_refused_and_nothing_loaded() -> None:
    source = sampler_sources(2, 6)
    before = source.state_dict()
    broken = {"turn": 1, "sources": [before["sources"][0], {}]}
    for state in (broken, {"turn": 2, "sources": before["sources"]}, {"turn": 0, "sources": []}):
        with pytest.raises(ValueError, match="`state` is not that of"):
            source.load_state_dict(state)
    tasks, _ = source.next()
    expected, _ = sampler_sources(2, 6).next()
    assert torch.equal(tasks.support.x, expected.support.x)


def test_counts_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one source; got none"):
        sampler_sources()
    with pytest.raises(ValueError, match="`num_support` must be 0 <= low <= high; got -1"):
        sampler_sources(-1, 6)
