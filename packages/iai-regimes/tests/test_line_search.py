import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from iai_regimes.rules.line_search import backtrack
from smooth_objectives import Rosenbrock


def loss_of(objective):
    return lambda w: objective.loss({"w": w})


def descent(seed, num_tasks):
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(4, num_tasks, generator=generator, dtype=torch.float64)
    objective = Rosenbrock(draw[0], 10 * draw[1].exp())
    theta = draw[2:].T.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(objective)(theta).sum(), theta)
    direction = -gradient * torch.rand(num_tasks, 1, generator=generator, dtype=torch.float64)
    return objective, theta.detach(), direction, (gradient * direction).sum(-1)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 5))
def test_the_first_rate_that_is_enough_is_found_for_each_task_as_if_alone(seed, num_tasks):
    objective, theta, direction, slope = descent(seed, num_tasks)
    rates = backtrack(loss_of(objective), theta, direction, slope)
    for task in range(num_tasks):
        loss = loss_of(objective.alone(task))
        at, along = theta[task : task + 1], direction[task : task + 1]
        value, rate = loss(at), 1.0
        while loss(at + rate * along) > value + 1e-4 * rate * slope[task]:
            rate /= 2
        assert rates[task] == rate
        assert backtrack(loss, at, along, slope[task : task + 1]) == rate


def test_what_is_not_finite_is_never_enough():
    at, along, slope = torch.ones(3, 1), torch.full((3, 1), -4.0), torch.full((3,), -4.0)
    walls = torch.tensor([0.9, -9.0, 1.1])  # for the last, nothing is finite
    rates = backtrack(
        lambda theta: torch.where(theta[:, 0] > walls, theta[:, 0], torch.nan), at, along, slope
    )
    assert rates.tolist() == [2.0**-6, 1.0, 0.0]


def test_nothing_is_gained_at_a_minimum():
    at = torch.zeros(1, 1, dtype=torch.float64)
    rates = backtrack(lambda theta: theta.square().sum(-1), at, at + 1, torch.zeros(1))
    assert rates.tolist() == [0.0]


def test_a_step_below_the_precision_of_the_loss_passes():
    at = torch.tensor([[1e-3]])
    loss = lambda theta: 100 + theta.square().sum(-1)  # noqa: E731
    assert loss(0 * at) == loss(at)
    assert backtrack(loss, at, -at, torch.tensor([-2e-6])).tolist() == [1.0]
    assert backtrack(loss, at, torch.ones(1, 1), torch.tensor([-1e-9])) < 0.01


def test_full_precision_under_autocast():
    at, weight = torch.ones(1, 4), torch.eye(4)
    loss = lambda theta: (theta @ weight).square().sum(-1)  # noqa: E731
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rate = backtrack(loss, at, torch.full((1, 4), 1e-3), torch.tensor([0.0]))
    assert rate < 0.01  # in half precision no rise is seen
