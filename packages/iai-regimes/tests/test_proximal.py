import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from iai_regimes import (
    Adam,
    Gaussian,
    GradientDescent,
    LearnedRule,
    Parametric,
    Predictor,
    Proximal,
    UntilConverged,
)
from iai_regimes.ravel import ravel, unravel
from regime_parts import X_DIM, MeanEncoder, draw_ragged
from torch import nn
from torch.nn.utils import parametrize

LIKELIHOOD = Gaussian(1, scale=1.0)


def regime_of(rule, seed=0):
    torch.manual_seed(seed)
    return Parametric(Predictor(nn.Linear(X_DIM, 1).double()), LIKELIHOOD, rule)


def ridge(batch, task, theta, strength):
    """argmin of mean 1/2 (y - phi x)^2 + strength / 2 |phi - theta|^2."""
    kept = batch.mask[task]
    x = torch.cat([batch.x[task, kept], torch.ones(int(kept.sum()), 1).double()], dim=1)
    hessian = x.mT @ x / len(x) + strength * torch.eye(x.shape[1]).double()
    return torch.linalg.solve(hessian, x.mT @ batch.y[task, kept, 0] / len(x) + strength * theta)


@settings(deadline=None, max_examples=4)
@given(
    seed=st.integers(0, 99),
    strength=st.floats(0.3, 3.0),
    momentum=st.sampled_from([0.0, 0.5]),
)
def test_the_solution_is_the_ridge_around_the_start(seed, strength, momentum):
    """With 2 * strength instead of strength, a forgotten 1/2, it would be another."""
    inner = Proximal(GradientDescent(0.2, momentum=momentum), strength)
    batch = draw_ragged(seed)
    regime = regime_of(UntilConverged(inner, tolerance=1e-6, max_steps=1000))
    start = regime.init(3)
    with torch.no_grad():
        state = regime.update(start, regime.encode(batch))
    assert (state.carry.residual <= 1e-6).all() and (state.carry.steps < 1000).all()
    for task in range(3):
        expected = ridge(batch, task, ravel(start.theta)[task], strength)
        torch.testing.assert_close(ravel(state.theta)[task], expected, rtol=1e-5, atol=1e-5)


def test_the_anchor_stays_and_keeps_its_gradient():
    regime = regime_of(Proximal(GradientDescent(0.1), 0.5))
    start = regime.init(3)
    state = start
    for seed in range(2):
        state = regime.update(state, regime.encode(draw_ragged(seed)))
    for name, value in start.theta.items():
        anchor = state.carry.anchor[name]
        assert torch.equal(anchor, value) and anchor.requires_grad


@pytest.mark.parametrize(
    "rule", [GradientDescent(0.1), GradientDescent(0.1, momentum=0.9), Adam(1.0)]
)
def test_a_task_that_left_its_anchor_stays_where_nothing_is_observed(rule):
    regime = regime_of(Proximal(rule, 0.5))
    state = regime.update(regime.init(3), regime.encode(draw_ragged(0)))
    batch = draw_ragged(1)
    batch.mask[1] = False
    again = regime.update(state, regime.encode(batch))
    start, before, after = (ravel(s.theta) for s in (regime.init(3), state, again))
    assert torch.equal(after[1], before[1])
    assert (after[0] != before[0]).any() and (before[1] != start[1]).any()


def test_a_strength_for_each_number():
    strength = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64)
    named = {"weight": strength[None, :-1], "bias": strength[-1:]}
    named = {name: nn.Parameter(value) for name, value in named.items()}
    rule = UntilConverged(Proximal(GradientDescent(0.2), named), tolerance=1e-9, max_steps=300)
    regime, batch = regime_of(rule), draw_ragged(3)
    start = regime.init(3)
    with torch.no_grad():
        state = regime.update(start, regime.encode(batch))
    for task in range(3):
        kept = batch.mask[task]
        x = torch.cat([batch.x[task, kept], torch.ones(int(kept.sum()), 1).double()], dim=1)
        right = x.mT @ batch.y[task, kept, 0] / len(x) + strength * ravel(start.theta)[task]
        expected = torch.linalg.solve(x.mT @ x / len(x) + strength.diag(), right)
        torch.testing.assert_close(ravel(state.theta)[task], expected, rtol=1e-6, atol=1e-7)


