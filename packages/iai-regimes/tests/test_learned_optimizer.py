"""A rule that trains modules, held to what torch's own optimizers do with the same gradients."""

import copy
import gc
import re

import pytest
import torch
from iai_regimes import (
    LBFGS,
    Adam,
    Categorical,
    Gaussian,
    GradientDescent,
    LearnedOptimizer,
    LearnedRule,
    MLPRule,
    Parametric,
    Predictor,
    RecurrentRule,
    UntilConverged,
)
from regime_parts import MeanEncoder, draw
from torch import nn

RULES = {
    "descent": lambda: GradientDescent(0.1, momentum=0.9),
    "adam": lambda: Adam(0.03),
    "recurrent": lambda: RecurrentRule(hidden_dim=4),
    "mlp": lambda: MLPRule(hidden_dim=4),
}


def mlp(seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).to(dtype)


def build(name, dtype=torch.float64):
    """A rule by its name; a learned one's last layer does something."""
    torch.manual_seed(1)
    rule = RULES[name]()
    if isinstance(rule, nn.Module):
        rule = rule.to(dtype)
    if hasattr(rule, "head"):
        nn.init.normal_(rule.head.weight)
        nn.init.normal_(rule.head.bias)
    return rule


def backward(module, step):
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    loss = (module(x.to(module[0].weight.dtype)) - 1).square().mean()
    loss.backward()
    return loss


def train(module, optimizer, steps):
    for step in steps:
        optimizer.zero_grad()
        backward(module, step)
        optimizer.step()


def assert_same(module, other, **tolerances):
    for one, another in zip(module.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, another, **({"rtol": 1e-12, "atol": 1e-12} | tolerances))


@pytest.mark.parametrize(
    ("rule", "theirs"),
    [
        (GradientDescent(0.1), lambda groups: torch.optim.SGD(groups, lr=0.1)),
        (
            GradientDescent(0.1, momentum=0.9),
            lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9),
        ),
        (Adam(0.03), lambda groups: torch.optim.Adam(groups, lr=0.03)),
    ],
    ids=["sgd", "momentum", "adam"],
)
def test_a_plain_rule_is_torchs_optimizer(rule, theirs):
    module, other = mlp(), mlp()
    module[2].bias.requires_grad_(False)
    other[2].bias.requires_grad_(False)
    optimizer = LearnedOptimizer(module.parameters(), rule)
    train(module, optimizer, range(7))
    train(other, theirs(other.parameters()), range(7))
    assert_same(module, other)
    assert module[2].bias not in optimizer.state


