import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from iai_regimes import (
    Evidence,
    Gaussian,
    GradientDescent,
    Parametric,
    Predictor,
    Proximal,
    UntilConverged,
)
from iai_regimes.gradient import gradient_at
from iai_regimes.ravel import ravel
from regime_parts import X_DIM, Momentum, draw
from smooth_objectives import Quadratic as Bowl
from torch import nn

LIKELIHOOD = Gaussian(1, scale=0.5)
SIZE = X_DIM + 1


def error(message):
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


def batches(seed=0):
    """Four minibatches; the second task has nothing in the third."""
    drawn = [draw(LIKELIHOOD, dtype=torch.float64, seed=4 * seed + index) for index in range(4)]
    drawn[2].mask[1] = False
    drawn[3].mask[0, 2:] = False
    return drawn


def adapted(rule, drawn, seed=0):
    torch.manual_seed(seed)
    regime = Parametric(Predictor(nn.Linear(X_DIM, 1).double()), LIKELIHOOD, rule)
    state = regime.init(3)
    for batch in drawn:
        state = regime.update(state, regime.encode(batch))
    return regime, state


def by_hand(regime, drawn, task, step):
    """`step(parameters, gradients, index)` on each minibatch of one task that has an example."""
    module = regime.predictor.module
    theta, index = torch.cat([module.weight.flatten(), module.bias]).detach(), 0
    for batch in drawn:
        kept = batch.mask[task]
        if kept.any():
            theta.requires_grad_()
            mean = batch.x[task, kept] @ theta[:-1, None] + theta[-1]
            loss = LIKELIHOOD.negative_log(mean[None], batch.y[task, kept][None]).mean()
            (gradient,) = torch.autograd.grad(loss, theta)
            theta, index = step(theta.detach(), gradient, index), index + 1
    return theta


@settings(deadline=None, max_examples=8)
@given(
    seed=st.integers(0, 99), rate=st.floats(1e-3, 0.3), momentum=st.sampled_from([None, 0.5, 0.9])
)
def test_each_task_is_torchs_sgd(seed, rate, momentum):
    """Also by a rule of one gradient that remembers something."""
    drawn = batches(seed)
    rule = Momentum(rate, momentum) if momentum else GradientDescent(rate)
    regime, state = adapted(rule, drawn, seed)
    for task in range(3):
        own = nn.Parameter(torch.zeros(SIZE, dtype=torch.float64))
        optimizer = torch.optim.SGD([own], lr=rate, momentum=momentum or 0.0)

        def step(theta, gradient, index, own=own, optimizer=optimizer):
            own.data, own.grad = theta.clone(), gradient
            optimizer.step()
            return own.detach()

        torch.testing.assert_close(ravel(state.theta)[task], by_hand(regime, drawn, task, step))


@pytest.mark.parametrize("kind", [nn.Parameter, torch.Tensor.clone])
@pytest.mark.parametrize("shape", [(), (SIZE,), (3, 1), (9, 1)])
def test_rates_by_parameter_and_by_step(shape, kind):
    generator = torch.Generator().manual_seed(1)
    rate = 0.01 + 0.1 * torch.rand(shape, generator=generator, dtype=torch.float64)
    drawn = batches()
    named = shape[-1:] == (SIZE,)
    if named:
        parts = {"weight": rate[..., None, :-1], "bias": rate[..., -1:]}
        rates = {name: kind(part) for name, part in parts.items()}
    else:
        rates = kind(rate[:, 0] if shape else rate)
    regime, state = adapted(GradientDescent(rates), drawn)
    names = {"rule.rate.named.weight", "rule.rate.named.bias"} if named else {"rule.rate.value"}
    assert (names <= dict(regime.named_parameters()).keys()) == (kind is nn.Parameter)
    assert names <= regime.state_dict().keys()

    def step(theta, gradient, index):
        own = rate[min(index, len(rate) - 1)] if rate.dim() == 2 else rate
        return theta - own * gradient

    for task in range(3):
        torch.testing.assert_close(ravel(state.theta)[task], by_hand(regime, drawn, task, step))
    assert state.carry.tolist() == [4.0, 3.0, 4.0]  # steps


