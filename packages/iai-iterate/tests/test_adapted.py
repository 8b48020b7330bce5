import copy
import re
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from iai_iterate import Adapted, Iterated
from slopes import Examples, Kernel, Slope, SlopeState, draw, observed_first
from torch import Tensor
from torch.utils._pytree import tree_leaves

# A matrix product may round otherwise where its numbers lie elsewhere in memory.
assert_same = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)


def test_adapting_is_training_without_the_gradients(regime):
    tasks = draw(masked=0.3)
    learner = Iterated(regime, steps=3, minibatch=4)
    expected = learner(tasks).losses
    for stage, losses in zip(
        learner.trace(tasks.support, tasks.query.x, steps=3), expected, strict=True
    ):
        outputs = stage.predict(tasks.query.x)
        assert_same(regime.loss(outputs, tasks.query), losses)
        assert not outputs.requires_grad
    parts = [observed_first(tasks.support)[:, i : i + 4] for i in (0, 4, 8)]
    adapted = learner.adapt(iter(parts))
    assert_same(adapted.predict(tasks.query.x), outputs)
    assert adapted.step == 3 and torch.equal(adapted.seen.double(), stage.seen)


def test_queries_may_be_given_up_front_or_later(regime):
    tasks = draw()
    learner = Iterated(regime, steps=3, minibatch=5)
    first, later = learner.adapt(tasks.support, tasks.query.x), learner.adapt(tasks.support)
    assert_same(first.predict(tasks.query.x), later.predict(tasks.query.x))
    assert torch.equal(first.seen.double(), later.seen.double())
    assert bool(later.evidence) is regime.needs_query and not first.evidence
    other = draw(num_query=2, seed=1).query.x
    assert later.predict(other).shape == (3, 2, 1)
    if regime.needs_query:
        with pytest.raises(ValueError, match="answers no others; adapt without `query_x` to ask"):
            first.predict(other)
    else:
        assert_same(first.predict(other), later.predict(other))


def test_reading_on_gives_a_new_one_and_leaves_the_old(regime):
    tasks = draw(num_support=12)
    learner = Iterated(regime, steps=1, minibatch=4)
    old = learner.adapt([tasks.support[:, :4]])
    before = old.predict(tasks.query.x)
    new = old.update(tasks.support[:, 4:8])
    assert torch.equal(old.predict(tasks.query.x), before) and (old.step, new.step) == (1, 2)
    assert not torch.equal(new.predict(tasks.query.x), before)
    whole = learner.adapt([tasks.support[:, :4], tasks.support[:, 4:8]])
    assert_same(new.predict(tasks.query.x), whole.predict(tasks.query.x))
    again = new.update(tasks.support[:, :4], fresh=False)
    assert again.seen.tolist() == new.seen.tolist() == [8, 8, 8]


def test_a_set_in_memory_is_read_once_by_default_and_alike_each_time(regime):
    tasks = draw(num_support=10)
    learner = Iterated(regime, steps=1, minibatch=4)
    one, other = learner.adapt(tasks.support), learner.adapt(tasks.support)
    assert one.step == 3 and one.seen.tolist() == [10, 10, 10]
    assert_same(one.predict(tasks.query.x), other.predict(tasks.query.x))
    generator = torch.Generator().manual_seed(1)
    longer = learner.adapt(tasks.support, steps=7, generator=generator)
    assert longer.step == 7 and longer.seen.tolist() == [10, 10, 10]
    assert learner.adapt(tasks.support, steps=2).seen.tolist() == [8, 8, 8]


def test_small_and_empty_sets(regime):
    learner = Iterated(regime, steps=1, minibatch=64)
    tasks = draw(num_support=5)
    small = learner.adapt(tasks.support)
    assert small.step == 1 and small.seen.tolist() == [5, 5, 5]
    prior = Adapted.new(regime, 3, tasks.query.x).predict(tasks.query.x)
    for empty in (tasks.support[:, :0], draw(num_support=5, masked=1.0).support):
        for minibatch in (None, 64):
            adapted = Iterated(regime, steps=1, minibatch=minibatch).adapt(empty)
            assert torch.equal(adapted.predict(tasks.query.x), prior)
            assert adapted.seen.tolist() == [0, 0, 0]


