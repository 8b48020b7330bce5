import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_regimes import Categorical, Gaussian, Parametric, Predictor, RecurrentRule
from iai_regimes.learned.recurrent_rule import clipped_log
from iai_regimes.testing import check_rule
from regime_parts import X_DIM, Examples, draw, read
from simple_objective import Quadratic, one_example, run
from torch import nn
from torch.utils._pytree import tree_leaves


def trained(seed=0, **options):
    """A rule whose head does something."""
    torch.manual_seed(seed)
    rule = RecurrentRule(**options).double()
    nn.init.normal_(rule.head.weight)
    nn.init.normal_(rule.head.bias)
    return rule


@given(seed=st.integers(0, 99), num_layers=st.integers(1, 3))
def test_one_coordinate_is_torchs_lstm_behind_the_features(seed, num_layers):
    rule = trained(seed, hidden_dim=5, num_layers=num_layers, scale=0.3)
    lstm = nn.LSTM(2, 5, num_layers).double()
    for layer, cell in enumerate(rule.layers):
        for name, weight in cell.named_parameters():
            getattr(lstm, f"{name}_l{layer}").data.copy_(weight.data)
    gradients = [0.5, -2.0, 1e-7]
    features = [[math.log(0.5) / 10, 1.0], [math.log(2.0) / 10, -1.0], [-1.0, math.exp(10) * 1e-7]]
    features = torch.tensor(features, dtype=torch.float64)
    hidden, (last_hidden, last_cell) = lstm(features)
    expected = 4.0 + 0.3 * rule.head(torch.cat([hidden, features], dim=-1)).sum()
    theta = torch.full((1, 1), 4.0, dtype=torch.float64)
    moved, carry = run(rule, theta, [theta.new_full((1, 1), value) for value in gradients])
    torch.testing.assert_close(moved[0, 0], expected)
    torch.testing.assert_close(torch.cat(carry.hidden)[:, 0], last_hidden)
    torch.testing.assert_close(torch.cat(carry.cell)[:, 0], last_cell)


@given(seed=st.integers(0, 99), num_tasks=st.integers(1, 3), size=st.integers(1, 7))
def test_the_order_of_the_coordinates_and_of_the_tasks_does_not_matter(seed, num_tasks, size):
    rule = trained(seed, hidden_dim=4)
    gradients = torch.randn(3, num_tasks, size, dtype=torch.float64)
    theta = torch.randn(num_tasks, size, dtype=torch.float64)
    tasks, order = torch.randperm(num_tasks)[:, None], torch.randperm(size)
    moved, carry = run(rule, theta, gradients)
    again, other = run(rule, theta[tasks, order], [g[tasks, order] for g in gradients])
    torch.testing.assert_close(again, moved[tasks, order])
    for one, leaf in zip(tree_leaves(other), tree_leaves(carry), strict=True):
        torch.testing.assert_close(one, leaf[tasks, order])


def test_untrained_it_is_sign_descent_and_can_learn():
    rule = RecurrentRule(scale=0.5).double()
    theta = torch.randn(2, 3, dtype=torch.float64)
    moved, _ = run(rule, theta, [theta, -2 * theta, theta])
    torch.testing.assert_close(moved, theta - 0.5 * theta.sign())
    moved.square().sum().backward()
    assert (rule.head.weight.grad != 0).all() and rule.head.bias.grad != 0


def test_role():
    likelihood = Gaussian(1, scale=0.5)
    predictor = Predictor(nn.Linear(X_DIM, 1))
    check_rule(RecurrentRule(hidden_dim=4), predictor, likelihood, draw(likelihood, 2, 4))


def test_a_task_without_an_observed_example_keeps_theta_and_memory():
    likelihood = Categorical(3)
    regime = Parametric(Predictor(nn.Linear(X_DIM, 3)), likelihood, trained(hidden_dim=4)).double()
    batch = draw(likelihood, dtype=torch.float64)
    state = read(regime, batch.x, batch)
    mask = batch.mask.clone()
    mask[1] = False
    after = regime.update(state, regime.encode(batch._replace(mask=mask)), None, False)
    for old, new in zip(tree_leaves(state), tree_leaves(after), strict=True):
        assert torch.equal(old[1], new[1]), "unread"
    for old, new in zip(tree_leaves(state[:2]), tree_leaves(after[:2]), strict=True):
        assert not torch.equal(old[0], new[0])


@pytest.mark.parametrize("differentiate", [False, True])
def test_outer_gradients_through_the_steps(differentiate):
    rule = trained(hidden_dim=3, differentiate_gradient=differentiate)
    start = torch.tensor([[0.7, -1.1]], dtype=torch.float64, requires_grad=True)
    sizes = torch.tensor([[1.0, 3.0]], dtype=torch.float64)

    def after(start, *weights):
        theta, objective = {"w": start}, Quadratic(sizes)
        carry = rule.start(theta)
        for _ in range(3):
            theta, carry = rule.step(theta, carry, one_example(), objective)
        return theta["w"]

    if differentiate:
        assert torch.autograd.gradcheck(after, (start, *rule.parameters()))
        return
    (slope,) = torch.autograd.grad(after(start).sum(), start, retain_graph=True)
    assert torch.equal(slope, torch.ones_like(slope)), "a constant gradient leaves the identity"
    first = torch.autograd.grad(after(start).sum(), rule.layers[0].weight_hh)[0]
    assert (first != 0).all(), "through the memory"


def test_under_autocast_the_state_keeps_its_dtype():
    likelihood = Categorical(3)
    rule = trained(hidden_dim=4).float()
    regime = Parametric(Predictor(nn.Linear(X_DIM, 3)), likelihood, rule)
    batch = draw(likelihood)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        state = read(regime, batch.x, batch, batch)
    assert all(leaf.dtype == torch.float32 for leaf in tree_leaves(state))


def test_training_lowers_the_loss():
    likelihood = Categorical(3)
    torch.manual_seed(0)
    regime = Parametric(Predictor(nn.Linear(X_DIM, 3)), likelihood, RecurrentRule(scale=0.1))
    regime.predictor.requires_grad_(False)
    support, query = draw(likelihood, 4, 8), draw(likelihood, 4, 8, seed=1)
    optimizer = torch.optim.Adam(regime.parameters(), lr=0.02)
    losses = []
    for _ in range(25):
        state = read(regime, query.x, *[support] * 3)
        losses.append(regime.loss(regime.predict(state, query.x), query).mean())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]


def test_an_empty_minibatch_is_read():
    likelihood = Gaussian(1, scale=0.5)
    regime = Parametric(Predictor(nn.Linear(X_DIM, 1)), likelihood, RecurrentRule())
    batch = draw(likelihood)
    nothing = Examples(*(field[:, :0] for field in batch))
    for old, new in zip(
        tree_leaves(read(regime, batch.x, batch)),
        tree_leaves(read(regime, batch.x, nothing, batch, nothing)),
        strict=True,
    ):
        assert torch.equal(old, new)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_dim": 0}, "`hidden_dim` must be at least 1; got 0."),
        ({"num_layers": 0}, "`num_layers` must be at least 1; got 0."),
        ({"scale": 0.0}, "`scale` must be above 0; got 0.0."),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        RecurrentRule(**options)


def test_the_features_of_any_gradient_are_finite_with_finite_derivatives():
    gradient = torch.tensor([[0.0, 1e-12, -1.0, 1e12], [0.0] * 4], requires_grad=True)
    features = clipped_log(gradient)
    features.sum().backward()
    assert features.isfinite().all() and gradient.grad.isfinite().all()