@pytest.mark.parametrize("name", ["recurrent", "mlp"])
def test_a_learned_rule_moves_a_module_as_it_moves_a_task(name):
    likelihood = Gaussian(2, scale=1.0)
    module = mlp()
    predictor = Predictor(mlp())
    rule = build(name)
    regime = Parametric(predictor, likelihood, rule).double()
    optimizer = LearnedOptimizer(module.parameters(), rule)
    state = regime.init(1)
    for seed in range(5):
        batch = draw(likelihood, 1, dtype=torch.float64, seed=seed)
        state = regime.update(state, regime.encode(batch))
        optimizer.zero_grad()
        likelihood.negative_log(module(batch.x[0])[None], batch.y).mean().backward()
        optimizer.step()
    for parameter, value in zip(module.parameters(), state.theta.values(), strict=True):
        torch.testing.assert_close(parameter, value[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", RULES)
def test_groups_have_their_own_rate_and_one_can_be_added(name):
    module, other = mlp(), mlp()
    optimizer = LearnedOptimizer([{"params": module[0].parameters(), "lr": 0.5}], build(name))
    optimizer.add_param_group({"params": [module[2].weight]})
    optimizer.add_param_group({"params": module[2].bias, "lr": 0.0})
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 1.0, 0.0]
    whole = LearnedOptimizer(other.parameters(), build(name))
    train(module, optimizer, [0])
    train(other, whole, [0])
    start = mlp()
    for own, full, begun, rate in zip(
        module.parameters(), other.parameters(), start.parameters(), (0.5, 0.5, 1, 0), strict=True
    ):
        torch.testing.assert_close(own, begun + rate * (full - begun))


@pytest.mark.parametrize("name", RULES)
def test_a_tensor_without_a_gradient_is_skipped_and_keeps_its_own_count(name):
    module, other = mlp(), mlp()
    optimizer = LearnedOptimizer(module.parameters(), build(name))
    twin = LearnedOptimizer(other[:1].parameters(), build(name))
    for step in range(4):
        optimizer.zero_grad()
        backward(module, step)
        for parameter in module[2].parameters():
            parameter.grad = None
        optimizer.step()
        twin.zero_grad()
        backward(other, step)
        twin.step()
    assert_same(module, other, rtol=0, atol=0)
    assert len(optimizer.state) == 2


def test_a_closure_is_evaluated_once_with_gradients():
    module, other = mlp(), mlp()
    optimizer = LearnedOptimizer(module.parameters(), GradientDescent(0.1))
    calls = []

    def closure():
        optimizer.zero_grad()
        calls.append(backward(module, 0))
        return calls[-1]

    loss = optimizer.step(closure)
    assert len(calls) == 1 and loss is calls[0]
    train(other, torch.optim.SGD(other.parameters(), lr=0.1), [0])
    assert_same(module, other)
    assert optimizer.step() is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", RULES)
def test_stored_and_restored_it_goes_on_bit_for_bit(name, dtype, tmp_path):
    module = mlp(dtype=dtype)
    optimizer = LearnedOptimizer(module.parameters(), build(name, torch.float32), lr=0.7)
    train(module, optimizer, range(3))
    torch.save([module.state_dict(), optimizer.state_dict()], tmp_path / "state.pt")
    train(module, optimizer, range(3, 6))

    weights, state = torch.load(tmp_path / "state.pt", weights_only=True)
    other = mlp(seed=9, dtype=dtype)
    other.load_state_dict(weights)
    resumed = LearnedOptimizer(other.parameters(), build(name, torch.float32))
    resumed.load_state_dict(state)
    assert resumed.param_groups[0]["lr"] == 0.7
    train(other, resumed, range(3, 6))
    assert_same(module, other, rtol=0, atol=0)
    assert module[0].weight.dtype == dtype


def test_a_copy_stands_on_its_own():
    module = mlp()
    optimizer = LearnedOptimizer(module.parameters(), build("recurrent"))
    train(module, optimizer, range(2))
    twin, other = copy.deepcopy((module, optimizer))
    train(module, optimizer, range(2, 4))
    train(twin, other, range(2, 4))
    assert_same(module, twin, rtol=0, atol=0)


def test_a_state_of_another_rule_is_refused_and_nothing_is_loaded():
    module = mlp()
    adam = LearnedOptimizer(module.parameters(), Adam(0.1))
    train(module, adam, [0])
    optimizer = LearnedOptimizer(module.parameters(), GradientDescent(0.1), lr=0.5)
    message = (
        "`state_dict` must be that of GradientDescent on these parameters; it carries "
        "[(1, 5, 3), (1, 5, 3), (1,)] for one of (5, 3)."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        optimizer.load_state_dict(adam.state_dict())
    assert not optimizer.state and optimizer.param_groups[0]["lr"] == 0.5
    fewer = LearnedOptimizer(module[0].parameters(), Adam(0.1))
    with pytest.raises(ValueError, match="parameter group"):
        fewer.load_state_dict(adam.state_dict())


@pytest.mark.parametrize("name", RULES)
def test_a_scheduler_scales_the_steps(name):
    module, other = mlp(), mlp()
    optimizer = LearnedOptimizer(module.parameters(), build(name))
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 0.5, 1.0, total_iters=2)
    whole = LearnedOptimizer(other.parameters(), build(name))
    train(module, optimizer, [0])
    train(other, whole, [0])
    for half, full, begun in zip(
        module.parameters(), other.parameters(), mlp().parameters(), strict=True
    ):
        torch.testing.assert_close(half, begun + 0.5 * (full - begun))
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.75


@pytest.mark.parametrize("name", RULES)
def test_a_gradient_that_is_not_finite_stays_in_its_tensor(name):
    module, other = mlp(), mlp()
    for net in (module, other):
        optimizer = LearnedOptimizer(net.parameters(), build(name))
        backward(net, 0)
        if net is module:
            net[0].weight.grad[1, 2] = torch.nan
        optimizer.step()
    assert module[0].weight[1, 2].isnan()
    kept = list(module.parameters())[1:]
    for one, another in zip(kept, list(other.parameters())[1:], strict=True):
        assert torch.equal(one, another)


@pytest.mark.parametrize("name", ["recurrent", "mlp"])
def test_no_graph_grows_and_nothing_is_held(name):
    module = mlp()
    rule = build(name)
    optimizer = LearnedOptimizer(module.parameters(), rule)
    train(module, optimizer, range(3))
    gc.collect()
    before = sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())
    train(module, optimizer, range(3, 40))
    gc.collect()
    assert sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects()) == before
    for state in optimizer.state.values():
        assert not any(leaf.requires_grad for leaf in state["carry"])
    assert all(weight.grad is None for weight in rule.parameters())
    for parameter in module.parameters():
        parameter.grad.zero_()  # memory that the state must not share
    assert all(leaf.isfinite().all() for s in optimizer.state.values() for leaf in s["carry"])