def test_an_iterable_is_read_once_one_minibatch_at_a_time(regime):
    support, alive = draw(num_support=12).support, []

    class Recording(type(regime)):
        def update(self, *arguments):
            alive.append(given - len(alive))
            return super().update(*arguments)

    def stream():
        nonlocal given
        for start, stop in [(0, 1), (1, 6), (6, 6), (6, 12)]:  # sizes may vary
            given += 1
            yield support[:, start:stop]

    given = 0
    query_x = draw().query.x
    adapted = Iterated(Recording().double(), steps=1).adapt(stream(), query_x)
    assert alive == [1] * 4 and adapted.step == 4 and adapted.seen.tolist() == [12, 12, 12]


def test_a_data_loader_is_an_iterable_of_minibatches(regime):
    tasks = draw(num_tasks=1, num_support=10)

    def collate(rows):
        return tasks.support[:, torch.tensor(rows)]

    loader = torch.utils.data.DataLoader(range(10), batch_size=4, collate_fn=collate)
    adapted = Iterated(regime, steps=1).adapt(loader)
    parts = [tasks.support[:, i : i + 4] for i in (0, 4, 8)]
    expected = Iterated(regime, steps=1).adapt(parts)
    assert_same(adapted.predict(tasks.query.x), expected.predict(tasks.query.x))


def test_the_trace_starts_before_any_example_and_checks_at_once(regime):
    tasks = draw()
    learner = Iterated(regime, steps=1, minibatch=4)
    stages = list(learner.trace(tasks.support, tasks.query.x, steps=5))
    assert [stage.step for stage in stages] == [0, 1, 2, 3, 4, 5]
    assert [stage.seen[0].item() for stage in stages] == [0, 4, 8, 12, 12, 12]
    (start,) = learner.trace(tasks.support, tasks.query.x, steps=0)
    assert_same(start.predict(tasks.query.x), stages[0].predict(tasks.query.x))
    with pytest.raises(ValueError, match="`steps` must be at least 0; got -1"):
        learner.trace(tasks.support, tasks.query.x, steps=-1)


def with_nan(support):
    return Examples(support.x * torch.nan, support.y, support.mask)


def test_errors():
    tasks = draw()
    support, query_x = tasks.support, tasks.query.x
    learner = Iterated(Slope().double(), steps=1, minibatch=4)
    with pytest.raises(ValueError, match="`steps` must be at least 1; got 0"):
        learner.adapt(support, steps=0)
    with pytest.raises(ValueError, match="`steps` is for a set in memory; an iterable is read"):
        learner.adapt([support], steps=1)
    with pytest.raises(ValueError, match="`support` must hold at least one minibatch; got none"):
        learner.adapt([])
    with pytest.raises(ValueError, match="`x` must be finite; got NaN"):
        learner.adapt(with_nan(support))
    sentence = r"`query_x` must be `task query \*x_shape` of"
    with pytest.raises(ValueError, match=rf"{sentence} 3 tasks, .*; got \(2, 4"):
        learner.adapt(support, query_x[:2])
    adapted = learner.adapt(support)
    with pytest.raises(ValueError, match="A minibatch must have the 3 tasks read so far; got 2"):
        adapted.update(support[:2])
    with pytest.raises(ValueError, match=rf"{sentence} 3 tasks, .*; got \(1, 4"):
        adapted.predict(query_x[:1])


def test_a_refused_minibatch_changes_nothing():
    tasks = draw()
    adapted = Iterated(Kernel().double(), steps=1).adapt(tasks.support)
    before = adapted.predict(tasks.query.x)
    with pytest.raises(ValueError, match="must be finite"):
        adapted.update(with_nan(tasks.support))
    assert adapted.step == 1 and torch.equal(adapted.predict(tasks.query.x), before)


class Held(NamedTuple):
    slope: Tensor
    anchor: Tensor
    seen: Tensor


class Anchored(Slope):
    """A slope that is pulled back to its start, the state's anchor."""

    def init(self, num_tasks, query_x=None):
        slope, seen = super().init(num_tasks)
        return Held(slope, slope, seen)

    def update(self, state, evidence, query_x=None, fresh=True):
        plain = SlopeState(state.slope, state.seen)
        slope, seen = super().update(plain, evidence, query_x, fresh)
        return Held(slope + 0.1 * (state.anchor - slope), state.anchor, seen)


