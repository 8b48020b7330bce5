import warnings
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_iterate import rematerialised, unrolled
from iai_iterate.modes.surroundings import Surroundings
from inner_loops import adaptation, gradients, problem
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

SEEDS, COUNTS = st.integers(0, 2**32), st.integers(1, 8)


def assert_same(actual, expected):
    torch.testing.assert_close(list(actual), list(expected), rtol=1e-12, atol=1e-12)


@given(seed=SEEDS, num_steps=COUNTS)
def test_it_is_unrolled(seed, num_steps):
    step, loss, start, learned = problem(seed, num_steps)
    losses, state = rematerialised(step, loss, start, range(num_steps))
    expected, end = unrolled(step, loss, start, range(num_steps))
    assert torch.equal(losses, expected) and torch.equal(state["a"], end["a"])
    assert_same(gradients(losses, learned), gradients(expected, learned))


@given(seed=SEEDS, num_steps=COUNTS)
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_steps_may_take_gradients_and_draw(dropout, seed, num_steps):
    step, loss, start, learned, leaves = adaptation(seed, dropout=dropout)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        expected, _ = unrolled(step, loss, start, range(num_steps))
        drawn = torch.get_rng_state()
        torch.manual_seed(seed)
        losses, _ = rematerialised(step, loss, start, range(num_steps))
        assert torch.equal(torch.get_rng_state(), drawn)
        assert torch.equal(losses, expected)
        # By what is made of leaves outside, and by the leaves; the graphs are used again.
        for reached in (learned, leaves):
            torch.rand(7)
            before = torch.get_rng_state()
            actual = gradients(losses, reached, retain_graph=True)
            assert torch.equal(torch.get_rng_state(), before)
            assert_same(actual, gradients(expected, reached, retain_graph=True))


def test_backward_fills_the_gradients_of_leaves():
    found = []
    for mode in (rematerialised, unrolled):
        step, loss, start, _, leaves = adaptation(3)
        mode(step, loss, start, range(7))[0].sum().backward()
        found.append([leaf.grad for leaf in leaves])
    assert_same(*found)


def test_one_loss_at_a_time():
    step, loss, start, learned, _ = adaptation(4)
    losses, expected = (m(step, loss, start, range(7))[0] for m in (rematerialised, unrolled))
    for index in (6, 0, 3, 2, 6):
        one, other = (
            torch.autograd.grad(
                value[index].sum(), learned, retain_graph=True, materialize_grads=True
            )
            for value in (losses, expected)
        )
        assert_same(one, other)


def test_finite_differences_to_the_second_order():
    _, _, _, learned = problem(0, 3)

    def losses(a, b, c, rates):
        def step(state, index):
            moved = state["a"] - rates[index] * (state["a"] * state["c"]).sin()
            return {"a": moved, "b": state["b"] + moved.sum(1), "c": state["c"].cos()}

        start = {"a": a, "b": b, "c": c}
        return rematerialised(step, lambda s: s["a"].sum(1) * s["b"], start, range(3))[0]

    assert torch.autograd.gradcheck(losses, learned)
    assert torch.autograd.gradgradcheck(losses, learned)


def test_autocast_is_as_it_was():
    weight, start = torch.randn(6, 6, requires_grad=True), torch.randn(2, 6)

    def step(state, index):
        return state + (state @ weight).tanh().float()

    found = []
    for mode in (rematerialised, unrolled):
        with torch.autocast("cpu", torch.bfloat16):
            losses, _ = mode(step, lambda state: state.square().mean(1), start, range(5))
        found.append((losses, *torch.autograd.grad(losses.sum(), weight)))
    assert all(map(torch.equal, *found))


def test_without_gradients_nothing_is_kept():
    step, loss, start, _ = problem(0, 4)
    with torch.no_grad(), saved_tensors_hooks(pytest.fail, pytest.fail):
        losses, _ = rematerialised(step, loss, start, range(4))
    assert not losses.requires_grad