def test_gradients_set_to_zero_in_place_do_not_reach_the_state():
    module, other = mlp(), mlp()
    for net, in_place in ((module, True), (other, False)):
        optimizer = LearnedOptimizer(net.parameters(), GradientDescent(0.1, momentum=0.9))
        for step in range(3):
            optimizer.zero_grad(set_to_none=not in_place)
            backward(net, step)
            optimizer.step()
    assert_same(module, other, rtol=0, atol=0)


def test_any_shape_and_layout_of_a_parameter():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.PReLU(), nn.Flatten(), nn.Linear(12, 1))
    module = module.to(memory_format=torch.channels_last)
    scalar = nn.Parameter(torch.tensor(0.5))
    optimizer = LearnedOptimizer([*module.parameters(), scalar], build("mlp", torch.float32))
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        losses.append((scalar * module(torch.ones(2, 2, 4, 4))).square().mean())
        losses[-1].backward()
        optimizer.step()
    assert losses[0].isfinite() and losses[1] != losses[0] and scalar != 0.5


def learned_rule():
    predictor, likelihood = Predictor(nn.Linear(3, 2)), Categorical(2)
    return LearnedRule(predictor, likelihood, MeanEncoder(), x_dim=3)


@pytest.mark.parametrize(
    "rule",
    [
        learned_rule(),
        UntilConverged(GradientDescent(0.1), tolerance=1e3, max_steps=5),
        LBFGS(),
        torch.optim.SGD(mlp().parameters()),
    ],
    ids=lambda rule: type(rule).__name__,
)
@pytest.mark.usefixtures("own_errors")
def test_a_rule_that_needs_more_than_a_gradient_is_refused(rule):
    message = (
        "`rule` must have a method `move`, by which a gradient alone moves theta; "
        f"{type(rule).__name__} has none."
    )
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        LearnedOptimizer(mlp().parameters(), rule)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("parameter", (1,), r"`rate\['parameter'\]` must have the shape"),
        ("parameter", (2,), r"`rate\['parameter'\]` must have the shape"),
        ("0.weight", (5, 3), "`rate` must name the adapted parameters, parameter; got 0.weight."),
    ],
)
def test_a_rule_made_for_certain_parameters_is_refused(name, shape, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        LearnedOptimizer(mlp().parameters(), GradientDescent({name: torch.ones(shape)}))


class Counting(Adam):
    def move(self, theta, *arguments):
        self.shapes += [tuple(value.shape) for value in theta.values()]
        return super().move(theta, *arguments)


def test_tensors_of_one_shape_move_together_each_with_its_own_carry_and_rate():
    torch.manual_seed(0)
    module = nn.Sequential(*[nn.Linear(3, 3) for _ in range(4)]).double()
    other = copy.deepcopy(module)
    rule = Counting(0.1)
    rule.shapes = []
    layers = [{"params": layer.parameters(), "lr": 0.5**i} for i, layer in enumerate(module)]
    optimizer = LearnedOptimizer(layers, rule)
    twins = [
        LearnedOptimizer([parameter], Adam(0.1), lr=0.5**i)
        for i, layer in enumerate(other)
        for parameter in layer.parameters()
    ]
    for step in range(3):
        rule.shapes.clear()
        for net, trained in ((module, [optimizer]), (other, twins)):
            net.zero_grad()
            backward(net, step)
            if step == 0:
                net[1].weight.grad = None
            for one in trained:
                one.step()
        expected = [[(3, 3, 3), (4, 3)], [(3, 3, 3), (4, 3), (1, 3, 3)], [(4, 3, 3), (4, 3)]][step]
        assert rule.shapes == expected
    assert_same(module, other)
    large = [nn.Parameter(torch.ones(2**15)) for _ in range(3)]
    for parameter in large:
        parameter.grad = torch.ones_like(parameter)
    optimizer = LearnedOptimizer(large, rule)
    rule.shapes.clear()
    optimizer.step()
    assert rule.shapes == [(2, 2**15), (1, 2**15)]


def test_a_rule_computes_in_floating_point_whatever_else_it_holds():
    module, other, rule = mlp(), mlp(), GradientDescent(0.1)
    rule.register_buffer("version", torch.tensor(1))
    train(module, LearnedOptimizer(module.parameters(), rule), range(2))
    train(other, torch.optim.SGD(other.parameters(), lr=0.1), range(2))
    assert_same(module, other)


@pytest.mark.parametrize("name", RULES)
def test_a_parameter_without_numbers_is_skipped(name):
    module, other = mlp(), mlp()
    empty = nn.Parameter(torch.zeros(0, 3, dtype=torch.float64))
    empty.grad = torch.zeros_like(empty)
    optimizer = LearnedOptimizer([empty, *module.parameters()], build(name))
    for net, trained in ((module, optimizer), (other, None)):
        trained = trained or LearnedOptimizer(net.parameters(), build(name))
        for step in range(2):
            backward(net, step)
            trained.step()
    assert_same(module, other, rtol=0, atol=0)
    optimizer.load_state_dict(optimizer.state_dict())
    assert empty not in optimizer.state


@pytest.mark.usefixtures("own_errors")
def test_errors():
    module = mlp()
    with pytest.raises(ValueError, match=r"^`lr` must be at least 0; got -1.0.$"):
        LearnedOptimizer(module.parameters(), Adam(0.1), lr=-1.0)
    optimizer = LearnedOptimizer(module[0].parameters(), Adam(0.1))
    with pytest.raises(ValueError, match=r"^`lr` must be at least 0; got -2.0.$"):
        optimizer.add_param_group({"params": module[2].parameters(), "lr": -2.0})
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": module[0].parameters()})
    table, turn = nn.Embedding(4, 2, sparse=True), nn.Parameter(torch.ones(2) * 1j)
    optimizer = LearnedOptimizer([*module.parameters(), *table.parameters(), turn], Adam(0.1))
    backward(module, 0)
    for loss, kind in ((table(torch.tensor([1])).sum(), "sparse"), (turn.abs().sum(), "complex")):
        loss.backward()
        with pytest.raises(
            ValueError, match=rf"^A gradient must be dense and real; got a {kind} one.$"
        ):
            optimizer.step()
        table.weight.grad = None
    assert_same(module, mlp(), rtol=0, atol=0)