class Retrieved(Kernel):
    """Evidence with a learned tensor in it, and a state that an update makes of the weights."""

    def encode(self, batch):
        keys = self.features.weight[:, 0].expand(len(batch.mask), -1)
        return super().encode(batch)._replace(keys=(keys,))

    def update(self, state, evidence, query_x, fresh=True):
        return state._replace(answer=self.start.expand(state.answer.shape))


def train_in_place(regime):
    with torch.no_grad():
        for weight in regime.parameters():
            weight.add_(1)


@pytest.mark.parametrize("num_tasks", [1, 3])
def test_a_snapshot_does_not_change_with_the_weights(regime, num_tasks):
    tasks = draw(num_tasks)
    learner = Iterated(regime, steps=1, minibatch=4)
    stages = list(learner.trace(tasks.support, tasks.query.x, steps=2))
    before = [[leaf.clone() for leaf in tree_leaves(stage.state)] for stage in stages]
    train_in_place(regime)
    for stage, leaves in zip(stages, before, strict=True):
        assert all(map(torch.equal, tree_leaves(stage.state), leaves))


@pytest.mark.parametrize("num_tasks", [1, 3])
def test_a_state_keeps_its_anchor_when_the_weights_change(num_tasks):
    regime, tasks = Anchored().double(), draw(num_tasks)
    learner = Iterated(regime, steps=2, minibatch=4)
    adapted, trained = learner.adapt(tasks.support[:, :4]), learner(tasks).state
    train_in_place(regime)
    for state in (adapted.state, trained):
        assert (state.anchor == 1).all() and not state.anchor.requires_grad
    with torch.no_grad():
        regime.rate.sub_(1)
    other = copy.deepcopy(learner)
    with torch.no_grad():
        other.regime.start.fill_(1)
    expected = other.adapt([tasks.support[:, :4], tasks.support[:, 4:8]]).state.slope
    assert_same(adapted.update(tasks.support[:, 4:8]).state.slope, expected)


def test_evidence_and_updates_share_no_memory_with_the_weights():
    regime, tasks = Retrieved().double(), draw(1, num_query=1)
    later = Adapted.new(regime, 1).update(tasks.support)
    given = Adapted.new(regime, 1, tasks.query.x).update(tasks.support)
    keys, answer = later.evidence[0][0].keys[0].clone(), given.state.answer.clone()
    train_in_place(regime)
    assert torch.equal(later.evidence[0][0].keys[0], keys)
    assert torch.equal(given.state.answer, answer)


def test_a_state_that_is_finite_in_no_task_is_told():
    learner, tasks = Iterated(Slope().double(), steps=1, minibatch=4), draw(num_tasks=2)
    x, y, mask = tasks.support.x, tasks.support.y, tasks.support.mask
    large = x * 1e120  # a descent on it diverges
    one = Examples(torch.cat([large[:1], x[1:]]), y, mask)
    predicted = learner.adapt(one).predict(tasks.query.x)
    assert predicted[1].isfinite().all() and not predicted[0].isfinite().any()
    message = (
        "`support` led to a state that is not finite in any task; scale its `x` and `y` to about "
        "1, or let the rule take shorter steps."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        learner.adapt(Examples(large, y, mask))


class Carried(NamedTuple):
    slope: Tensor
    carry: Any
    seen: Tensor


class Carrying(Slope):
    """Beside the slope there is what no task has, what is one for all, and what is of no size."""

    def init(self, num_tasks, query_x=None):
        slope, seen = super().init(num_tasks)
        return Carried(slope, (None, 3, seen.new_zeros(num_tasks, 0)), seen)

    def update(self, state, evidence, query_x=None, fresh=True):
        slope, seen = super().update(state, evidence, query_x, fresh)
        return Carried(slope, state.carry, seen)


def test_a_state_may_hold_none_numbers_and_tensors_without_numbers():
    tasks, kept = draw(), Iterated(Slope().double(), steps=2, minibatch=4)
    learner = Iterated(Carrying().double(), steps=2, minibatch=4)
    answers = learner.adapt(tasks.support).predict(tasks.query.x)
    assert_same(answers, kept.adapt(tasks.support).predict(tasks.query.x))
    state = learner(tasks, learner(tasks).state).state
    assert_same(state.slope, kept(tasks, kept(tasks).state).state.slope)
    assert state.carry[:2] == (None, 3)
