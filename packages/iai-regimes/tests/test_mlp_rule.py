import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_regimes import Adam, Categorical, Gaussian, MLPRule, Parametric, Predictor
from iai_regimes.testing import check_regime
from regime_parts import X_DIM, draw, read
from simple_objective import Quadratic, run
from torch import nn
from torch.utils._pytree import tree_leaves

DECAYS = (0.9, 0.99, 0.999)


def trained(sizes, seed=0, **options):
    """A rule whose last layer does something."""
    torch.manual_seed(seed)
    rule = MLPRule(sizes, **options).double()
    nn.init.normal_(rule.head.weight)
    nn.init.normal_(rule.head.bias)
    return rule


def regime(likelihood, rule=None):
    predictor = Predictor(nn.Linear(X_DIM, likelihood.num_outputs))
    sizes = [shape.numel() for shape in predictor.shapes.values()]
    return Parametric(predictor, likelihood, rule or trained(sizes, hidden_dim=4))


def dot(row, values):
    return sum(weight * value for weight, value in zip(row, values, strict=True))


def features_by_hand(theta, gradients):
    """Those of one coordinate alone in its tensor, after the last of its gradients."""
    steps = len(gradients)
    means = []
    for decay in DECAYS:
        mean = 0.0
        for gradient in gradients:
            mean = decay * mean + (1 - decay) * gradient
        means.append(mean / (1 - decay**steps))
    square = 0.0
    for gradient in gradients:
        square = 0.999 * square + 0.001 * gradient**2
    root = math.sqrt(square / (1 - 0.999**steps))
    scaled = [gradients[-1], theta, *means, root]
    features = [value / math.sqrt(value**2 + 1e-5) for value in scaled]
    features += [mean / root for mean in means]
    timescales = [1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5]
    return features, [math.tanh((steps - 1) / scale - 1) for scale in timescales]


@given(
    seed=st.integers(0, 99),
    gradients=st.lists(st.floats(-3, 3).filter(lambda g: abs(g) > 1e-3), min_size=1, max_size=4),
)
def test_one_coordinate_by_hand(seed, gradients):
    rule = trained([1], seed, hidden_dim=3, step_mult=0.2, exp_mult=0.1)
    weights = {name: weight.tolist() for name, weight in rule.named_parameters()}
    theta = 0.8
    for number in range(1, len(gradients) + 1):
        features, time = features_by_hand(theta, gradients[:number])
        hidden = []
        for row, bias, times in zip(
            weights["coordinate.weight"],
            weights["coordinate.bias"],
            weights["time.weight"],
            strict=True,
        ):
            total = bias + dot(row, features) + dot(times, time)
            hidden.append(max(total, 0.0))
        direction, magnitude = (
            bias + dot(row, hidden)
            for row, bias in zip(weights["head.weight"], weights["head.bias"], strict=True)
        )
        theta -= 0.2 * (features[-3] + direction) * math.exp(0.1 * magnitude)
    start = torch.full((1, 1), 0.8, dtype=torch.float64)
    moved, carry = run(rule, start, [torch.full_like(start, value) for value in gradients])
    assert moved.item() == pytest.approx(theta, rel=1e-9)
    assert carry.steps.item() == len(gradients)


