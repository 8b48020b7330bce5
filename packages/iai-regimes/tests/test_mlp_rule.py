import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_regimes import Adam, Categorical, Gaussian, MLPRule, Parametric, Predictor
from iai_regimes.testing import check_rule
from regime_parts import X_DIM, draw, read
from simple_objective import Quadratic, one_example, run
from torch import nn
from torch.utils._pytree import tree_leaves

DECAYS = (0.9, 0.99, 0.999)


def trained(seed=0, **options):
    """A rule whose last layer does something."""
    torch.manual_seed(seed)
    rule = MLPRule(**options).double()
    nn.init.normal_(rule.head.weight)
    nn.init.normal_(rule.head.bias)
    return rule


def regime(likelihood, rule=None):
    predictor = Predictor(nn.Linear(X_DIM, likelihood.num_outputs))
    return Parametric(predictor, likelihood, rule or trained(hidden_dim=4))


def run_by_name(rule, theta, gradients):
    """The parameters and the running means after a step for each gradient, all by name."""
    carry = rule.start(theta)
    for gradient in gradients:
        move = rule.move(theta, carry, gradient, one_example(2))
        theta = {n: value - move.rate[n] * move.direction[n] for n, value in theta.items()}
        carry = move.carry
    sizes = [value.shape[1:].numel() for value in theta.values()]
    return theta, dict(zip(theta, carry.means.split(sizes, dim=1), strict=True))


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
    rule = trained(seed, hidden_dim=3, step_mult=0.2, exp_mult=0.1)
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


@given(
    seed=st.integers(0, 99),
    shapes=st.lists(
        st.lists(st.integers(1, 4), max_size=2).map(torch.Size), min_size=1, max_size=3
    ),
)
def test_a_tensor_is_the_same_alone_and_beside_others_of_any_shape(seed, shapes):
    rule = trained(seed, hidden_dim=4)
    theta = {str(i): torch.randn(2, *shape).double() for i, shape in enumerate(shapes)}
    gradients = [
        {n: 10.0 ** int(n) * torch.randn(value.shape).double() for n, value in theta.items()}
        for _ in range(3)
    ]
    moved, means = run_by_name(rule, theta, gradients)
    for name, value in theta.items():
        alone, mean = run_by_name(rule, {name: value}, [{name: g[name]} for g in gradients])
        torch.testing.assert_close(alone[name], moved[name])
        torch.testing.assert_close(mean[name], means[name])


@given(seed=st.integers(0, 99), size=st.integers(1, 5))
def test_the_order_within_a_tensor_and_of_the_tasks_does_not_matter(seed, size):
    rule = trained(seed, hidden_dim=4)
    theta = torch.randn(3, size, dtype=torch.float64)
    gradients = torch.randn(3, *theta.shape, dtype=torch.float64)
    tasks, order = torch.randperm(3)[:, None], torch.randperm(size)
    moved, carry = run(rule, theta, gradients)
    again, other = run(rule, theta[tasks, order], [g[tasks, order] for g in gradients])
    torch.testing.assert_close(again, moved[tasks, order])
    torch.testing.assert_close(other.means, carry.means[tasks, order])


def test_untrained_it_is_adam_and_can_learn():
    rule = MLPRule(step_mult=0.03).double()
    theta = torch.randn(2, 3, dtype=torch.float64)
    gradients = torch.randn(4, 2, 3, dtype=torch.float64)
    moved, _ = run(rule, theta, gradients)
    expected, _ = run(Adam(0.03, epsilon=1e-30), theta, gradients)
    torch.testing.assert_close(moved, expected, rtol=1e-12, atol=1e-12)
    moved.square().sum().backward()
    assert (rule.head.bias.grad != 0).all() and rule.head.weight.grad.any(1).all()


def test_a_step_makes_no_tensor_of_python_numbers(monkeypatch):
    """Each would be copied to the device, which the step would wait for."""
    rule, theta = MLPRule(), {"w": torch.ones(2, 3)}
    carry, objective, evidence = (
        rule.start(theta),
        Quadratic(torch.ones(3)),
        one_example(2, torch.float32),
    )

    def refuse(*arguments, **options):
        raise AssertionError("A tensor was made of Python numbers.")

    for owner, name in ((torch, "tensor"), (torch, "as_tensor"), (torch.Tensor, "new_tensor")):
        monkeypatch.setattr(owner, name, refuse)
    moved, _ = rule.step(theta, carry, evidence, objective)
    assert (moved["w"] < theta["w"]).all()
    assert "timescales" not in rule.state_dict()


@pytest.mark.parametrize("likelihood", [Gaussian(1, scale=0.5), Categorical(3)])
def test_role(likelihood):
    made = regime(likelihood)
    check_rule(made.rule, made.predictor, likelihood, draw(likelihood, 2, 4))


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
    rule = trained(hidden_dim=3, differentiate_gradient=differentiate)
    start = torch.tensor([[0.7, -1.1, 0.4]], dtype=torch.float64, requires_grad=True)
    sizes = torch.tensor([[1.0, 3.0, 0.5]], dtype=torch.float64)

    def after(start, *weights):
        theta, objective = {"w": start}, Quadratic(sizes)
        carry = rule.start(theta)
        for _ in range(3):
            theta, carry = rule.step(theta, carry, one_example(), objective)
        return theta["w"]

    if differentiate:
        assert torch.autograd.gradcheck(after, (start, *rule.parameters()))
        return
    (slope,) = torch.autograd.grad(after(start).sum(), start)
    assert (slope != 1).all() and (slope != 0).all(), "theta is a feature"


@pytest.mark.parametrize("differentiate", [False, True])
def test_where_every_gradient_is_zero_all_is_finite(differentiate):
    rule = trained(differentiate_gradient=differentiate)
    start = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    objective, theta = Quadratic(torch.ones(1, 2).double()), {"w": start}
    carry = rule.start(theta)
    for _ in range(2):
        moved, carry = rule.step(theta, carry, one_example(), objective)
    moved["w"].sum().backward()
    assert moved["w"].isfinite().all() and start.grad.isfinite().all()


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
        ({"hidden_dim": 0}, "`hidden_dim` must be at least 1; got 0."),
        ({"step_mult": 0.0}, "`step_mult` must be above 0; got 0.0."),
        ({"exp_mult": -1.0}, "`exp_mult` must be above 0; got -1.0."),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        MLPRule(**options)
