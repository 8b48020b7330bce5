import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_iterate import reptile
from inner_loops import adaptation, gradients, problem


def states(step, start, num_steps):
    reached = []
    with torch.no_grad():
        state = start
        for index in range(num_steps):
            state = step(state, index)
            reached.append(state)
    return reached


@given(seed=st.integers(0, 2**32), num_steps=st.integers(1, 5))
def test_the_gradient_is_the_way_back_from_where_each_task_went(seed, num_steps):
    step, loss, start, learned = problem(seed, num_steps)
    losses, _ = reptile(step, loss, start, range(num_steps))
    weights = torch.rand(num_steps, 3, dtype=torch.float64, generator=torch.Generator())
    a, b, c, of_rates = torch.autograd.grad((weights * losses).sum(), learned, allow_unused=True)
    assert of_rates is None
    expected = [torch.zeros_like(leaf) for leaf in learned[:3]]
    for weight, state in zip(weights, states(step, start, num_steps), strict=True):
        expected[0] += weight[:, None] * (start["a"] - state["a"]).detach()
        expected[1] += weight * (start["b"][0] - state["b"][0]).detach()
        expected[2] += weight[:, None] * (start["b"][1][0] - state["b"][1][0]).detach()
    torch.testing.assert_close([a, b, c], expected, rtol=1e-12, atol=1e-12)


def test_descent_is_interpolation_towards_the_adapted_parameters():
    step, loss, start, _, _ = adaptation(0)
    losses, (adapted, _) = reptile(step, loss, start, range(6))
    (gradient,) = torch.autograd.grad(losses[-1].sum(), start[0])
    moved = start[0] - 0.3 * gradient
    torch.testing.assert_close(moved, start[0] + 0.3 * (adapted - start[0]))


def test_nothing_but_the_start_is_reached():
    step, loss, start, learned, leaves = adaptation(0)
    losses, _ = reptile(step, loss, start, range(4))
    for reached in (learned, leaves):
        first, *rest = torch.autograd.grad(
            losses.sum(), reached, retain_graph=True, allow_unused=True
        )
        assert first is not None and rest == [None, None]
    constant, _ = reptile(step, loss, (start[0].detach(), start[1]), range(4))
    assert not constant.requires_grad


def test_a_task_has_its_own_gradient():
    step, loss, start, _ = problem(0, 4)
    losses, _ = reptile(step, loss, start, range(4))
    (gradient,) = torch.autograd.grad(losses[-1, 1], start["a"])
    assert gradient[1].all() and not gradient[[0, 2]].any()


def test_one_task_may_be_of_any_shape():
    start = {"w": torch.ones(3, 2), "b": torch.tensor(2.0)}
    for leaf in start.values():
        leaf.requires_grad_()
    losses, _ = reptile(
        lambda state, _: {name: leaf / 2 for name, leaf in state.items()},
        lambda state: state["w"].sum()[None] + state["b"],
        start,
        range(2),
    )
    w, b = gradients(losses[-1:], list(start.values()))
    factor = 2 * losses[-1].item()
    assert w.tolist() == [[0.75 * factor] * 2] * 3 and b.item() == 1.5 * factor


def test_what_does_not_lead_with_the_tasks_is_refused():
    start = torch.ones(4, requires_grad=True)
    with pytest.raises(ValueError, match=r"the 3 tasks that have a loss; got .* of \(4,\)\."):
        reptile(lambda state, _: state, lambda state: state[:3], start, range(1))