@given(seed=st.integers(0, 99), sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_a_tensor_is_the_same_alone_and_beside_others_of_any_size(seed, sizes):
    rule = trained(sizes, seed, hidden_dim=4)
    theta = torch.randn(2, sum(sizes), dtype=torch.float64)
    scales = torch.repeat_interleave(10.0 ** torch.arange(len(sizes)), torch.tensor(sizes))
    gradients = scales * torch.randn(3, *theta.shape, dtype=torch.float64)
    moved, carry = run(rule, theta, gradients)
    ends = torch.tensor(sizes).cumsum(0).tolist()
    for size, end in zip(sizes, ends, strict=True):
        own = slice(end - size, end)
        alone, means = run(rule.resized([size]), theta[:, own], gradients[..., own])
        torch.testing.assert_close(alone, moved[:, own])
        torch.testing.assert_close(means.means, carry.means[:, own])


@given(seed=st.integers(0, 99), first=st.integers(1, 4), second=st.integers(1, 4))
def test_the_order_within_a_tensor_and_of_the_tasks_does_not_matter(seed, first, second):
    rule = trained([first, second], seed, hidden_dim=4)
    theta = torch.randn(3, first + second, dtype=torch.float64)
    gradients = torch.randn(3, *theta.shape, dtype=torch.float64)
    tasks = torch.randperm(3)[:, None]
    order = torch.cat([torch.randperm(first), first + torch.randperm(second)])
    moved, carry = run(rule, theta, gradients)
    again, other = run(rule, theta[tasks, order], [g[tasks, order] for g in gradients])
    torch.testing.assert_close(again, moved[tasks, order])
    torch.testing.assert_close(other.means, carry.means[tasks, order])


def test_resized_shares_the_weights_and_leaves_the_rule_as_it_was():
    rule = trained([2, 3])
    random = torch.get_rng_state()
    other = rule.resized([7])
    assert torch.equal(random, torch.get_rng_state()), "nothing was drawn"
    assert (rule.sizes, other.sizes) == ((2, 3), (7,))
    with torch.no_grad():
        rule.head.bias.add_(1.0)
    for one, another in zip(rule.parameters(), other.parameters(), strict=True):
        assert one is another
    assert rule.state_dict().keys() == other.state_dict().keys()


def test_untrained_it_is_adam_and_can_learn():
    rule = MLPRule([3], step_mult=0.03).double()
    theta = torch.randn(2, 3, dtype=torch.float64)
    gradients = torch.randn(4, 2, 3, dtype=torch.float64)
    moved, _ = run(rule, theta, gradients)
    expected, _ = run(Adam(0.03, epsilon=1e-30), theta, gradients)
    torch.testing.assert_close(moved, expected, rtol=1e-12, atol=1e-12)
    moved.square().sum().backward()
    assert (rule.head.bias.grad != 0).all() and rule.head.weight.grad.any(1).all()


def test_a_step_makes_no_tensor_of_python_numbers(monkeypatch):
    """Each would be copied to the device, which the step would wait for."""
    rule, theta = MLPRule([3]), torch.ones(2, 3)
    carry, gradient = rule.start(theta), Quadratic(torch.ones(3))

    def refuse(*arguments, **options):
        raise AssertionError("A tensor was made of Python numbers.")

    for owner, name in ((torch, "tensor"), (torch, "as_tensor"), (torch.Tensor, "new_tensor")):
        monkeypatch.setattr(owner, name, refuse)
    moved, _ = rule.step(theta, carry, theta[:, 0], gradient, theta[:, 0], True)
    assert (moved < theta).all()
    assert "timescales" not in rule.state_dict()


@pytest.mark.parametrize("likelihood", [Gaussian(1, scale=0.5), Categorical(3)])
def test_role(likelihood):
    check_regime(regime(likelihood), draw(likelihood, 2, 4), draw(likelihood, 2, 2, seed=1))


def test_a_task_without_an_observed_example_keeps_theta_and_means():
    likelihood = Categorical(3)
    learner = regime(likelihood).double()
    batch = draw(likelihood, dtype=torch.float64)
    state = read(learner, batch.x, batch)
    mask = batch.mask.clone()
    mask[1] = False
    after = learner.update(state, learner.encode(batch._replace(mask=mask)), None, False)
    for old, new in zip(tree_leaves(state), tree_leaves(after), strict=True):
        assert torch.equal(old[1], new[1])
    for old, new in zip(tree_leaves(state[:2]), tree_leaves(after[:2]), strict=True):
        assert not torch.equal(old[0], new[0])


@pytest.mark.parametrize("differentiate", [False, True])
def test_outer_gradients_through_the_steps(differentiate):
    rule = trained([1, 2], hidden_dim=3, differentiate_gradient=differentiate)
    start = torch.tensor([[0.7, -1.1, 0.4]], dtype=torch.float64, requires_grad=True)
    sizes = torch.tensor([[1.0, 3.0, 0.5]], dtype=torch.float64)

    def after(start, *weights):
        theta, carry, objective = start, rule.start(start), Quadratic(sizes)
        for _ in range(3):
            theta, carry = rule.step(theta, carry, torch.ones(1), objective, torch.zeros(1), True)
        return theta

    if differentiate:
        assert torch.autograd.gradcheck(after, (start, *rule.parameters()))
        return
    (slope,) = torch.autograd.grad(after(start).sum(), start)
    assert (slope != 1).all() and (slope != 0).all(), "theta is a feature"


@pytest.mark.parametrize("differentiate", [False, True])
def test_where_every_gradient_is_zero_all_is_finite(differentiate):
    rule = trained([2], differentiate_gradient=differentiate)
    theta = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    objective, carry = Quadratic(torch.ones(1, 2).double()), rule.start(theta)
    for _ in range(2):
        moved, carry = rule.step(theta, carry, torch.ones(1), objective, torch.zeros(1), True)
    moved.sum().backward()
    assert moved.isfinite().all() and theta.grad.isfinite().all()


def test_under_autocast_the_state_keeps_its_dtype():
    likelihood = Categorical(3)
    learner = regime(likelihood).float()
    batch = draw(likelihood)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        state = read(learner, batch.x, batch, batch)
    assert all(leaf.dtype == torch.float32 for leaf in tree_leaves(state))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": []}, "`sizes` must name at least one tensor; got none."),
        ({"sizes": [3, 0]}, "`sizes` must be at least 1; got [3, 0]."),
        ({"hidden_dim": 0}, "`hidden_dim` must be at least 1; got 0."),
        ({"step_mult": 0.0}, "`step_mult` must be above 0; got 0.0."),
        ({"exp_mult": -1.0}, "`exp_mult` must be above 0; got -1.0."),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        MLPRule(**{"sizes": [1]} | options)


def test_a_theta_of_other_tensors_is_refused():
    with pytest.raises(ValueError, match=r"`sizes` must add up to the 4 numbers of theta; got 5"):
        MLPRule([2, 3]).start(torch.zeros(1, 4))
