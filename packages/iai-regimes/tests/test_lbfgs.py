import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from iai_regimes import LBFGS, Categorical, Predictor, Proximal, UntilConverged
from iai_regimes.rules.lbfgs import LBFGSCarry, _inverse_hessian
from iai_regimes.testing import check_rule
from regime_parts import X_DIM, draw
from smooth_objectives import Quadratic, Rosenbrock, evidence, run
from torch import nn


def valleys(num_tasks, seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.rand(2, num_tasks, generator=generator, dtype=torch.float64) + 0.5
    theta = torch.randn(num_tasks, 2, generator=generator, dtype=torch.float64)
    return Rosenbrock(a, 20 * b), {"w": theta}


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(0, 4))
def test_the_recursion_is_the_product_with_the_matrix_written_out(seed, size, known):
    torch.manual_seed(seed)
    objective = Quadratic.draw(2, size, seed)
    moves = torch.randn(2, 4, size, dtype=torch.float64)
    moves[:, : 4 - known] = 0
    changes = moves @ objective.matrix
    vector = torch.randn(2, size, dtype=torch.float64)
    found = _inverse_hessian(vector, LBFGSCarry(moves, changes))
    for task in range(2):
        pairs = list(zip(moves[task, 4 - known :], changes[task, 4 - known :], strict=True))
        unit = torch.eye(size, dtype=torch.float64)
        s, y = pairs[-1] if pairs else (unit[0], unit[0])
        matrix = (s @ y) / (y @ y) * unit
        for s, y in pairs:
            side = unit - torch.outer(s, y) / (s @ y)
            matrix = side @ matrix @ side.T + torch.outer(s, s) / (s @ y)
        torch.testing.assert_close(found[task], matrix @ vector[task], rtol=1e-6, atol=1e-8)


def test_it_reaches_the_solution_of_a_quadratic():
    objective = Quadratic.draw(4, 6, seed=0)
    theta = {"w": torch.zeros(4, 6, dtype=torch.float64)}
    rule = UntilConverged(LBFGS(), tolerance=1e-9, max_steps=100)
    theta, carry = rule.step(theta, rule.start(theta), evidence(4), objective)
    torch.testing.assert_close(theta["w"], objective.solution(), rtol=1e-6, atol=1e-7)
    assert (carry.steps < 40).all()


@settings(deadline=None, max_examples=5)
@given(st.integers(0, 10**6))
def test_the_loss_never_rises_and_each_task_goes_as_if_alone(seed):
    objective, theta = valleys(3, seed)
    path, carry = run(LBFGS(history=3), objective, theta, 25)
    losses = torch.stack([objective.loss({"w": w}) for w in path])
    assert (losses[1:] <= losses[:-1] * (1 + 1e-14)).all()
    for task in range(3):
        one = slice(task, task + 1)
        alone, own = run(LBFGS(history=3), objective.alone(task), {"w": theta["w"][one]}, 25)
        torch.testing.assert_close(torch.cat(alone), torch.stack(path)[:, task])
        torch.testing.assert_close(own.moves, carry.moves[one])


def test_it_ends_superlinearly():
    objective, theta = valleys(8, seed=0)
    path, _ = run(LBFGS(), objective, theta, 60)
    errors = torch.stack([(theta - objective.solution()).norm(dim=-1) for theta in path])
    for error in errors.T:
        near, there = (int((error < size).nonzero()[0]) for size in (1e-2, 1e-9))
        assert there - near <= 10, error
        ratios = error[near + 1 : there + 1] / error[near:there]
        assert ratios[-2:].min() < 0.02


def test_the_last_steps_are_remembered():
    objective, theta = valleys(2, seed=1)
    path, carry = run(LBFGS(history=3), objective, theta, 8)
    points = [theta.clone().requires_grad_() for theta in path]
    losses = [objective.loss({"w": point}).sum() for point in points]
    gradients = [
        torch.autograd.grad(loss, point)[0] for loss, point in zip(losses, points, strict=True)
    ]
    for index in range(3):
        torch.testing.assert_close(carry.moves[:, index], path[index + 6] - path[index + 5])
        torch.testing.assert_close(
            carry.changes[:, index], gradients[index + 6] - gradients[index + 5]
        )


class Slope:
    """-cosh: curves downwards everywhere."""

    shared = False

    def loss(self, theta):
        return -theta["w"].cosh().sum(-1)

    def residual(self, theta):
        return theta["w"][:, None]


def test_a_step_along_negative_curvature_is_not_remembered():
    path, carry = run(LBFGS(), Slope(), {"w": torch.full((1, 2), 0.1)}, 2)
    assert (path[2] > path[1]).all() and (path[1] > path[0]).all()
    assert all((leaf == 0).all() for leaf in carry)


class Valley:
    """theta^2 near 0, and nothing at all far from it."""

    shared = False

    def loss(self, theta):
        return torch.where(theta["w"].abs() < 2, theta["w"].square(), torch.inf).sum(-1)

    def residual(self, theta):
        return theta["w"][:, None]


def test_a_direction_that_leads_nowhere_is_given_up_and_so_are_the_steps_behind_it():
    rule, theta = LBFGS(history=3), {"w": torch.tensor([[0.25], [0.0]], dtype=torch.float64)}
    pair = torch.ones(2, 3, 1, dtype=torch.float64)
    carry = LBFGSCarry(1e9 * pair, 1e-9 * pair)
    moved, after = rule.step(theta, carry, evidence(2), Valley())
    assert moved["w"].tolist() == [[0.0], [0.0]]  # 2 theta is the gradient: half of it
    assert after.moves[0, :, 0].tolist() == [0, 0, -0.25]
    assert torch.equal(after.moves[1], carry.moves[1])  # at the minimum there is nothing to learn


def test_the_step_is_a_constant():
    objective, theta = valleys(3, seed=0)
    w = theta["w"].requires_grad_()
    path, carry = run(LBFGS(), objective, theta, 3)
    weight = torch.randn_like(w)
    (gradient,) = torch.autograd.grad((path[-1] * weight).sum(), w)
    assert torch.equal(gradient, weight) and not torch.equal(path[-1], w)
    assert not any(leaf.requires_grad for leaf in carry)
    residual = LBFGS().residual(theta, carry, objective)["w"]
    (expected,) = torch.autograd.grad(objective.loss(theta).sum(), w)
    assert torch.equal(residual, expected) and residual.requires_grad


@pytest.mark.parametrize("name", ["alone", "proximal", "until converged"])
def test_role(name):
    rules = {"alone": LBFGS(history=3)}
    rules["proximal"] = Proximal(rules["alone"], 0.3)
    rules["until converged"] = UntilConverged(rules["proximal"], tolerance=1e-3, max_steps=6)
    likelihood = Categorical(3)
    check_rule(rules[name], Predictor(nn.Linear(X_DIM, 3)), likelihood, draw(likelihood, 2, 4))


def test_errors():
    message = "`history` must be at least 1; got 0."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        LBFGS(history=0)
