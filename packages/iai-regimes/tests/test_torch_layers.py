"""Every layer of torch.nn gives a task the same beside others as alone."""

import pytest
import torch
from iai_regimes import (
    LBFGS,
    Adam,
    Gaussian,
    GradientDescent,
    Parametric,
    Predictor,
    UntilConverged,
)
from regime_parts import Examples, read
from torch import nn
from torch_layers import DIFFERENT_IN_TRAINING, LAYERS, NO_SECOND_DERIVATIVE, reason

NUM_TASKS = 3


class Scaled(nn.Module):
    """A layer and a scale, so that one without parameters has something to adapt."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.scale = layer, nn.Parameter(torch.tensor(1.3))

    def forward(self, x):
        return self.layer(x).flatten(1) * self.scale


def in_float64(name, *, training):
    """The layer as a predictor, parameters that differ from task to task, and inputs."""
    torch.manual_seed(0)
    layer, shape = LAYERS[name]()
    predictor = Predictor(Scaled(layer).double().train(training))
    start = predictor.start(NUM_TASKS)
    theta = {key: value + 0.1 * torch.randn_like(value) for key, value in start.items()}
    return predictor, theta, torch.randn(NUM_TASKS, 5, *shape, dtype=torch.float64)


def derivatives(predictor, theta, x, *, twice):
    """The outputs, the gradient of a function of them, and the gradient of its square."""
    point = [value.detach().requires_grad_() for value in (*theta.values(), x)]
    outputs = predictor(dict(zip(theta, point, strict=False)), point[-1])

    def gradient(of):
        return torch.autograd.grad(of, point, create_graph=twice, materialize_grads=True)

    first = gradient(outputs.sin().sum())
    second = [g.square().sum() for g in first if g.requires_grad]
    return [outputs, *first, *(gradient(sum(second)) if second else [])]


def kind(name):
    return name.split(",")[0]


MODES = {name: (name, False) for name in LAYERS}
MODES |= {f"{name}, training": (name, True) for name in DIFFERENT_IN_TRAINING}


@pytest.mark.parametrize(("name", "training"), MODES.values(), ids=MODES)
@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
def test_a_task_beside_others_is_the_task_alone(name, training):
    predictor, theta, x = in_float64(name, training=training)
    kept, twice = x.clone(), kind(name) not in NO_SECOND_DERIVATIVE
    together = derivatives(predictor, theta, x, twice=twice)
    with torch.no_grad():
        plain = predictor(theta, x)
    assert torch.equal(x, kept)
    for task in range(NUM_TASKS):
        rows = slice(task, task + 1)
        own = {key: value[rows] for key, value in theta.items()}
        alone = derivatives(predictor, own, x[rows], twice=twice)
        for one, many in zip(alone, together, strict=True):
            torch.testing.assert_close(many[rows], one, rtol=1e-8, atol=1e-9)
        with torch.no_grad():
            torch.testing.assert_close(plain[rows], predictor(own, x[rows]))


def test_every_layer_of_torch_has_a_recipe_or_a_reason():
    kinds = {name for name, kind in vars(nn).items() if isinstance(kind, type)}
    layers = {name for name in kinds if issubclass(getattr(nn, name), nn.Module)}
    recipes = {kind(name) for name in LAYERS}
    assert recipes <= layers
    assert [name for name in layers - recipes if not reason(name)] == []
    assert [name for name in recipes if reason(name)] == []


class Words(nn.Module):
    """The mean of words' embeddings, of which word 0 is padding."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(6, 3, padding_idx=0), nn.Linear(3, 1)

    def forward(self, x):
        return self.head(self.embedding(x.long()).mean(1))


@pytest.mark.parametrize("rule", [lambda: GradientDescent(0.3), lambda: Adam(0.1)])
def test_padding_of_an_embedding_does_not_move_in_any_task(rule):
    torch.manual_seed(0)
    regime = Parametric(Predictor(Words().double()), Gaussian(1, scale=1.0), rule())
    x = torch.randint(0, 6, (3, 8, 5)).double()
    batch = Examples(x, torch.randn(3, 8, 1).double(), torch.ones(3, 8, dtype=torch.bool))
    state = read(regime, x, batch, batch)
    assert (state.theta["embedding.weight"][:, 0] == 0).all()
    for task in range(3):
        own = Examples(*(field[task : task + 1] for field in batch))
        alone = read(regime, own.x, own, own)
        for name, value in alone.theta.items():
            torch.testing.assert_close(state.theta[name][task], value[0], rtol=1e-12, atol=1e-12)