def test_rates_for_every_number_start_at_one_value():
    predictor = Predictor(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)), ["1"])
    rates = predictor.full(0.25)
    assert {name: rate.shape for name, rate in rates.items()} == predictor.shapes
    assert all(isinstance(rate, nn.Parameter) and (rate == 0.25).all() for rate in rates.values())


@pytest.mark.parametrize("differentiate", [True, False])
@pytest.mark.parametrize("kind", ["one", "by step", "by name"])
def test_learned_rates_have_a_gradient_whether_or_not_it_is_differentiated(kind, differentiate):
    rates = {
        "one": lambda: nn.Parameter(torch.tensor(0.1, dtype=torch.float64)),
        "by step": lambda: nn.Parameter(torch.full((4,), 0.1, dtype=torch.float64)),
        "by name": lambda: Predictor(nn.Linear(X_DIM, 1).double()).full(0.1),
    }[kind]()
    rule = GradientDescent(rates, differentiate_gradient=differentiate)
    _, state = adapted(rule, batches())
    learned = list(rule.parameters())
    gradients = torch.autograd.grad(ravel(state.theta).sum(), learned)
    assert all((gradient != 0).all() for gradient in gradients)


class Quadratic:
    """1/2 |theta|^2, with or without something that is shared."""

    def __init__(self, shared=None):
        self.factor = shared

    @property
    def shared(self):
        return self.factor is not None and self.factor.requires_grad

    def loss(self, theta):
        return 0.5 * theta["w"].square().sum(-1) * (1.0 if self.factor is None else self.factor)

    def residual(self, theta):
        return theta["w"][:, None]


@pytest.mark.parametrize("differentiate", [True, False])
@pytest.mark.parametrize("follows_theta", [True, False])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("enabled", [True, False])
def test_a_graph_is_kept_only_where_it_has_a_use(differentiate, follows_theta, shared, enabled):
    theta = torch.tensor([[2.0, 3.0]], requires_grad=follows_theta)
    objective = Quadratic(torch.tensor(5.0, requires_grad=shared))
    with torch.set_grad_enabled(enabled):
        gradient = gradient_at(objective, {"w": theta}, differentiate=differentiate)["w"]
    assert gradient.tolist() == [[10.0, 15.0]]
    used = differentiate and enabled and (follows_theta or shared)
    assert gradient.requires_grad == used
    if used and shared:
        assert torch.autograd.grad(gradient.sum(), objective.factor)[0].item() == 5.0
    elif used:
        assert torch.autograd.grad(gradient.sum(), theta)[0].tolist() == [[5.0, 5.0]]


def test_theta_itself_may_be_what_an_objective_holds():
    theta = torch.tensor([[2.0, 3.0]], requires_grad=True)

    class Pulled(Quadratic):
        def loss(self, moved):
            return 0.5 * (moved["w"] - theta).square().sum(-1)

    gradient = gradient_at(Pulled(), {"w": theta}, differentiate=True)["w"]
    assert gradient.tolist() == [[0.0, 0.0]]
    # d/d moved - d/d anchor cancel in the row where both are theta
    assert torch.autograd.grad(gradient.sum(), theta)[0].tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize(
    ("freeze", "shared"),
    [((), True), (("body",), False), (("head",), True), (("body", "head"), False)],
)
def test_an_objective_knows_what_it_shares(freeze, shared):
    module = nn.ModuleDict({"body": nn.Linear(X_DIM, 2), "head": nn.Linear(2, 1)})
    module.forward = lambda x: module["head"](module["body"](x))
    for name in freeze:
        module[name].requires_grad_(False)
    regime = Parametric(Predictor(module, ["head"]), LIKELIHOOD, GradientDescent(0.1))
    batch = draw(LIKELIHOOD)
    assert regime.predictor.shared()[0] is module["body"].weight
    theta = {name: value.detach() for name, value in regime.predictor.start(3).items()}
    state = regime.init(3)._replace(theta=theta)
    residual = regime.residual(state, regime.init(3), (batch, True))
    assert residual["head.bias"].requires_grad == shared
    differentiable = batch._replace(x=batch.x.clone().requires_grad_())
    residual = regime.residual(state, regime.init(3), (differentiable, True))
    assert residual["head.bias"].requires_grad


