import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_iterate import first_order, unrolled
from inner_loops import adaptation, constant, problem
from torch.utils._pytree import tree_leaves


def by_hand(step, loss, start, num_steps, learned, index):
    """Gradients of `loss(state_index)`: by that state, carried to the start; by each step's own."""
    states = [start]
    for number in range(num_steps):
        states.append(constant(step(constant(states[-1]), number)))
    leaves = [leaf.clone().requires_grad_() for leaf in tree_leaves(states[index + 1])[:3]]
    a, b, c = leaves
    reached = {"a": a, "b": (b, [c]), "count": states[index + 1]["count"]}
    of_state = torch.autograd.grad(loss(reached).sum(), leaves, materialize_grads=True)
    of_rates = torch.zeros_like(learned[-1])
    for number in range(index + 1):
        moved = tree_leaves(step(constant(states[number]), number))[:3]
        own = torch.autograd.grad(moved, learned[-1], of_state, materialize_grads=True)
        of_rates = of_rates + own[0]
    return [*of_state, of_rates]


@given(seed=st.integers(0, 2**32), num_steps=st.integers(1, 5), data=st.data())
def test_the_identity_across_steps_and_each_steps_own_work(seed, num_steps, data):
    step, loss, start, learned = problem(seed, num_steps)
    index = data.draw(st.integers(0, num_steps - 1))
    losses, _ = first_order(step, loss, start, range(num_steps))
    actual = torch.autograd.grad(losses[index].sum(), learned, materialize_grads=True)
    expected = by_hand(step, loss, start, num_steps, learned, index)
    torch.testing.assert_close(list(actual), expected, rtol=1e-12, atol=1e-12)


@given(seed=st.integers(0, 2**32), num_steps=st.integers(1, 6))
def test_of_adaptation_it_is_the_gradient_at_the_adapted_parameters(seed, num_steps):
    step, loss, start, _, _ = adaptation(seed)
    losses, _ = first_order(step, loss, start, range(num_steps))
    (actual,) = torch.autograd.grad(losses[-1].sum(), start[0])
    with torch.no_grad():
        state = start
        for index in range(num_steps):
            state = step(state, index)
    adapted = state[0].clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss((adapted, state[1])).sum(), adapted)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_where_steps_move_every_state_alike_it_agrees_with_finite_differences():
    rates = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)
    start = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)

    def losses(start, rates):
        def step(state, index):  # a shift: its derivative by the state is the identity
            return state + rates[index] * torch.arange(3, dtype=torch.float64).cos()

        return first_order(step, lambda state: state.sin().sum(1), start, range(3))[0]

    assert torch.autograd.gradcheck(losses, (start, rates))
    assert torch.autograd.gradgradcheck(losses, (start, rates))


def test_names_of_one_tensor_stay_names_of_one_tensor():
    w = torch.ones(2, requires_grad=True)
    same = []

    def step(state, _):
        same.append(state["w"] is state["anchor"])
        return state

    first_order(step, lambda state: state["w"], {"w": w, "anchor": w}, range(1))
    assert same == [True]


def test_what_is_shared_keeps_its_mixed_second_derivative():
    scale, start = torch.tensor(3.0, requires_grad=True), torch.ones(2, requires_grad=True)

    def step(state, _):  # on scale w^2 / 2
        at = state.detach().requires_grad_()
        (slope,) = torch.autograd.grad((scale * at.square() / 2).sum(), at, create_graph=True)
        return state - 0.1 * slope

    losses, _ = first_order(step, lambda state: state, start, range(1))
    of_scale, of_start = torch.autograd.grad(losses.sum(), (scale, start))
    assert of_start.tolist() == [1, 1]
    torch.testing.assert_close(of_scale, torch.tensor(-0.2))  # -0.1 w, for two tasks


def test_it_is_not_unrolled():
    step, loss, start, learned, _ = adaptation(0)
    one, other = (
        mode(step, loss, start, range(3))[0][-1].sum() for mode in (first_order, unrolled)
    )
    (one,), (other,) = (torch.autograd.grad(value, learned[:1]) for value in (one, other))
    assert (one - other).norm() > 1e-2 * other.norm()