def test_the_fast_path_of_attention_is_off_only_inside():
    predictor, theta, x = in_float64("MultiheadAttention", training=False)
    predictor(theta, x)
    assert torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(ValueError, match="expecting embedding dimension"):
        predictor(theta, x[..., :1])
    assert torch.backends.mha.get_fastpath_enabled()


class InPlace(nn.Module):
    """Doubles its input in place, always or in training mode alone, or from its second call on."""

    def __init__(self, when=lambda module: True):
        super().__init__()
        self.linear, self.when, self.calls = nn.Linear(3, 1), when, 0

    def forward(self, x):
        self.calls += 1
        if self.when(self):
            x.mul_(2)
        return self.linear(x)


class Double(nn.Module):
    def forward(self, x):
        return 2 * x


@pytest.mark.parametrize("num_tasks", [1, 3])
@pytest.mark.parametrize("grad", [True, False], ids=["with gradients", "without"])
def test_a_module_that_changes_its_input_reads_a_copy(num_tasks, grad):
    module = InPlace(lambda module: module.training).double()
    predictor, x = Predictor(module), torch.randn(num_tasks, 4, 3, dtype=torch.float64)
    kept, doubled = x.clone(), module.linear(2 * x)
    with torch.set_grad_enabled(grad):
        for training in (False, True, True, False):
            module.train(training)
            answer = predictor(predictor.start(num_tasks), x)
            torch.testing.assert_close(answer, doubled if training else module.linear(x))
            assert torch.equal(x, kept)
    with torch.inference_mode():
        for given in (x, inferred := x.clone()):
            predictor.train()(predictor.start(num_tasks), given)
            assert torch.equal(given, kept)
    predictor(predictor.start(num_tasks), inferred)
    assert torch.equal(inferred, kept)


TWICE = {
    "L-BFGS": LBFGS,
    "solved": lambda: UntilConverged(GradientDescent(0.1), tolerance=1e-9, max_steps=3),
}


@pytest.mark.parametrize("num_tasks", [1, 2])
@pytest.mark.parametrize("rule", TWICE)
def test_rules_that_evaluate_twice_read_the_same_inputs_each_time(rule, num_tasks):
    torch.manual_seed(0)
    likelihood, module = Gaussian(1, scale=1.0), InPlace().double()
    doubled = nn.Sequential(Double(), module.linear)
    x = torch.randn(num_tasks, 6, 3, dtype=torch.float64)
    batch = Examples(x, x.sum(2, keepdim=True), torch.ones(num_tasks, 6, dtype=torch.bool))
    states = []
    for body in (module, doubled):
        regime = Parametric(Predictor(body), likelihood, TWICE[rule]())
        states.append(read(regime, x, batch, batch))
    for one, other in zip(*(state.theta.values() for state in states), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_a_module_that_changes_its_input_now_and_then_is_refused():
    predictor = Predictor(InPlace(lambda module: module.calls > 1))
    x = torch.ones(1, 2, 3)
    predictor(predictor.start(1), x)
    with pytest.raises(ValueError, match="must either always change its input in place or never"):
        predictor(predictor.start(1), x)


REFUSED = {
    "an embedding with max_norm": (
        lambda: nn.Sequential(nn.Linear(1, 1), nn.Embedding(4, 2, max_norm=1.0)),
        "A forward of the module must leave its weights as they are; 1 has `max_norm`",
    ),
    "a sparse embedding": (
        lambda: nn.Embedding(4, 2, sparse=True),
        "An adapted embedding must have dense gradients; the module has `sparse=True`",
    ),
    "a lazy layer": (
        lambda: nn.Sequential(nn.LazyLinear(2)),
        "`module` must have all its weights; 0.weight gets its shape when the module",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_layers_that_cannot_have_weights_of_each_task(name):
    make, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        Predictor(make())