def test_the_residual_defines_the_solution_as_a_function_of_the_start():
    """The implicit function theorem on `Parametric.residual`, against the closed form."""
    strength = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
    rule = UntilConverged(Proximal(GradientDescent(0.3), strength), tolerance=1e-10, max_steps=500)
    regime, batch = regime_of(rule), draw_ragged(5)
    start = regime.init(3)
    with torch.no_grad():
        solution = regime.update(start, regime.encode(batch))
    phi = ravel(solution.theta).requires_grad_()
    at = solution._replace(theta=unravel(phi, solution.theta))
    residual = ravel(regime.residual(at, start, (batch, True)))
    assert residual.abs().max() < 1e-9
    weights = torch.randn(4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    learned = [*regime.predictor.parameters(), strength]

    rows = []
    for index in range(4):
        (row,) = torch.autograd.grad(residual[:, index].sum(), phi, retain_graph=True)
        rows.append(row)
    jacobian = torch.stack(rows, dim=1)
    vector = torch.linalg.solve(jacobian.mT, weights.expand(3, 4))
    implicit = torch.autograd.grad(residual, learned, -vector)
    theta = torch.cat([p.flatten() for p in regime.predictor.parameters()])
    closed = sum(ridge(batch, task, theta, strength) @ weights for task in range(3))
    for one, other in zip(implicit, torch.autograd.grad(closed, learned), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


def test_a_parametrised_strength_stays_positive():
    rule = Proximal(GradientDescent(0.1), nn.Parameter(torch.tensor(0.5, dtype=torch.float64)))
    parametrize.register_parametrization(rule.strength, "value", nn.Softplus())
    regime = regime_of(rule)
    (raw,) = rule.strength.parametrizations.value.parameters()
    for _ in range(5):
        state = regime.init(3)
        for seed in (0, 1):
            state = regime.update(state, regime.encode(draw_ragged(seed)))
        raw.grad = None
        regime.loss(regime.predict(state, draw_ragged(2).x), draw_ragged(2)).sum().backward()
        assert raw.grad.abs() > 0 and rule.strength.value > 0
        raw.data.sub_(3.0)
    assert raw < 0


def learned_rule():
    predictor = Predictor(nn.Linear(X_DIM, 1))
    return LearnedRule(predictor, LIKELIHOOD, MeanEncoder(), x_dim=X_DIM)


@pytest.mark.usefixtures("own_errors")
@pytest.mark.parametrize(
    ("build", "kind", "message"),
    [
        *[
            (
                lambda strength=strength: Proximal(Adam(0.1), strength),
                ValueError,
                f"`strength` must be finite and at least 0; got {got}.",
            )
            for strength, got in (
                (-1.0, "-1.0"),
                (float("nan"), "nan"),
                (float("inf"), "inf"),
                (torch.tensor(-1.0), "-1.0"),
                (nn.Parameter(torch.tensor(-1.0)), "-1.0"),
                (torch.tensor(float("nan")), "nan"),
            )
        ],
        (
            lambda: Proximal(Adam(0.1), torch.tensor(1)),
            ValueError,
            "`strength` must be floating point; got torch.int64.",
        ),
        (
            lambda: Proximal(Adam(0.1), torch.ones(4)),
            ValueError,
            "`strength` must have the shape (); got (4,).",
        ),
        (
            lambda: regime_of(
                Proximal(Adam(0.1), {"weight": torch.ones(3), "bias": torch.ones(1)})
            ).init(2),
            ValueError,
            "`strength['weight']` must have the shape (1, 3); got (3,).",
        ),
        (
            lambda: regime_of(Proximal(Adam(0.1), {"w": torch.ones(1, 3)})).init(2),
            ValueError,
            "`strength` must name the adapted parameters, weight, bias; got w.",
        ),
        (
            lambda: Proximal(learned_rule(), 1.0),
            TypeError,
            "`rule` must have a `residual`; LearnedRule has none.",
        ),
        (
            lambda: UntilConverged(learned_rule(), tolerance=1e-3, max_steps=3),
            TypeError,
            "`rule` must have a `residual`; LearnedRule has none.",
        ),
        (
            lambda: regime_of(learned_rule()).residual(None, None, (None, True)),
            TypeError,
            "`rule` must have a `residual`; LearnedRule has none.",
        ),
        (
            lambda: UntilConverged(Adam(0.1), tolerance=0.0, max_steps=3),
            ValueError,
            "`tolerance` must be above 0; got 0.0.",
        ),
        (
            lambda: UntilConverged(Adam(0.1), tolerance=1e-3, max_steps=0),
            ValueError,
            "`max_steps` must be at least 1; got 0.",
        ),
    ],
)
def test_errors(build, kind, message):
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        build()
