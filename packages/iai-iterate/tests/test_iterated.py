import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_iterate import Iterated, first_order, greedy, reptile, truncated, unrolled
from slopes import Examples, Kernel, Slope, SlopeState, draw, observed_first
from torch.utils._pytree import tree_leaves


def rollout(regime, tasks, batches):
    """Losses, counts and the last state of the loop, written out."""
    state = regime.init(tasks.query.mask.shape[0], tasks.query.x)
    losses = [regime.loss(regime.predict(state, tasks.query.x), tasks.query)]
    seen = [state.seen]
    for batch, fresh in batches:
        state = regime.update(state, regime.encode(batch), tasks.query.x, fresh)
        losses.append(regime.loss(regime.predict(state, tasks.query.x), tasks.query))
        seen.append(state.seen)
    return torch.stack(losses), torch.stack(seen), state


@pytest.mark.parametrize("masked", [0.0, 0.6])
def test_it_is_the_loop_through_second_passes_and_ragged_sets(regime, masked):
    tasks = draw(num_support=10, masked=masked)
    losses, seen, state = Iterated(regime, steps=5, minibatch=4)(tasks)
    parts = [observed_first(tasks.support)[:, i : i + 4] for i in (0, 4, 8, 0, 4)]
    batches = list(zip(parts, (True, True, True, False, False), strict=True))
    expected = rollout(regime, tasks, batches)
    torch.testing.assert_close((losses, seen), expected[:2], rtol=0, atol=0)
    torch.testing.assert_close(tuple(state), tuple(expected[2]), rtol=0, atol=0)
    assert not any(leaf.requires_grad for leaf in tree_leaves(state))
    assert seen[3:].eq(tasks.support.mask.sum(1)).all()


@pytest.mark.parametrize("masked", [0.0, 0.6])
def test_it_is_the_loop_over_a_schedule_of_minibatches(regime, masked):
    tasks = draw(num_support=10, masked=masked)
    losses, seen, state = Iterated(regime, steps=5, minibatch=(1, 2, 5))(tasks)
    ends = [(0, 1), (1, 3), (3, 8), (8, 10), (0, 5)]
    support = observed_first(tasks.support)
    batches = [(support[:, i:j], step < 4) for step, (i, j) in enumerate(ends)]
    expected = rollout(regime, tasks, batches)
    torch.testing.assert_close((losses, seen), expected[:2], rtol=0, atol=0)
    torch.testing.assert_close(tuple(state), tuple(expected[2]), rtol=0, atol=0)


class Counting(Slope):
    """Notes the size of each minibatch, and whether it is fresh."""

    def update(self, state, evidence, query_x=None, fresh=True):
        self.read = [*getattr(self, "read", ()), (evidence.mask.shape[1], fresh)]
        return super().update(state, evidence, query_x, fresh)


def counted(minibatch, n, **options):
    learner = Iterated(Counting().double(), steps=1, minibatch=minibatch)
    return learner.adapt(draw(num_support=n).support, **options), learner.regime.read