def test_the_residual_is_the_gradient():
    drawn = batches()
    regime, state = adapted(GradientDescent(0.1, differentiate_gradient=False), drawn)
    residual = ravel(regime.residual(state, regime.init(3), (drawn[0], False)))
    moved = regime.update(state, regime.encode(drawn[0])).theta
    torch.testing.assert_close(residual, (ravel(state.theta) - ravel(moved)) / 0.1)
    assert residual.requires_grad


def test_inference_mode_is_refused():
    drawn = batches()
    with torch.inference_mode(), pytest.raises(ValueError, match=r"torch.no_grad\(\)"):
        adapted(GradientDescent(0.1), drawn)


@pytest.mark.usefixtures("own_errors")
@pytest.mark.parametrize(
    ("rate", "message"),
    [
        (0.0, "`rate` must be above 0; got 0.0."),
        ({}, "`rate` must name the adapted parameters; got none."),
        (-0.1, "`rate` must be finite and at least 0; got -0.1."),
        (float("inf"), "`rate` must be finite and at least 0; got inf."),
        (torch.tensor(-0.5), "`rate` must be finite and at least 0; got -0.5."),
        (torch.tensor(torch.nan), "`rate` must be finite and at least 0; got nan."),
        (
            nn.Parameter(torch.tensor([0.5, -0.5])),
            "`rate` must be finite and at least 0; got -0.5.",
        ),
        (torch.tensor([1, 0]), "`rate` must be floating point; got torch.int64."),
        (
            {"body.bias": torch.tensor([-1.0])},
            "`rate['body.bias']` must be finite and at least 0; got -1.0.",
        ),
        (
            torch.ones(1, 1),
            "`rate` must have the shape () or (step,); got (1, 1).",
        ),
        (
            torch.ones(0),
            "`rate` must have the shape () or (step,); got (0,).",
        ),
    ],
)
def test_errors(rate, message):
    with error(message):
        GradientDescent(rate)


@pytest.mark.parametrize("shape", [(), (3,), (1, 2), (2, 1, 3)])
def test_a_rate_that_does_not_fit(shape):
    rates = {"weight": torch.ones(shape), "bias": torch.ones(1)}
    message = f"`rate['weight']` must have the shape (1, 3); got {shape}."
    with error(message):
        adapted(GradientDescent(rates), [])
    with error("`rate` must name the adapted parameters, weight, bias; got weight."):
        adapted(GradientDescent({"weight": torch.ones(1, 3)}), [])


@pytest.mark.parametrize("differentiate", [True, False])
@pytest.mark.parametrize(
    "around",
    [
        lambda rule: rule,
        lambda rule: Proximal(rule, strength=0.5),
        lambda rule: UntilConverged(rule, tolerance=1e-9, max_steps=1),
        lambda rule: UntilConverged(Proximal(rule, strength=0.5), tolerance=1e-9, max_steps=1),
    ],
)
def test_a_learned_rate_has_its_gradient_inside_other_rules(around, differentiate):
    objective = Bowl.draw(2, 3, seed=0)
    theta = {"w": torch.randn(2, 3, dtype=torch.float64)}
    told = Evidence((), torch.ones(2).double(), torch.zeros(2).double(), True)
    away = {"w": theta["w"] + 1}

    def moved(rate):
        rule = around(GradientDescent(rate, differentiate_gradient=differentiate))
        return rule.step(theta, rule.start(away), told, objective)[0]["w"].square().sum()

    rate = nn.Parameter(torch.tensor(0.1, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(moved(rate), rate)
    higher, lower = (moved(0.1 + shift).item() for shift in (1e-6, -1e-6))
    assert gradient.item() == pytest.approx((higher - lower) / 2e-6, rel=1e-5)


def test_a_parameter_may_have_any_name():
    names = ["label", "check", "attributes", "a.b", "a/b", "value"]
    theta = {name: torch.ones(2, 1) for name in names}
    rates = {name: nn.Parameter(torch.tensor([0.1 * i])) for i, name in enumerate(names)}
    rule = GradientDescent(rates)
    rule.start(theta)
    assert [rule.rate.of(name) is rates[name] for name in names] == [True] * len(names)
    assert len(rule.state_dict()) == len(names)
