from collections import OrderedDict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_iterate import first_order, greedy, rematerialised, reptile, truncated, unrolled
from iai_iterate.testing import check_gradient_mode
from inner_loops import by_hand, constant, gradients, problem
from torch.utils._pytree import tree_map

MODES = {
    "first_order": first_order,
    "greedy": greedy,
    "rematerialised": rematerialised,
    "reptile": reptile,
    "truncated": truncated(2),
    "unrolled": unrolled,
}


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_contract(mode):
    check_gradient_mode(mode, shared=mode is not reptile)


@given(seed=st.integers(0, 2**32), num_steps=st.integers(1, 6), stretch=st.integers(1, 7))
def test_gradients_are_those_of_loops_written_by_hand(seed, num_steps, stretch):
    step, loss, start, learned = problem(seed, num_steps)
    for mode, length in [(greedy, 1), (truncated(stretch), stretch), (unrolled, num_steps)]:
        losses, _ = mode(step, loss, start, range(num_steps))
        expected = by_hand(step, loss, start, num_steps, length)
        torch.testing.assert_close(losses, expected, rtol=1e-12, atol=1e-12)
        pairs = zip(gradients(losses, learned), gradients(expected, learned), strict=True)
        for actual, oracle in pairs:
            torch.testing.assert_close(actual, oracle, rtol=1e-12, atol=1e-12)


def test_the_ends_of_truncation_are_greedy_and_unrolled():
    step, loss, start, learned = problem(0, 5)
    for mode, same in [(truncated(1), greedy), (truncated(5), unrolled), (truncated(9), unrolled)]:
        one, other = (m(step, loss, start, range(5))[0] for m in (mode, same))
        assert all(map(torch.equal, gradients(one, learned), gradients(other, learned)))
    between = gradients(truncated(2)(step, loss, start, range(5))[0], learned)
    for mode in (greedy, unrolled):
        other = gradients(mode(step, loss, start, range(5))[0], learned)
        assert not torch.equal(between[3], other[3])


def test_unrolled_agrees_with_finite_differences():
    _, _, _, learned = problem(0, 3)

    def losses(a, b, c, rates):
        def step(state, index):
            moved = state["a"] - rates[index] * (state["a"] * state["c"]).sin()
            return {"a": moved, "b": state["b"] + moved.sum(1), "c": state["c"].cos()}

        start = {"a": a, "b": b, "c": c}
        return unrolled(step, lambda s: s["a"].sum(1) * s["b"], start, range(3))[0]

    assert torch.autograd.gradcheck(losses, learned)


@pytest.mark.parametrize("stretch", [1, 2, 3])
def test_a_truncated_gradient_is_that_of_its_stretch_by_finite_differences(stretch):
    step, loss, start, _ = problem(0, 4)
    first = start["b"][0]
    whole = truncated(stretch)(step, loss, start, range(4))[0]
    (actual,) = torch.autograd.grad(whole.sum(), first)

    def stretch_alone(b):
        moved = {**constant(start), "b": (b, [start["b"][1][0].detach()])}
        return by_hand(step, loss, moved, stretch, stretch).sum()

    shift = torch.zeros(3, dtype=torch.float64)
    for task in range(3):
        shift[task] = 1e-6
        b = first.detach()
        slope = (stretch_alone(b + shift) - stretch_alone(b - shift)) / 2e-6
        torch.testing.assert_close(actual[task], slope, rtol=1e-6, atol=1e-8)
        shift[task] = 0


def test_the_start_learns_from_the_first_stretch_alone():
    step, loss, start, _ = problem(0, 4)
    losses, _ = truncated(2)(step, loss, start, range(4))
    for index, reached in enumerate([True, True, False, False]):
        (gradient,) = torch.autograd.grad(
            losses[index].sum(), start["a"], retain_graph=True, materialize_grads=True
        )
        assert bool((gradient != 0).any()) is reached


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@given(seed=st.integers(0, 2**32), num_steps=st.integers(1, 6))
def test_every_mode_has_the_values_of_the_plain_loop(mode, seed, num_steps):
    step, loss, start, _ = problem(seed, num_steps)
    losses, state = mode(step, loss, start, range(num_steps))
    expected = by_hand(step, loss, start, num_steps, num_steps)
    assert torch.equal(losses, expected)
    assert state["count"].tolist() == [num_steps, num_steps + 1, num_steps + 2]


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@given(seed=st.integers(0, 2**32), num_steps=st.integers(1, 4))
def test_a_batch_of_tasks_is_its_tasks_one_by_one(mode, seed, num_steps):
    step, loss, start, learned = problem(seed, num_steps)
    losses, _ = mode(step, loss, start, range(num_steps))
    together = gradients(losses, learned)
    apart = [torch.zeros_like(leaf) for leaf in learned]
    for task in range(3):
        rows = slice(task, task + 1)
        alone, _ = mode(step, loss, tree_map(lambda t, r=rows: t[r], start), range(num_steps))
        torch.testing.assert_close(alone, losses[:, rows], rtol=1e-12, atol=1e-12)
        apart = [sum(pair) for pair in zip(apart, gradients(alone, learned), strict=True)]
    torch.testing.assert_close(list(together), apart, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_numbers_that_are_not_finite_harm_no_other(mode):
    def step(state, index):
        return state[0] * 0.5, state[1]

    start = torch.ones(2, requires_grad=True), torch.tensor([[-torch.inf, 1.0]]).expand(2, 2)
    losses, (theta, logits) = mode(step, lambda s: s[0] + 0 * s[1].exp().sum(1), start, range(2))
    assert losses.tolist() == [[0.5, 0.5], [0.25, 0.25]]
    assert torch.equal(logits, start[1]) and theta.tolist() == [0.25, 0.25]
    assert torch.autograd.grad(losses.sum(), start[0])[0].isfinite().all()


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda s: {"a": s["a"]}, r"\['b'\] was \(2,\), torch.float32 and became absent\.$"),
        (lambda s: {**s, "a": s["a"][:1]}, r"\['a'\] was \(2,\), torch.float32 and became \(1,\)"),
        (
            lambda s: {**s, "b": s["b"].double()},
            r"\['b'\] was .*32 and became \(2,\), torch.float64",
        ),
        (lambda s: {**s, "b": 1.0}, r"\['b'\] was \(2,\), torch.float32 and became float\.$"),
        (lambda s: s["a"], r"\['a'\] was \(2,\), torch.float32 and became absent\.$"),
        (lambda s: OrderedDict(s), r"it was TreeSpec.* and became TreeSpec.*OrderedDict"),
    ],
)
def test_a_step_that_changes_the_structure_is_refused(mode, change, sentence):
    def step(state, index):
        return change(state) if index == 1 else state

    start = {"a": torch.zeros(2), "b": torch.zeros(2)}
    with pytest.raises(ValueError, match=f"(?s)^`step` must keep .*dtypes; {sentence}"):
        mode(step, lambda state: state["a"], start, range(3))


def test_errors():
    with pytest.raises(ValueError, match="`num_steps` must be at least 1; got 0"):
        truncated(0)
    for mode in MODES.values():
        with pytest.raises(
            ValueError, match="`batches` must hold at least one minibatch; got none"
        ):
            mode(lambda state, batch: state, lambda state: state, torch.zeros(1), [])
