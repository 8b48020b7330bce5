import re
from collections import Counter
from typing import NamedTuple

import pytest
import torch
from iai_iterate import Iterated, Pool
from slopes import Kernel, Slope, Slopes
from torch.utils._pytree import tree_leaves, tree_map

COUNTS = {"num_tasks": 5, "num_query": 4, "max_steps": 6}


def pool(regime=None, sampler=None, seed=0, **options):
    learner = Iterated(regime or Slope().double(), steps=1, minibatch=3)
    generator = torch.Generator().manual_seed(seed)
    options = COUNTS | options
    return learner, Pool(learner, sampler or Slopes(), generator=generator, **options)


def advance(learner, source, iterations):
    taken = []
    for _ in range(iterations):
        tasks, state = source.next()
        refined = learner(tasks, state)
        taken.append((tasks.support.x, tasks.query, refined.losses, refined.seen))
        source.put(refined.state)
    return taken


def test_live_tasks_go_on_and_those_over_are_replaced_by_new_ones(regime):
    learner, source = pool(regime)
    born = 0
    tasks, state = source.next()
    assert (state.seen == 0).all()
    for _ in range(30):
        before = tasks.query.y.clone()
        source.put(learner(tasks, state).state)
        old_seen = state.seen
        tasks, state = source.next()
        begins = state.seen == 0
        born += int(begins.sum())
        assert torch.equal(state.seen[~begins], old_seen[~begins] + 3)
        assert torch.equal((tasks.query.y != before).any((1, 2)), begins)
    assert born > 30


def test_new_examples_are_of_the_tasks_that_the_queries_ask_about():
    learner, source = pool(num_query=64)
    for _ in range(20):
        tasks, state = source.next()
        slopes = [
            (part.x * part.y).sum(1) / part.x.square().sum(1)
            for part in (tasks.support, tasks.query)
        ]
        torch.testing.assert_close(slopes[0], slopes[1], rtol=0, atol=0.9)
        source.put(learner(tasks, state).state)


def test_a_life_lasts_k_iterations_with_probability_1_over_k():
    _, source = pool(max_steps=50)
    lives = source._lifetimes(40_000)
    assert lives.min() == 1 and lives.max() == 50
    for k in (2, 3, 5, 10, 20, 50):
        share = (lives >= k).double().mean().item()
        assert abs(share - 1 / k) < 4 * (1 / k * (1 - 1 / k) / 40_000) ** 0.5


def test_every_octave_of_depth_is_visited_equally_often_in_the_long_run():
    learner, source = pool(num_tasks=400, max_steps=64)
    octaves = torch.zeros(6)
    for iteration in range(250):
        tasks, state = source.next()
        source.put(learner(tasks, state).state)
        if iteration >= 100:
            depth = state.seen / 3 + 1  # of the step that comes
            octaves += torch.bincount(depth.log2().long(), minlength=7)[:6]
    share = octaves / octaves.sum()
    expected = torch.tensor([sum(1 / k for k in range(2**i, 2 ** (i + 1))) for i in range(6)])
    torch.testing.assert_close(share, expected / expected.sum(), rtol=0.2, atol=0)


def test_nothing_that_was_given_or_taken_is_changed_later(regime):
    sampler = Slopes()
    learner, source = pool(regime, sampler)
    grid, given = sampler.grid.clone(), []
    for _ in range(10):
        tasks, state = source.next()
        losses, _, after = learner(tasks, state)
        things = (tasks.support.x, tasks.query, state, after, losses)
        given.append((things, tree_map(lambda leaf: leaf.detach().clone(), things)))
        source.put(after)
        losses.sum().backward()  # after the tasks went on
    for things, copies in given:
        assert all(map(torch.equal, tree_leaves(things), tree_leaves(copies)))
    assert torch.equal(sampler.grid, grid)


def test_it_goes_on_exactly_where_its_state_was_taken(regime):
    learner, source = pool(regime)
    advance(learner, source, 7)
    stored = tree_map(torch.clone, source.state_dict())
    expected = advance(learner, source, 9)
    _, other = pool(regime, seed=1)
    advance(learner, other, 2)
    for resumed in (other, source):
        resumed.load_state_dict(stored)
        actual = advance(learner, resumed, 9)
        assert all(map(torch.equal, tree_leaves(actual), tree_leaves(expected)))


def test_a_pool_of_several_sizes_goes_on_exactly_where_its_state_was_taken():
    learner = Iterated(Slope().double(), steps=1)

    def several(seed):
        generator = torch.Generator().manual_seed(seed)
        options = COUNTS | {"num_support": (1, 2, 5)}
        return Pool(learner, Slopes(), generator=generator, **options)

    source = several(0)
    advance(learner, source, 7)
    stored = tree_map(torch.clone, source.state_dict())
    expected = advance(learner, source, 20)
    assert {taken[0].shape[1] for taken in expected} == {1, 2, 5}
    resumed = several(1)
    resumed.load_state_dict(stored)
    actual = advance(learner, resumed, 20)
    assert all(map(torch.equal, tree_leaves(actual), tree_leaves(expected)))