@given(n=st.integers(1, 40), sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_adapt_reads_a_schedule_for_one_pass(n, sizes):
    adapted, read = counted(sizes, n)
    assert adapted.seen.tolist() == [n] * 3 and all(fresh for _, fresh in read)
    if sizes[0] > n:
        assert read == [(n, True)]
        return
    expected, left = [], n
    while left:
        expected.append(min(sizes[min(len(expected), len(sizes) - 1)], left))
        left -= expected[-1]
    assert [size for size, _ in read] == expected and adapted.step == len(expected)


def test_adapt_goes_on_with_the_last_size_when_asked_for_more_steps():
    adapted, read = counted((2, 4), 7, steps=5)
    assert read == [(2, True), (4, True), (1, True), (4, False), (3, False)]
    assert adapted.seen.tolist() == [7.0] * 3


def test_adapt_to_a_set_smaller_than_the_first_size_and_to_an_empty_one():
    _, read = counted((5, 2), 3, steps=2)
    assert read == [(3, True), (3, False)]
    adapted, read = counted((5, 2), 0)
    assert read == [(0, True)] and not adapted.seen.any() and (adapted.state.slope == 1).all()


@pytest.mark.parametrize("steps", [1, 2])
def test_in_training_a_set_smaller_than_a_minibatch_is_a_short_one(regime, steps):
    tasks = draw(num_support=5)
    small, exact = (Iterated(regime, steps=steps, minibatch=size)(tasks) for size in (64, 5))
    torch.testing.assert_close(small, exact, rtol=0, atol=0)


def test_without_steps_a_learner_reads_a_support_of_any_size_once(regime):
    learner = Iterated(regime, steps=None, minibatch=(2, 4))
    for num_support, steps in ((0, 1), (2, 1), (7, 3), (20, 6)):
        tasks = draw(num_support=num_support)
        losses, seen, _ = learner(tasks)
        assert seen[-1].tolist() == [num_support] * 3
        expected = Iterated(regime, steps=steps, minibatch=(2, 4))(tasks)
        torch.testing.assert_close(losses, expected.losses, rtol=0, atol=0)


def test_a_trace_reads_the_schedule_too():
    tasks = draw(num_support=7)
    learner = Iterated(Slope().double(), steps=1, minibatch=(1, 2, 4))
    steps = learner.trace(tasks.support, tasks.query.x, steps=4)
    assert [shown.seen[0].item() for shown in steps] == [0, 1, 3, 7, 7]


def test_the_last_loss_is_the_last_row_and_keeps_every_weight_in_the_graph(regime):
    tasks = draw()
    every = Iterated(regime, steps=3, minibatch=4)(tasks)
    last = Iterated(regime, steps=3, minibatch=4, loss="last")(tasks)
    assert torch.equal(last.losses, every.losses[-1:]) and torch.equal(last.seen, every.seen[-1:])
    gradients = torch.autograd.grad(last.losses.sum(), list(regime.parameters()), allow_unused=True)
    assert all(gradient is not None for gradient in gradients)


def test_the_gradient_mode_decides_how_far_the_last_loss_reaches():
    tasks = draw()
    reached = {}
    for name, mode in [("truncated", truncated(2)), ("unrolled", unrolled)]:
        regime = Slope().double()
        learner = Iterated(regime, steps=3, minibatch=4, gradient=mode, loss="last")
        learner(tasks).losses.sum().backward()
        reached[name] = bool(regime.start.grad)
    assert reached == {"truncated": False, "unrolled": True}


def test_given_a_state_live_tasks_go_on_and_others_start_anew():
    regime, tasks = Slope().double(), draw(num_tasks=2)
    learner = Iterated(regime, steps=1, minibatch=4)
    slope = torch.tensor([[5.0], [7.0]], dtype=torch.float64, requires_grad=True)
    seen = torch.tensor([8.0, 0.0], dtype=torch.float64)
    losses, counted, after = learner(tasks, SlopeState(slope, seen))
    assert counted.tolist() == [[8, 0], [12, 4]]

    fresh, _, anew = learner(tasks)
    assert torch.equal(losses[:, 1], fresh[:, 1]) and torch.equal(after.slope[1], anew.slope[1])
    batch = tasks.support[:, :4]
    expected = regime.update(SlopeState(slope, seen), batch)
    assert torch.equal(after.slope[0], expected.slope[0])

    of_start, of_slope = torch.autograd.grad(
        losses[:, 0].sum(), [regime.start, slope], retain_graph=True, allow_unused=True
    )
    assert of_start.item() == 0 and of_slope is None  # in the graph, and a constant
    (of_start,) = torch.autograd.grad(losses[:, 1].sum(), regime.start)
    assert of_start.item() != 0


def test_two_calls_on_fresh_examples_are_one_longer_call(regime):
    tasks = draw(num_support=12)
    longer = Iterated(regime, steps=4, minibatch=3)(tasks)
    learner, state, losses = Iterated(regime, steps=2, minibatch=3), None, []
    for half in (tasks.support[:, :6], tasks.support[:, 6:]):
        part = learner(type(tasks)(half, tasks.query, None), state)
        losses.append(part.losses[1:])
        state = part.state
    assert torch.equal(torch.cat(losses), longer.losses[1:])
    assert torch.equal(state.seen, longer.state.seen)


@given(seed=st.integers(0, 2**32), masked=st.sampled_from([0.0, 0.5]))
def test_a_task_is_the_same_alone_and_in_a_batch(seed, masked):
    for regime in (Slope().double(), Kernel().double()):
        tasks = draw(seed=seed, masked=masked)
        learner = Iterated(regime, steps=4, minibatch=5)
        whole = learner(tasks)
        for task in range(3):
            rows = slice(task, task + 1)
            alone = learner(type(tasks)(tasks.support[rows], tasks.query[rows], None))
            torch.testing.assert_close(alone.losses, whole.losses[:, rows], rtol=1e-12, atol=1e-12)
            assert torch.equal(alone.seen, whole.seen[:, rows])


def test_sets_without_examples_leave_the_start():
    regime = Slope().double()
    losses, seen, state = Iterated(regime, steps=2)(draw(num_support=0))
    assert (losses == losses[0]).all() and not seen.any() and (state.slope == 1).all()
    tasks = draw(masked=1.0)
    losses, seen, state = Iterated(regime, steps=2, minibatch=4)(tasks)
    assert (losses == losses[0]).all() and not seen.any() and (state.slope == 1).all()


def test_half_precision_keeps_the_counts_exact():
    regime, tasks = Kernel(), draw(num_support=600)
    support, query = tasks.support, tasks.query
    tasks = type(tasks)(
        Examples(support.x.float(), support.y.float(), support.mask),
        Examples(query.x.float(), query.y.float(), query.mask),
        None,
    )
    learner = Iterated(regime, steps=2, minibatch=300)
    with torch.autocast("cpu", torch.bfloat16):
        losses, seen, state = learner(tasks)
    losses.mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in regime.parameters())
    assert seen.tolist() == [[0] * 3, [300] * 3, [600] * 3] and (state.seen == 600).all()
    torch.testing.assert_close(losses, learner(tasks).losses, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"steps": 0}, "`steps` must be at least 1; got 0"),
        ({"steps": 1, "minibatch": 0}, "`minibatch` must be at least 1; got 0"),
        ({"steps": 1, "minibatch": ()}, r"`minibatch` must be at least 1; got \(\)"),
        ({"steps": 1, "minibatch": [4, 0]}, r"`minibatch` must be at least 1; got \[4, 0\]"),
        ({"steps": 1, "minibatch": (-1, 4)}, r"`minibatch` must be at least 1; got \(-1, 4\)"),
        ({"steps": 1, "loss": "first"}, "`loss` must be every or last; got 'first'"),
    ],
)
def test_errors_of_the_constructor(options, sentence, own_errors):
    with pytest.raises(ValueError, match=sentence):
        Iterated(Slope(), **options)


