import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from iai_regimes import (
    Categorical,
    Gaussian,
    NewtonCG,
    Parametric,
    Predictor,
    Proximal,
    UntilConverged,
)
from iai_regimes.objective import MinibatchObjective
from iai_regimes.ravel import ravel, unravel
from iai_regimes.testing import check_rule
from regime_parts import X_DIM, draw, read
from smooth_objectives import DenseSolver, Quadratic, Rosenbrock, Solve, evidence, run
from torch import nn
from torch.nn import functional as F


class TruncatedSolver:
    """Textbook conjugate gradients of one task after another, stopped at negative curvature."""

    def __init__(self, steps=5):
        self.steps = steps

    def solve(self, product, right):
        solution, negative = torch.zeros_like(right), torch.zeros(len(right), dtype=torch.bool)
        for task in range(len(right)):
            rest = right[task].clone()
            direction = rest.clone()
            for _ in range(self.steps):
                full = torch.zeros_like(right)
                full[task] = direction
                image = product(full)[task]
                curvature, square = direction @ image, rest @ rest
                if curvature <= 1e-12 * square:
                    negative[task] = True
                    break
                solution[task] += square / curvature * direction
                rest = rest - square / curvature * image
                direction = rest + (rest @ rest) / square * direction
        return Solve(solution, negative)


class BadSolver:
    """Answers that no Newton step should follow, where the matrix is not a multiple of I."""

    def __init__(self, value):
        self.value = value

    def solve(self, product, right):
        scale = product(right) / right
        if torch.equal(scale, scale[:, :1].expand_as(scale)):
            return Solve(right / scale, torch.zeros(len(right), dtype=torch.bool))
        return Solve(self.value * right, torch.ones(len(right), dtype=torch.bool))


def network(num_tasks=3, *, seed=0, dtype=torch.float64):
    """The loss of a small network, which is not convex, and random parameters."""
    torch.manual_seed(seed)
    likelihood = Gaussian(1, scale=0.5)
    module = nn.Sequential(nn.Linear(X_DIM, 5), nn.Tanh(), nn.Linear(5, 5), nn.ReLU())
    predictor = Predictor(nn.Sequential(module, nn.Linear(5, 1)).to(dtype))
    batch = draw(likelihood, num_tasks, 12, dtype=dtype, seed=seed)
    batch = batch._replace(y=batch.y.sin())
    theta = torch.randn(num_tasks, predictor.size, dtype=dtype)
    theta = unravel(theta, predictor.start(num_tasks))
    return MinibatchObjective(predictor, likelihood, batch), theta


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 6))
def test_a_quadratic_takes_one_step(seed, num_tasks, size):
    objective = Quadratic.draw(num_tasks, size, seed)
    theta = {"w": torch.randn(num_tasks, size, dtype=torch.float64)}
    (_, theta), carry = run(NewtonCG(DenseSolver()), objective, theta, 1)
    torch.testing.assert_close(theta, objective.solution(), rtol=1e-8, atol=1e-8)
    assert carry.rate.tolist() == [1.0] * num_tasks and not carry.negative.any()


@pytest.mark.parametrize("solver", [DenseSolver(), TruncatedSolver(steps=20)])
def test_ridge_logistic_regression_reaches_the_optimum_of_a_plain_newton(solver):
    likelihood, strength = Categorical(3), 0.3
    rule = Proximal(NewtonCG(solver), strength)
    rule = UntilConverged(rule, tolerance=1e-11, max_steps=20)
    predictor = Predictor(nn.Linear(X_DIM, 3).double())
    nn.init.zeros_(predictor.module.weight)
    nn.init.zeros_(predictor.module.bias)
    batch = draw(likelihood, 3, 8, dtype=torch.float64)
    regime = Parametric(predictor, likelihood, rule)
    state = read(regime, batch.x, batch)
    assert (state.carry.residual < 1e-11).all() and (state.carry.steps < 10).all()
    for task in range(3):

        def loss(theta, task=task):
            logits = batch.x[task] @ theta[: 3 * X_DIM].reshape(3, X_DIM).T + theta[3 * X_DIM :]
            ridge = strength / 2 * theta.square().sum()
            return F.cross_entropy(logits, batch.y[task]) + ridge

        theta = torch.zeros(predictor.size, dtype=torch.float64)
        for _ in range(12):
            gradient = torch.autograd.functional.jacobian(loss, theta)
            hessian = torch.autograd.functional.hessian(loss, theta)
            theta = theta - torch.linalg.solve(hessian, gradient)
        torch.testing.assert_close(ravel(state.theta)[task], theta, rtol=1e-9, atol=1e-10)


