"""What every regime keeps, whatever its state, signal, update and likelihood."""

import copy

import pytest
import torch
from iai_regimes import Categorical, Gaussian, GradientDescent, Parametric, Predictor
from regime_parts import (
    CATEGORICAL_REGIMES,
    REGIMES,
    X_DIM,
    Examples,
    build,
    draw,
    read,
)
from torch import nn
from torch.utils._pytree import tree_leaves


@pytest.mark.parametrize("name", CATEGORICAL_REGIMES)
def test_training_lowers_the_loss(name):
    likelihood = Categorical(3)
    regime = build(name, likelihood)
    support, query = draw(likelihood, 4, 8), draw(likelihood, 4, 8, seed=1)
    optimizer = torch.optim.Adam(regime.parameters(), lr=0.02)
    losses = []
    for _ in range(12):
        state = read(regime, query.x, support)
        losses.append(regime.loss(regime.predict(state, query.x), query).mean())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.95 * losses[0]


@pytest.mark.parametrize("name", CATEGORICAL_REGIMES)
def test_a_query_that_is_not_finite_has_no_answer_and_costs_no_gradient(name):
    likelihood = Categorical(3)
    regime = build(name, likelihood, std=0.2, dtype=torch.float64)
    support = draw(likelihood, dtype=torch.float64)
    query = draw(likelihood, n=4, dtype=torch.float64, seed=1)
    query.x[0, 1, 0] = torch.nan
    query.mask[0, 1] = False
    outputs = regime.predict(read(regime, query.x, support), query.x)
    assert torch.equal(outputs.isnan().any(-1), ~query.mask)
    losses = regime.loss(outputs, query)
    losses.sum().backward()
    assert all(p.grad.isfinite().all() for p in regime.parameters())

    kept = Examples(*(field[:1, [0, 2, 3]] for field in query))
    alone = read(regime, kept.x, Examples(*(field[:1] for field in support)))
    torch.testing.assert_close(losses[:1], regime.loss(regime.predict(alone, kept.x), kept))


@pytest.mark.parametrize("name", CATEGORICAL_REGIMES)
def test_autocast(name):
    likelihood = Categorical(3)
    regime = build(name, likelihood, std=0.1)
    support, query = draw(likelihood), draw(likelihood, seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        state = read(regime, query.x, support, support)
        loss = regime.loss(regime.predict(state, query.x), query).mean()
    loss.backward()
    assert all(leaf.dtype == torch.float32 for leaf in tree_leaves(state))
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in regime.parameters())


@pytest.mark.parametrize(
    "name",
    ["parametric-both-annealed", "parametric-whitened", "explicit-data", "implicit-logits-gated"],
)
def test_a_copy_stands_on_its_own(name):
    likelihood = Gaussian(1, scale=0.5)
    regime = build(name, likelihood, std=0.2)
    support, query = draw(likelihood), draw(likelihood, seed=1)
    expected = read(regime, query.x, support)
    twin = copy.deepcopy(regime)
    with torch.no_grad():
        for parameter in regime.parameters():
            parameter.zero_()
    again = read(twin, query.x, support)
    for one, other in zip(tree_leaves(expected), tree_leaves(again), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", REGIMES)
def test_a_state_that_was_never_informed_is_the_learned_start(name):
    likelihood = Gaussian(2, scale=0.5)
    regime = build(name, likelihood, std=0.5)
    query = draw(likelihood)
    hidden = query._replace(mask=torch.zeros_like(query.mask))
    nothing = Examples(*(field[:, :0] for field in query))
    state = read(regime, query.x, hidden, nothing, hidden)
    start = regime.init(3, query.x)
    for one, other in zip(tree_leaves(state), tree_leaves(start), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(regime.predict(state, query.x), regime.predict(start, query.x))


def test_tasks_can_start_from_other_parameters_than_the_learned_ones():
    predictor, likelihood = Predictor(nn.Linear(X_DIM, 3)), Categorical(3)
    regime = Parametric(predictor, likelihood, GradientDescent(0.1), start=predictor.random_start)
    torch.manual_seed(0)
    start = regime.init(4).theta
    torch.manual_seed(0)
    for name, value in predictor.random_start(4).items():
        assert torch.equal(start[name], value)
    copied = copy.deepcopy(regime)
    copied.predictor.requires_grad_(False).to(torch.float64)
    assert copied.init(2).theta["bias"].dtype == torch.float64, "the copy has its own predictor"
    assert regime.init(2).theta["bias"].dtype == torch.float32


def test_inputs_may_have_any_shape():
    likelihood = Categorical(3)
    regime = build("implicit-logits-annealed", likelihood, std=0.2)
    support, query = draw(likelihood), draw(likelihood, seed=1)
    deep = support._replace(x=support.x.reshape(3, 6, 1, X_DIM))
    expected = read(regime, query.x, support)
    assert torch.equal(read(regime, query.x.reshape(3, 6, X_DIM, 1), deep).answer, expected.answer)