def test_errors_of_training():
    learner = Iterated(Kernel().double(), steps=1, minibatch=12)
    state = learner(draw()).state
    with pytest.raises(ValueError, match="`state` must be of these tasks and queries: "):
        learner(draw(num_query=1), state)
    with pytest.raises(ValueError, match="`state` must be of these tasks and queries: "):
        learner(draw(num_tasks=1), state)


def test_the_queries_are_asked_once_where_the_last_loss_is_all_that_counts(regime, monkeypatch):
    asked = []
    predict = type(regime).predict
    monkeypatch.setattr(
        type(regime), "predict", lambda *parts: asked.append(None) or predict(*parts)
    )
    for gradient in (greedy, truncated(2), unrolled, first_order, reptile):
        Iterated(regime, steps=3, minibatch=4, gradient=gradient, loss="last")(draw())
        assert len(asked) == 1, gradient
        asked.clear()


def test_an_answer_is_that_of_a_pass_and_of_whole_sets_after_it(regime):
    tasks, learner = draw(num_support=7, masked=0.4), Iterated(regime, steps=1, minibatch=3)
    adapted = learner.adapt(tasks.support, tasks.query.x)
    longest = int(tasks.support.mask.sum(1).max())
    assert adapted.step == -(-longest // 3) and adapted.seen.max() == longest
    answers = [learner.answer(tasks, again=again) for again in range(3)]
    for answer in answers:
        assert torch.equal(answer, adapted.predict(tasks.query.x)) and not answer.requires_grad
        adapted = adapted.update(tasks.support, fresh=False)
    assert not torch.equal(answers[0], answers[2])