@settings(deadline=None, max_examples=10)
@given(
    st.integers(0, 10**6),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from(
        [DenseSolver(), TruncatedSolver(), BadSolver(-1.0), BadSolver(torch.nan), BadSolver(1e20)]
    ),
)
def test_where_the_loss_is_not_convex_it_never_rises(seed, dtype, solver):
    objective, theta = network(seed=seed, dtype=dtype)
    path, _ = run(NewtonCG(solver), objective, theta, 5)
    losses = torch.stack([objective.loss(unravel(w, theta)) for w in path]).detach()
    assert losses.isfinite().all() and torch.stack(path).isfinite().all()
    rise = losses[1:] - losses[:-1]
    assert (rise <= 16 * torch.finfo(dtype).eps * losses[:-1]).all()
    assert (losses[-1] < losses[0]).all()


def test_negative_curvature_is_told():
    theta = torch.tensor([[0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    ones = torch.ones(2, dtype=torch.float64)
    objective = Rosenbrock(ones, 10 * ones)
    path, carry = run(NewtonCG(DenseSolver()), objective, {"w": theta}, 1)
    assert carry.negative.tolist() == [True, False]
    before, after = (objective.loss({"w": w}) for w in path)
    assert carry.rate[0] == 0 and after[0] < before[0]
    assert torch.equal(path[1][1], theta[1])  # it was at its minimum


def test_the_loss_falls_to_the_minimum_through_curvature_of_any_sign():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 6, generator=generator, dtype=torch.float64) + 0.5
    objective = Rosenbrock(a, 20 * b)
    theta = {"w": torch.randn(6, 2, generator=generator, dtype=torch.float64)}
    rule = UntilConverged(NewtonCG(DenseSolver()), tolerance=1e-10, max_steps=100)
    theta, carry = rule.step(theta, rule.start(theta), evidence(6), objective)
    torch.testing.assert_close(theta["w"], objective.solution())
    assert (carry.steps < 40).all() and len(set(carry.steps.tolist())) > 1


def test_the_step_is_a_constant_and_the_residual_is_not():
    objective, theta = network()
    flat = ravel(theta).detach().requires_grad_()
    theta = unravel(flat, theta)
    rule = NewtonCG(TruncatedSolver())
    moved, carry = rule.step(theta, rule.start(theta), evidence(3), objective)
    weight = torch.randn_like(flat)
    (gradient,) = torch.autograd.grad((ravel(moved) * weight).sum(), flat)
    assert torch.equal(gradient, weight) and not torch.equal(ravel(moved), flat)

    residual = ravel(rule.residual(theta, carry, objective))
    (expected,) = torch.autograd.grad(objective.loss(theta).sum(), flat, create_graph=True)
    torch.testing.assert_close(residual, expected)
    seconds = (torch.autograd.grad((one * weight).sum(), flat) for one in (residual, expected))
    torch.testing.assert_close(*seconds)


@pytest.mark.parametrize("name", ["alone", "proximal", "until converged"])
def test_role(name):
    rules = {"alone": NewtonCG(DenseSolver(damping=0.3))}
    rules["proximal"] = Proximal(NewtonCG(DenseSolver()), 0.3)
    rules["until converged"] = UntilConverged(rules["proximal"], tolerance=1e-3, max_steps=5)
    likelihood = Categorical(3)
    check_rule(rules[name], Predictor(nn.Linear(X_DIM, 3)), likelihood, draw(likelihood, 2, 4))


def test_autocast_changes_nothing():
    objective, theta = network(dtype=torch.float32)
    rule = NewtonCG(TruncatedSolver())
    expected, _ = run(rule, objective, theta, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        path, _ = run(rule, objective, theta, 2)
    assert torch.equal(path[-1], expected[-1])


class Series:
    """The series of Neumann, which converges for eigenvalues below 2 / scale alone."""

    def __init__(self, steps, scale):
        self.steps, self.scale = steps, scale

    def __repr__(self):
        return f"Series({self.steps}, {self.scale})"

    def solve(self, product, right):
        solution, rest = torch.zeros_like(right), right
        for _ in range(self.steps):
            solution = solution + self.scale * rest
            rest = rest - self.scale * product(rest)
        return Solve(solution, torch.zeros(len(right), dtype=torch.bool))


@pytest.mark.parametrize(("scale", "fails"), [(1.0, 1024), (0.01, 1024), (0.001, 1)])
def test_a_solver_with_a_scale_of_its_own_is_refused(scale, fails):
    # At a scale of 0.01, 200 steps did not reach the tolerance that four steps reach by conjugate
    # gradients, and nothing said so.
    objective, theta = network()
    message = (
        "`solver` must solve A x = b at any scale of A, as ConjugateGradient does; "
        f"Series(20, {scale}) fails at A = {fails} I."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        run(NewtonCG(Series(20, scale)), objective, theta, 1)


def test_errors(own_errors):
    message = "`solver` must have a method `solve`; got int."
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        NewtonCG(3)
    message = "Inference mode forbids gradients, which are needed; use torch.no_grad()."
    objective, theta = network()
    with torch.inference_mode(), pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        run(NewtonCG(DenseSolver()), objective, theta, 1)
