import copy
import re

import pytest
import torch
from iai_regimes import Gaussian, Parametric, Predictor
from iai_regimes.hessian import hessian_products
from iai_regimes.objective import MinibatchObjective
from iai_regimes.ravel import of_vectors, ravel
from regime_parts import RULES, Examples, draw, read
from torch import nn
from torch.func import functional_call


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode, self.decode = nn.Linear(3, 3), nn.Linear(3, 3)
        self.decode.weight = self.encode.weight

    def forward(self, x):
        return self.decode(self.encode(x).tanh())


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale, self.body = nn.Parameter(torch.tensor(2.0)), nn.Linear(3, 2)
        self.register_buffer("shift", torch.ones(2))

    def forward(self, x):
        return self.scale * self.body(x) + self.shift


class Prompted(nn.Module):
    """A transformer whose soft prompt is adapted."""

    def __init__(self):
        super().__init__()
        self.prompt, self.embed = nn.Parameter(torch.randn(2, 4)), nn.Linear(3, 4)
        self.attend, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        tokens = torch.cat([self.prompt.expand(len(x), -1, -1), self.embed(x)[:, None]], dim=1)
        return self.head(self.attend(tokens, tokens, tokens, need_weights=False)[0][:, -1])


def twice():
    """One layer under two names."""
    layer = nn.Linear(3, 3)
    return nn.Sequential(layer, nn.Tanh(), layer)


def convolution():
    return nn.Sequential(nn.Conv2d(1, 2, 2), nn.GroupNorm(1, 2), nn.Flatten(), nn.Linear(8, 2))


MODULES = {
    "linear": (lambda: nn.Linear(3, 2), None, (3,)),
    "head": (lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), ["2"], (3,)),
    "tied": (Tied, None, (3,)),
    "layer twice": (twice, None, (3,)),
    "scalar": (Scaled, ["scale", "body.bias"], (3,)),
    "convolution": (convolution, None, (1, 3, 3)),
    "prompt": (Prompted, ["prompt"], (3,)),
}


@pytest.mark.parametrize("name", MODULES)
def test_each_task_has_parameters_of_its_own(name):
    make, adapt, x_shape = MODULES[name]
    torch.manual_seed(0)
    module = make().double()
    predictor = Predictor(module, adapt)
    start = predictor.start(3)
    x = torch.randn(3, 4, *x_shape, dtype=torch.float64)
    theta = {name: value + torch.randn_like(value) for name, value in start.items()}
    outputs = predictor(theta, x)
    for task in range(3):
        given = {name: value[task] for name, value in theta.items()}
        own = functional_call(copy.deepcopy(module), given, (x[task],))
        torch.testing.assert_close(outputs[task], own)
        torch.testing.assert_close(predictor(start, x)[task], module(x[task]))


@pytest.mark.parametrize("name", MODULES)
def test_gradients_reach_every_parameter_and_curvature_exists(name):
    make, adapt, x_shape = MODULES[name]
    torch.manual_seed(0)
    predictor = Predictor(make(), adapt)
    x = torch.randn(3, 4, *x_shape)
    outputs = predictor(predictor.start(3), x)
    outputs.square().sum().backward()
    assert all(p.grad is not None for p in predictor.parameters())
    num_outputs = outputs.shape[-1]
    batch = Examples(x, torch.randn(3, 4, num_outputs), torch.ones(3, 4, dtype=torch.bool))
    objective = MinibatchObjective(predictor, Gaussian(num_outputs, scale=1.0), batch)
    start = predictor.start(3)
    _, gradient, product = hessian_products(of_vectors(objective.loss, start), ravel(start))
    for found in (gradient, product(gradient)):
        assert found.isfinite().all() and (found != 0).any()


def test_a_tied_parameter_is_adapted_once():
    predictor = Predictor(Tied())
    assert list(predictor.shapes) == ["encode.weight", "encode.bias", "decode.bias"]
    assert predictor.size == 15


