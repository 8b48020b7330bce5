import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from iai_regimes import (
    Adam,
    Evidence,
    Gaussian,
    GradientDescent,
    Parametric,
    Predictor,
    Proximal,
    UntilConverged,
)
from iai_regimes.objective import MinibatchObjective
from iai_regimes.ravel import ravel
from regime_parts import X_DIM, Examples, Momentum, draw_ragged
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

LIKELIHOOD = Gaussian(1, scale=1.0)
RULES = {
    "proximal": lambda: Proximal(GradientDescent(0.1), 0.5),
    "momentum": lambda: Momentum(0.05, 0.8),
    "adam": lambda: Adam(0.03),
}


def regime_of(rule, *, tolerance=1.0, max_steps=6):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(X_DIM, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    rule = UntilConverged(RULES[rule](), tolerance=tolerance, max_steps=max_steps)
    return Parametric(Predictor(module), LIKELIHOOD, rule)


def rows(tree, task):
    return tree_map(lambda leaf: leaf[task : task + 1], tree)


@settings(deadline=None, max_examples=4)
@torch.no_grad()
@given(seed=st.integers(0, 99), rule=st.sampled_from(sorted(RULES)))
def test_a_task_stops_where_it_would_alone(seed, rule):
    regime, drawn = regime_of(rule), [draw_ragged(seed), draw_ragged(seed + 1)]
    drawn[1].mask[seed % 3] = False
    state = regime.init(3)
    for batch in drawn:
        state = regime.update(state, regime.encode(batch))
    for task in range(3):
        own = regime.init(1)
        for batch in drawn:
            own = regime.update(own, regime.encode(Examples(*rows(tuple(batch), task))))
        for one, other in zip(tree_leaves(own), tree_leaves(rows(state, task)), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@settings(deadline=None, max_examples=4)
@torch.no_grad()
@given(seed=st.integers(0, 99), rule=st.sampled_from(sorted(RULES)))
def test_it_is_the_rule_repeated_and_says_how_it_ended(seed, rule):
    regime, batch = regime_of(rule), draw_ragged(seed)
    start = regime.init(3)
    state = regime.update(start, regime.encode(batch))
    residual = ravel(regime.residual(state, state, (batch, True))).norm(dim=-1)
    torch.testing.assert_close(state.carry.residual, residual.detach())
    assert not state.carry.residual.requires_grad
    done = residual <= 1.0
    assert torch.equal(done | (state.carry.steps == 6), torch.ones(3, dtype=torch.bool))

    plain = Parametric(regime.predictor, LIKELIHOOD, RULES[rule]())
    for task in range(3):
        own = Examples(*rows(tuple(batch), task))
        repeated = plain.init(1)
        for _ in range(int(state.carry.steps[task])):
            before = ravel(plain.residual(repeated, repeated, (own, True))).norm()
            assert before > 1.0
            repeated = plain.update(repeated, plain.encode(own))
        torch.testing.assert_close(ravel(repeated.theta)[0], ravel(state.theta)[task])


def test_what_did_not_converge_can_be_seen():
    regime, batch = regime_of("proximal", tolerance=0.1, max_steps=2), draw_ragged(0)
    state = regime.update(regime.init(3), regime.encode(batch))
    assert state.carry.steps.tolist() == [2.0, 2.0, 2.0] and (state.carry.residual > 0.1).all()


def test_a_task_at_its_solution_takes_no_step():
    regime, batch = regime_of("proximal", max_steps=99), draw_ragged(0)
    state = regime.update(regime.init(3), regime.encode(batch))
    again = regime.update(state, regime.encode(batch), None, False)
    assert torch.equal(ravel(again.theta), ravel(state.theta))
    assert again.carry.steps.tolist() == [0.0, 0.0, 0.0]
    assert torch.equal(again.carry.residual, state.carry.residual)


class Counting(GradientDescent):
    """Keeps what it was told of the evidence."""

    def __init__(self):
        super().__init__(0.1)
        self.told = []

    def step(self, theta, carry, evidence, objective):
        self.told.append((evidence.seen.tolist(), evidence.fresh))
        return super().step(theta, carry, evidence, objective)


def test_examples_are_fresh_once():
    rule = Counting()
    predictor = Predictor(nn.Linear(X_DIM, 1).double())
    regime = Parametric(predictor, LIKELIHOOD, UntilConverged(rule, tolerance=1e-9, max_steps=3))
    state = regime.update(regime.init(3), regime.encode(draw_ragged(0)))
    once = [6.0, 4.0, 6.0]
    assert rule.told == [([0.0] * 3, True), (once, False), (once, False)]
    assert state.seen.tolist() == once


class Measured(MinibatchObjective):
    """Counts how often its loss is computed, which is once a gradient."""

    count = 0

    def loss(self, theta):
        Measured.count += 1
        return super().loss(theta)


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("rule", sorted(RULES))
def test_where_the_residual_is_the_gradient_a_step_takes_one(rule, enabled):
    regime, batch = regime_of(rule, tolerance=1e-9, max_steps=5), draw_ragged(0)
    objective, state = Measured(regime.predictor, LIKELIHOOD, batch), regime.init(3)
    told = Evidence(regime.rule.encode(batch), batch.mask.sum(1).double(), state.seen, True)
    Measured.count = 0
    with torch.set_grad_enabled(enabled):
        _, carry = regime.rule.step(state.theta, state.carry, told, objective)
    assert carry.steps.tolist() == [5.0] * 3
    # At the start and after each step; once more if the first step turns out to need a graph.
    assert Measured.count == 6 + (enabled and rule != "adam")


@pytest.mark.parametrize("differentiate", [True, False])
def test_a_first_order_rule_leaves_no_graph_behind(monkeypatch, differentiate):
    built, grad = [], torch.autograd.grad

    def watched(*args, create_graph=False, **options):
        built.append(create_graph)
        return grad(*args, create_graph=create_graph, **options)

    descent = GradientDescent(0.1, differentiate_gradient=differentiate)
    rule = UntilConverged(descent, tolerance=1e-9, max_steps=3)
    predictor, batch = Predictor(nn.Linear(X_DIM, 1)).double(), draw_ragged(0)
    objective = MinibatchObjective(predictor, LIKELIHOOD, batch)
    told = Evidence((), batch.mask.sum(1).double(), torch.zeros(3).double(), True)
    theta = predictor.start(3)
    monkeypatch.setattr(torch.autograd, "grad", watched)
    rule.step(theta, rule.start(theta), told, objective)
    assert any(built) == differentiate
