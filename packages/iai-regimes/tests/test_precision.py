"""Low precision and mixed dtypes: what is counted and averaged is in float32 at least."""

import copy

import pytest
import torch
from iai_regimes import (
    LBFGS,
    Adam,
    Categorical,
    Embedded,
    Gaussian,
    GradientDescent,
    LearnedOptimizer,
    MLPRule,
    Parametric,
    Predictor,
    Proximal,
    RecurrentRule,
    UntilConverged,
)
from regime_parts import X_DIM, Examples, draw, implicit, rule
from torch import nn
from torch.utils._pytree import tree_leaves

RULES = {
    "adam": lambda predictor, likelihood: Adam(0.05),
    "descent": lambda predictor, likelihood: GradientDescent(0.1),
    "descent-learned": lambda predictor, likelihood: GradientDescent(predictor.full(0.1)),
    "proximal": lambda predictor, likelihood: Proximal(GradientDescent(0.1), 0.5),
    "lbfgs": lambda predictor, likelihood: LBFGS(history=3),
    "until-converged": lambda predictor, likelihood: UntilConverged(
        GradientDescent(0.1), tolerance=0.5, max_steps=5
    ),
    "mlp": lambda predictor, likelihood: MLPRule(step_mult=0.05),
    "recurrent": lambda predictor, likelihood: RecurrentRule(scale=0.05),
    "learned": rule,
}


def parametric(name, likelihood):
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(X_DIM, 4), nn.Tanh(), nn.Linear(4, likelihood.num_outputs))
    predictor = Predictor(body)
    return Parametric(predictor, likelihood, RULES[name](predictor, likelihood))


def steps(regime, batch, num_steps):
    state = regime.init(len(batch.x), batch.x)
    for _ in range(num_steps):
        state = regime.update(state, regime.encode(batch), batch.x)
    return state


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", RULES)
def test_a_rule_moves_weights_of_any_dtype_as_it_moves_those_of_float64(name, dtype):
    likelihood = Gaussian(1, scale=1.0)
    regime, batch = parametric(name, likelihood), draw(likelihood, 2, 8)
    expected = copy.deepcopy(regime).double()
    state = steps(regime.to(dtype), Examples(batch.x.to(dtype), batch.y, batch.mask), 6)
    assert all(leaf.dtype == torch.float32 for leaf in tree_leaves(state.theta))
    double = Examples(batch.x.double(), batch.y.double(), batch.mask)
    reference = steps(expected, double, 6)
    start = expected.init(2)
    for key, value in state.theta.items():
        moved, should = value - start.theta[key], reference.theta[key] - start.theta[key]
        assert (moved - should).norm() < 0.15 * should.norm(), key


@pytest.mark.parametrize("make", [lambda: Adam(0.01), lambda: MLPRule(step_mult=0.01)])
def test_a_learned_optimizer_moves_bfloat16_weights(make):
    # Bias corrections in bfloat16 divided by 1 - 0.999 = 0, and nothing moved.
    weight = nn.Parameter(torch.zeros(3, dtype=torch.bfloat16))
    optimizer = LearnedOptimizer([weight], make())
    for _ in range(20):
        weight.grad = torch.full_like(weight, 0.1)
        optimizer.step()
    assert weight.dtype == torch.bfloat16
    torch.testing.assert_close(weight.float(), torch.full((3,), -0.2), rtol=0.02, atol=0.0)
    assert all(leaf.dtype == torch.float32 for leaf in optimizer.state[weight]["carry"])


def test_a_mean_over_many_minibatches_goes_on_in_bfloat16():
    # The gain of the 400th minibatch is below the precision of bfloat16.
    likelihood = Gaussian(1, scale=1.0)
    torch.manual_seed(0)
    regime = implicit(likelihood).to(torch.bfloat16)
    nn.init.zeros_(regime.propose.weight)
    nn.init.ones_(regime.propose.bias)  # each minibatch moves the answer by its share
    batch = draw(likelihood, 1, 1)
    state = steps(regime, batch, 400)
    expected = sum(1 / count for count in range(1, 401))
    assert state.seen.item() == 400.0
    torch.testing.assert_close(state.answer.item(), expected, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("head", [torch.float32, torch.bfloat16])
def test_an_encoder_or_an_embedding_may_have_another_dtype(head):
    likelihood = Categorical(3)
    torch.manual_seed(0)
    inner = implicit(likelihood, x_dim=4).to(head)
    inner.encoder.to(torch.bfloat16)
    regime = Embedded(inner, nn.Linear(X_DIM, 4).to(torch.bfloat16))
    batch = draw(likelihood, 2, 5, dtype=torch.float64)
    state = steps(regime, batch, 2)
    losses = regime.loss(regime.predict(state, batch.x), batch)
    losses.mean().backward()
    assert losses.isfinite().all() and state.answer.dtype == torch.float32