def test_any_name_of_a_tied_parameter_will_do():
    module = Tied()
    predictor = Predictor(module, adapt=["decode"])
    assert list(predictor.shapes) == ["encode.weight", "decode.bias"]
    assert predictor.shared() == [module.encode.bias]
    assert list(Predictor(module, ["decode.weight"]).shapes) == ["encode.weight"]
    weight, bias, x = torch.randn(2, 3, 3), torch.randn(2, 3), torch.randn(2, 4, 3)
    hidden = (x @ weight.mT + module.encode.bias).tanh()
    theta = {"encode.weight": weight, "decode.bias": bias}
    torch.testing.assert_close(predictor(theta, x), hidden @ weight.mT + bias[:, None])


@pytest.mark.usefixtures("own_errors")
def test_one_name_is_not_a_sequence_of_them():
    message = "`adapt` must be a sequence of names; got the string 'head'."
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        Predictor(nn.Linear(2, 1), adapt="head")


def test_names_and_prefixes():
    module = nn.ModuleDict({"head": nn.Linear(2, 1), "header": nn.Linear(2, 1)})
    assert list(Predictor(module, ["head"]).shapes) == ["head.weight", "head.bias"]
    assert list(Predictor(module, ["header.bias"]).shapes) == ["header.bias"]
    assert Predictor(module).size == 6


def test_dropout_differs_between_tasks():
    torch.manual_seed(0)
    predictor = Predictor(nn.Sequential(nn.Linear(3, 16), nn.Dropout(0.5)))
    x = torch.ones(2, 1, 3)
    dropped = predictor(predictor.start(2), x) == 0
    assert not torch.equal(dropped[0], dropped[1])
    assert not (predictor.eval()(predictor.start(2), x) == 0).any()


def test_running_statistics():
    predictor = Predictor(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)))
    x = torch.randn(2, 4, 3)
    message = (
        "The module keeps running statistics (1), which tasks side by side cannot update; use "
        "GroupNorm or LayerNorm, or give `track_running_stats=False`."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        predictor(predictor.start(2), x)
    assert predictor.eval()(predictor.start(2), x).shape == (2, 4, 2)


@pytest.mark.parametrize("name", MODULES)
def test_one_task_is_computed_as_it_is_beside_others(name):
    make, adapt, x_shape = MODULES[name]
    torch.manual_seed(0)
    predictor = Predictor(make().double(), adapt)
    x = torch.randn(3, 4, *x_shape, dtype=torch.float64)
    start = predictor.start(3)
    theta = {name: value + torch.randn_like(value) for name, value in start.items()}
    outputs = predictor(theta, x)
    for task in range(3):
        rows = slice(task, task + 1)
        alone = {name: value[rows] for name, value in theta.items()}
        torch.testing.assert_close(predictor(alone, x[rows]), outputs[rows])


@pytest.mark.usefixtures("own_errors")
def test_the_numbers_of_one_task_are_not_spread_over_others():
    predictor = Predictor(nn.Linear(3, 2))
    for theta, x in ((1, 2), (2, 1), (3, 2)):
        message = f"`theta` and `x` must have as many tasks; got {theta} and {x}."
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            predictor(predictor.start(theta), torch.zeros(x, 4, 3))


class Counter(nn.Module):
    """Changes a buffer in each forward, in the way asked for."""

    def __init__(self, change):
        super().__init__()
        self.change, self.layer = change, nn.Linear(3, 2)
        self.register_buffer("count", torch.zeros(2))

    def forward(self, x):
        out = self.layer(x)
        if self.change == "in place":
            self.count += 1
        elif self.change == "by what is computed":
            self.count.add_(out.detach().mean(0))
        elif self.change == "in training" and self.training:
            self.count.add_(1)
        elif self.change == "anew":
            self.count = self.count + 1
        return out + self.count


CHANGES = ["in place", "by what is computed", "in training", "anew"]


@pytest.mark.parametrize("num_tasks", [1, 2])
@pytest.mark.parametrize("change", CHANGES)
def test_buffers_that_a_forward_changes(change, num_tasks):
    module = Counter(change)
    predictor = Predictor(nn.Sequential(nn.Tanh(), module))
    message = (
        "A forward of the module must leave its buffers as they are, for all tasks share them; it "
        "changes '1.count'."
    )
    state = torch.get_rng_state()
    for _ in range(2):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            predictor(predictor.start(num_tasks), torch.ones(num_tasks, 4, 3))
    assert not module.count.any()
    assert torch.equal(torch.get_rng_state(), state)
    if change == "in training":
        outputs = predictor.eval()(predictor.start(num_tasks), torch.ones(num_tasks, 4, 3))
        assert outputs.shape == (num_tasks, 4, 2)
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            predictor.train()(predictor.start(num_tasks), torch.ones(num_tasks, 4, 3))


def test_a_module_with_constant_buffers_draws_as_if_it_had_none():
    predictor = Predictor(nn.Sequential(Counter("never"), nn.Dropout(0.5)))
    for _ in range(2):  # the first forward looks at the buffers
        torch.manual_seed(0)
        first = predictor(predictor.start(2), torch.ones(2, 4, 3))
        torch.manual_seed(0)
        assert torch.equal(predictor(predictor.start(2), torch.ones(2, 4, 3)), first)


@pytest.mark.parametrize("num_tasks", [1, 3])
def test_batch_norm_without_running_statistics_sees_one_task(num_tasks):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2, track_running_stats=False)).double()
    predictor = Predictor(module)
    x = torch.randn(num_tasks, 4, 3, dtype=torch.float64)
    theta = predictor.start(num_tasks)
    for training in (True, False):
        outputs = predictor.train(training)(theta, x)
        for task in range(num_tasks):
            torch.testing.assert_close(outputs[task], module(x[task]))