def test_all_sizes_cost_alike():
    sizes, num_draws = (2, 3, 12), 6000
    source = pool(num_support=sizes)[1]
    counts = Counter(source._size() for _ in range(num_draws))
    assert set(counts) == set(sizes)
    total = sum(1 / size for size in sizes)
    for size in sizes:
        chance = 1 / size / total
        deviation = (chance * (1 - chance) / num_draws) ** 0.5
        assert abs(counts[size] / num_draws - chance) < 4 * deviation


def test_what_is_drawn_is_of_the_sizes_asked_for():
    learner = Iterated(Slope().double(), steps=1)
    generator = torch.Generator().manual_seed(0)
    source = Pool(learner, Slopes(), generator=generator, **COUNTS, num_support=[2, 4])
    before = torch.zeros(5, dtype=torch.float64)
    for x, _, _, seen in advance(learner, source, 30):
        assert x.shape[1] in (2, 4)
        grown = seen[1] - seen[0]
        assert (grown == x.shape[1]).all()
        assert ((seen[0] == before) | (seen[0] == 0)).all()
        before = seen[1]


@pytest.mark.parametrize(
    ("minibatch", "steps", "num_support"), [((2, 4), 3, 10), ((2, 4, 9), 2, 6), (3, 4, 12)]
)
def test_a_pool_gives_what_the_schedule_reads(minibatch, steps, num_support):
    learner = Iterated(Slope().double(), steps=steps, minibatch=minibatch)
    source = Pool(learner, Slopes(), generator=torch.Generator().manual_seed(0), **COUNTS)
    tasks, state = source.next()
    assert tasks.support.mask.shape == (5, num_support)
    assert learner(tasks, state).seen[-1].tolist() == [num_support] * 5


def test_its_state_is_nested_dicts_of_tensors():
    def check(node):
        assert type(node) is dict
        for key, value in node.items():
            assert type(key) is str
            if not isinstance(value, torch.Tensor):
                check(value)

    check(pool()[1].state_dict())


@pytest.mark.parametrize(
    "kind",
    [
        *("fewer tasks", "another regime", "no generator", "unlabelled", ".left", ".state.seen"),
    ],
)
def test_a_state_of_another_pool_is_refused_and_changes_nothing(kind):
    learner, source = pool()
    twin = pool()[1]
    if kind == "fewer tasks":
        state = pool(num_tasks=4)[1].state_dict()
    elif kind == "another regime":
        state = pool(Kernel().double())[1].state_dict()
    elif kind in source.state_dict():
        state = pool(seed=9)[1].state_dict()
        state[kind] = state[kind] - 1000
    elif kind == "unlabelled":
        state = pool(sampler=Slopes(labelled=False))[1].state_dict()
    else:
        state = pool(seed=9)[1].state_dict() | {"generator": torch.zeros(3)}
    with pytest.raises(ValueError, match="`state` is not that of such a pool: "):
        source.load_state_dict(state)
    actual, expected = advance(learner, source, 3), advance(learner, twin, 3)
    assert all(map(torch.equal, tree_leaves(actual), tree_leaves(expected)))


def test_tasks_without_targets():
    class Tracker(Slope):
        def update(self, state, evidence, query_x=None, fresh=True):
            return type(state)(state.slope + evidence.x.mean(1), state.seen + evidence.mask.sum(1))

    learner, source = pool(Tracker().double(), Slopes(labelled=False))
    assert all(tasks[1].y is None for tasks in advance(learner, source, 5))


class Tags(NamedTuple):
    slope: torch.Tensor
    seen: torch.Tensor
    tag: torch.Tensor


def test_states_of_any_dtype_begin_anew():
    class Tagged(Slope):
        def init(self, num_tasks, query_x=None):
            return Tags(*super().init(num_tasks), torch.ones(num_tasks, 2, dtype=torch.bool))

        def update(self, state, evidence, query_x=None, fresh=True):
            return Tags(*super().update(state, evidence, query_x, fresh), state.tag)

    learner, source = pool(Tagged().double(), max_steps=1)
    advance(learner, source, 3)
    assert source.next()[1].seen.tolist() == [0] * 5


@pytest.mark.parametrize("name", COUNTS)
def test_counts_are_at_least_1(name):
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1; got 0"):
        pool(**{name: 0})


@pytest.mark.parametrize("num_support", [0, (), [4, 0], (-1, 4)])
def test_numbers_of_examples_are_at_least_1(num_support):
    sentence = f"`num_support` must be at least 1; got {num_support}."
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        pool(num_support=num_support)


def test_errors():
    generator = torch.Generator()
    with pytest.raises(ValueError, match="`num_support` must be given where the learner has no"):
        Pool(Iterated(Slope(), steps=1), Slopes(), generator=generator, **COUNTS)

    class Nameless(Slopes):
        def sample(self, *args, **kwargs):
            drawn = super().sample(*args, **kwargs)
            return type(drawn)(drawn.support, drawn.query, None)

    with pytest.raises(ValueError, match="`sampler` must give its tasks a `latent`"):
        pool(sampler=Nameless())
