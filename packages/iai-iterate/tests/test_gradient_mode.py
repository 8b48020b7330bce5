import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_iterate import greedy, truncated, unrolled
from iai_iterate.testing import check_gradient_mode

MODES = {"greedy": greedy, "truncated": truncated(2), "unrolled": unrolled}


def problem(seed, num_steps):
    """Three tasks whose nested state moves by learned rates; and the tensors that are learned."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    start, rates = {"a": draw(3, 2), "b": (draw(3), [draw(3, 1)])}, draw(num_steps)

    def step(state, index):
        (b, [c]), rate = state["b"], rates[index]
        a = state["a"] - rate * (state["a"] * c).sin()
        return {"a": a, "b": (b + rate * a.sum(1), [c * (1 + rate) / (1 + c**2)])}

    def loss(state):
        return (state["a"].square().sum(1) + state["b"][0]).tanh()

    return step, loss, start, [start["a"], start["b"][0], start["b"][1][0], rates]


def detached(tree):
    return {"a": tree["a"].detach(), "b": (tree["b"][0].detach(), [tree["b"][1][0].detach()])}


def by_hand(step, loss, start, num_steps, stretch):
    state, losses = start, []
    for index in range(num_steps):
        if index and index % stretch == 0:
            state = detached(state)
        state = step(state, index)
        losses.append(loss(state))
    return torch.stack(losses)


def gradients(losses, learned):
    return torch.autograd.grad(losses.square().sum(), learned, materialize_grads=True)


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_contract(mode):
    check_gradient_mode(mode)


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
        moved = {"a": start["a"].detach(), "b": (b, [start["b"][1][0].detach()])}
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


def test_errors():
    with pytest.raises(ValueError, match="`num_steps` must be at least 1; got 0"):
        truncated(0)
    for mode in MODES.values():
        with pytest.raises(
            ValueError, match="`batches` must hold at least one minibatch; got none"
        ):
            mode(lambda state, batch: state, lambda state: state, torch.zeros(1), [])