def test_a_random_start_is_that_of_linear_layers():
    torch.manual_seed(0)
    predictor = Predictor(nn.Sequential(nn.Linear(4, 50), nn.Tanh(), nn.Linear(50, 8)))
    theta = predictor.random_start(3)
    for name, value in theta.items():
        assert value.shape == (3, *predictor.shapes[name])
        bound = 0.5 if name.startswith("0") else 50**-0.5
        assert -bound <= value.min() < -0.8 * bound
        assert 0.8 * bound < value.max() <= bound
        assert not torch.equal(value[0], value[1])
    torch.manual_seed(0)
    predictor = Predictor(nn.Sequential(nn.Linear(4, 50), nn.Tanh(), nn.Linear(50, 8)))
    assert torch.equal(predictor.random_start(3)["2.bias"], theta["2.bias"])


def test_other_layers_have_no_random_start():
    predictor = Predictor(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)))
    with pytest.raises(ValueError, match=r"'1.weight' is one of LayerNorm"):
        predictor.random_start(2)
    adapted = Predictor(predictor.module, adapt=["0"]).random_start(2)
    assert list(adapted) == ["0.weight", "0.bias"]


def frozen_body():
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    module[0].requires_grad_(False)
    return module


def test_frozen_layers_are_not_adapted_unless_they_are_named():
    module = frozen_body()
    predictor = Predictor(module)
    assert list(predictor.shapes) == ["2.weight", "2.bias"]
    assert predictor.shared() == [module[0].weight, module[0].bias]
    assert list(Predictor(module, ["0.weight"]).shapes) == ["0.weight"]


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_leaves_a_frozen_layer_alone(rule):
    torch.manual_seed(0)
    likelihood, module = Gaussian(2, scale=1.0), frozen_body().double()
    regime = Parametric(Predictor(module), likelihood, RULES[rule]()).double()
    batch = draw(likelihood, dtype=torch.float64)
    state = read(regime, batch.x, batch, batch)
    hidden = module[0](batch.x).tanh()
    weight, bias = state.theta["2.weight"], state.theta["2.bias"]
    torch.testing.assert_close(
        regime.predict(state, batch.x), hidden @ weight.mT + bias[:, None], rtol=1e-12, atol=1e-12
    )
    assert (weight != module[2].weight).any()


def test_a_module_that_is_frozen_throughout_has_nothing_to_adapt():
    message = "At least one parameter of the module must be adapted; got none. A frozen one is"
    with pytest.raises(ValueError, match=message):
        Predictor(nn.Linear(2, 1).requires_grad_(False))