def most_alive(mode, num_steps):
    """States in memory at most during a rollout and its backward pass, and steps taken."""
    alive = most = taken = 0

    def died():
        nonlocal alive
        alive -= 1

    def step(state, _):
        nonlocal alive, most, taken
        after = state.sin()  # keeps its argument for the backward pass
        weakref.finalize(after.untyped_storage(), died)
        alive, taken = alive + 1, taken + 1
        most = max(most, alive)
        return after

    start = torch.zeros(1, 9, requires_grad=True)
    losses, _ = mode(step, lambda state: state.mean(1), start, range(num_steps))
    losses[-1].sum().backward()
    return most, taken


def test_memory_is_that_of_the_root_of_the_steps():
    for root in (2, 4, 8, 16):
        most, taken = most_alive(rematerialised, root**2)
        assert most <= 2 * root + 2 and taken == 2 * root**2
    assert most_alive(unrolled, 64) == (64, 64)


def test_a_gradient_inside_a_step_repeats_nothing():
    step, loss, start, learned, _ = adaptation(0)
    taken = []
    losses, _ = rematerialised(
        lambda state, index: (taken.append(index), step(state, index))[1], loss, start, range(8)
    )
    assert taken == list(range(8))
    gradients(losses, learned)
    assert taken[8:] == [6, 7, 3, 4, 5, 0, 1, 2]


def test_a_step_that_does_something_else_when_taken_again_is_noticed():
    calls = []

    def step(state, index):
        calls.append(index)
        return state.sin() if len(calls) <= 4 else state.sin().cos()

    start = torch.zeros(2, requires_grad=True)
    losses, _ = rematerialised(step, lambda state: state, start, range(4))
    with pytest.raises(RuntimeError, match="saved 2 tensors for the backward pass, and then 4"):
        losses.sum().backward()


def test_what_was_changed_between_the_passes_is_noticed():
    rate, start = torch.tensor([0.1, 0.2], requires_grad=True), torch.ones(2, requires_grad=True)
    for changed in (rate, start):
        losses, _ = rematerialised(
            lambda state, _: state - rate * state.sin(), lambda state: state.sin(), start, range(4)
        )
        with torch.no_grad():
            changed.mul_(2)
        sentence = r"saved (\d+) tensors .*, and then \1, or one of them was changed in place"
        with pytest.raises(RuntimeError, match=sentence):
            losses.sum().backward()


def test_a_tensor_that_stands_twice_is_one_when_taken_again():
    def step(state, _):
        (slope,) = torch.autograd.grad(
            (state["w"] * state["anchor"].sin()).sum(), state["w"], create_graph=True
        )
        return {"w": state["w"] - 0.1 * slope, "anchor": state["anchor"]}

    w = torch.linspace(1, 2, 3, dtype=torch.float64, requires_grad=True)
    found = []
    for mode in (rematerialised, unrolled):
        losses, _ = mode(step, lambda state: state["w"], {"w": w, "anchor": w}, range(5))
        found.append((losses, *gradients(losses, [w])))
    assert_same(*found)


def test_functional_gradients_inside_a_step_are_refused_not_wrong():
    def step(state, _):
        return state - torch.func.grad(lambda at: at.square().sum())(state)

    with pytest.raises(RuntimeError, match="saved tensor hooks"):
        rematerialised(step, lambda state: state, torch.ones(2, requires_grad=True), range(2))


class Generators:
    """The random states of a kind of device that this machine does not have, as numbers."""

    def __init__(self, *states):
        self.states = list(states)

    def get_rng_state(self, device):
        return self.states[getattr(device, "index", device)]

    def set_rng_state(self, state, device):
        self.states[getattr(device, "index", device)] = state


def test_generators_of_every_kind_of_device_are_restored(monkeypatch):
    cuda, xpu, original = Generators(1, 2), Generators(3), torch.get_device_module

    def module(device=None):
        kind = torch.device(device or "cpu").type
        return {"cuda": cuda, "xpu": xpu}.get(kind) or original(device)

    monkeypatch.setattr(torch, "get_device_module", module)
    with FakeTensorMode():
        tree = [torch.empty(1, device=name) for name in ("cuda:0", "xpu:0", "cpu", "cuda:1")]
    surroundings = Surroundings(tree)
    cuda.states, xpu.states = [10, 20], [30]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # autocast on a device that is not there
        with surroundings.restored():
            assert (cuda.states, xpu.states) == ([1, 2], [3])
            cuda.states, xpu.states = [4, 4], [4]
    assert (cuda.states, xpu.states) == ([10, 20], [30])
