"""Meta-gradients through gradient descent: exact, and the same for a task alone and in a batch."""

import copy

import pytest
import torch
from iai_regimes import (
    Adam,
    Explicit,
    Gaussian,
    GradientDescent,
    LatentDecoder,
    Parametric,
    Predictor,
    Proximal,
    UntilConverged,
)
from regime_parts import Examples, Momentum
from torch import nn


class Body(nn.Module):
    """A small network around a layer; x is `n 4`."""

    def __init__(self, layer, shape):
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(4, 4), layer, nn.Linear(4, 1)
        self.shape = shape

    def forward(self, x):
        hidden = self.first(x).reshape(len(x), *self.shape)
        return self.last(self.layer(hidden).tanh().flatten(1))


class Sequence(nn.Module):
    """A recurrent network over a sequence of two inputs; x is `n 4`."""

    def __init__(self, kind):
        super().__init__()
        self.layer, self.last = kind(2, 3, batch_first=True), nn.Linear(3, 1)

    def forward(self, x):
        return self.last(self.layer(x.reshape(len(x), 2, 2))[0][:, -1])


class Cell(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.layer, self.last = kind(2, 3), nn.Linear(3, 1)

    def forward(self, x):
        state = None
        for part in x.reshape(len(x), 2, 2).unbind(1):
            state = self.layer(part, state)
        return self.last(state[0] if isinstance(state, tuple) else state)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode, self.decode, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1)
        self.decode.weight = self.encode.weight

    def forward(self, x):
        return self.last(self.decode(self.encode(x).tanh()))


class Scalar(nn.Module):
    """A parameter without axes, and one of one number."""

    def __init__(self):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.tensor(0.7)), nn.Parameter(torch.ones(1))
        self.last = nn.Linear(4, 1)

    def forward(self, x):
        return (self.scale * self.last(x)).tanh() * self.scale + self.shift.sin()


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.MultiheadAttention(2, 1, batch_first=True)
        self.last = nn.Linear(4, 1)

    def forward(self, x):
        x = x.reshape(len(x), 2, 2)
        return self.last(self.layer(x, x, x, need_weights=False)[0].flatten(1))


def norms(affine):
    return {
        "layer-norm": lambda: Body(nn.LayerNorm(4, elementwise_affine=affine), (4,)),
        "rms-norm": lambda: Body(nn.RMSNorm(4, elementwise_affine=affine), (4,)),
        "batch-norm": lambda: Body(
            nn.BatchNorm1d(4, affine=affine, track_running_stats=False), (4,)
        ),
        "batch-norm-2d": lambda: Body(
            nn.BatchNorm2d(2, affine=affine, track_running_stats=False), (2, 2, 1)
        ),
        "group-norm": lambda: Body(nn.GroupNorm(2, 4, affine=affine), (4,)),
        "instance-norm": lambda: Body(nn.InstanceNorm1d(2, affine=affine), (2, 2)),
        "instance-norm-2d": lambda: Body(nn.InstanceNorm2d(1, affine=affine), (1, 2, 2)),
    }


MODULES = {f"{name}-affine": make for name, make in norms(True).items()} | norms(False)
MODULES |= {
    "gru": lambda: Sequence(nn.GRU),
    "lstm": lambda: Sequence(nn.LSTM),
    "rnn": lambda: Sequence(nn.RNN),
    "gru-cell": lambda: Cell(nn.GRUCell),
    "lstm-cell": lambda: Cell(nn.LSTMCell),
    "tied": Tied,
    "scalar": Scalar,
    "attention": Attention,
}
DESCENT = {
    "plain": lambda: GradientDescent(0.3),
    "momentum": lambda: Momentum(0.2),
    "adam": lambda: Adam(0.05, differentiate_gradient=True),
    "proximal": lambda: Proximal(GradientDescent(0.3), 0.5),
}


def build(name, rule=None, adapt=None):
    torch.manual_seed(0)
    module = MODULES[name]().double()
    with torch.no_grad():
        for parameter in module.parameters():  # no norm starts at its identity
            parameter.add_(0.3 * torch.randn_like(parameter))
    rule = GradientDescent(0.3) if rule is None else rule
    return Parametric(Predictor(module, adapt), Gaussian(1, scale=1.0), rule)


def draw(num_tasks=3, n=3, seed=0):
    """Ragged tasks: the last example of the first is padding."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num_tasks, n, 4, generator=generator, dtype=torch.float64)
    y = torch.randn(num_tasks, n, 1, generator=generator, dtype=torch.float64)
    return Examples(x, y, torch.ones(num_tasks, n, dtype=torch.bool))


def part(batch, rows):
    return Examples(*(field[rows] for field in batch))


def outer_losses(regime, support, query, steps=2):
    """The plain loop, unrolled: one loss a task."""
    state = regime.init(support.x.shape[0])
    for step in range(steps):
        state = regime.update(state, regime.encode(support), None, step == 0)
    return regime.loss(regime.predict(state, query.x), query)


def meta_gradients(regime, support, query, steps=2):
    losses = outer_losses(regime, support, query, steps)
    return torch.autograd.grad(losses.sum(), list(regime.parameters()), allow_unused=True)


def check_finite_differences(regime, loss, *, atol=1e-8):
    """Every parameter's meta-gradient against central differences along a drawn direction."""
    parameters = [p for p in regime.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss(), parameters)
    generator = torch.Generator().manual_seed(5)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        values = []
        with torch.no_grad():
            for size in (1e-4, -1e-4, 2e-4, -2e-4):
                parameter.add_(size * direction)
                values.append(loss())
                parameter.sub_(size * direction)
        plus, minus, plus2, minus2 = values
        difference = (8 * (plus - minus) - (plus2 - minus2)) / 12e-4
        torch.testing.assert_close((gradient * direction).sum(), difference, rtol=1e-7, atol=atol)


@pytest.mark.parametrize("name", MODULES)
def test_maml_is_the_derivative_of_the_loss_after_the_steps(name):
    regime, support, query = build(name), draw(2), draw(2, seed=1)
    check_finite_differences(regime, lambda: outer_losses(regime, support, query).sum())


@pytest.mark.parametrize("rule", DESCENT)
@pytest.mark.parametrize("name", ["layer-norm-affine", "tied", "scalar"])
def test_other_rules_are_exact_as_well(name, rule):
    regime, support, query = build(name, DESCENT[rule]()), draw(2), draw(2, seed=1)
    check_finite_differences(regime, lambda: outer_losses(regime, support, query, 3).sum())


@pytest.mark.parametrize("name", MODULES)
def test_a_batch_of_tasks_is_its_tasks_one_at_a_time(name):
    regime, support, query = build(name), draw(), draw(seed=1)
    together = meta_gradients(regime, support, query)
    losses = outer_losses(regime, support, query)
    apart = [torch.zeros_like(gradient) for gradient in together]
    for task in range(3):
        rows = slice(task, task + 1)
        own = part(support, rows), part(query, rows)
        torch.testing.assert_close(outer_losses(regime, *own), losses[rows], rtol=1e-12, atol=1e-12)
        for total, gradient in zip(apart, meta_gradients(regime, *own), strict=True):
            total += gradient
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def first_order_gradients(regime, support, query, steps=2):
    """The loss after the steps by hand, with every inner gradient a constant."""
    predictor, rate = regime.predictor, 0.3
    theta = predictor.start(len(support.x))

    def loss(theta, batch):
        return regime.loss(predictor(theta, batch.x), batch).sum()

    for _ in range(steps):
        point = {name: value.detach().requires_grad_() for name, value in theta.items()}
        gradients = torch.autograd.grad(loss(point, support), list(point.values()))
        moves = zip(theta.items(), gradients, strict=True)
        theta = {name: value - rate * gradient for (name, value), gradient in moves}
    return torch.autograd.grad(loss(theta, query), list(regime.parameters()))


@pytest.mark.parametrize("adapt", [None, ["last"]])
def test_first_order_takes_inner_gradients_as_constants(adapt):
    rule = GradientDescent(0.3, differentiate_gradient=False)
    regime = build("layer-norm-affine", rule, adapt)
    support, query = draw(), draw(seed=1)
    expected = first_order_gradients(regime, support, query)
    for one, other in zip(meta_gradients(regime, support, query), expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ["layer-norm-affine", "batch-norm-affine", "tied", "attention"])
def test_anil_teaches_the_body_through_the_steps_of_the_head(name):
    regime, support, query = build(name, adapt=["last"]), draw(2), draw(2, seed=1)
    check_finite_differences(regime, lambda: outer_losses(regime, support, query).sum())
    second = meta_gradients(regime, support, query)
    first = first_order_gradients(regime, support, query)
    for (name, _), one, other in zip(regime.named_parameters(), second, first, strict=True):
        if "weight" in name:
            assert (one - other).abs().max() > 1e-6, name


def test_a_frozen_latent_still_teaches_its_decoder():
    torch.manual_seed(0)
    decoder = LatentDecoder(4, 3, 1, hidden_dim=4, num_layers=1).double()
    decoder.latent.requires_grad_(False)
    likelihood, predictor = Gaussian(1, scale=1.0), Predictor(decoder, ["latent"])
    regime = Explicit(predictor, likelihood, GradientDescent(0.3))
    support, query = draw(2), draw(2, seed=1)
    assert not regime.init(2).theta["latent"].requires_grad
    check_finite_differences(regime, lambda: outer_losses(regime, support, query).sum())
    constant = Explicit(predictor, likelihood, GradientDescent(0.3, differentiate_gradient=False))
    (first, *_), (second, *_) = (
        torch.autograd.grad(outer_losses(kind, support, query).sum(), [decoder.embed.linear.weight])
        for kind in (constant, regime)
    )
    assert (first - second).abs().max() > 1e-6


def test_learned_rates_and_strengths_have_exact_meta_gradients():
    rates = {
        name: nn.Parameter(torch.linspace(0.1, 0.3, shape.numel()).double().reshape(shape))
        for name, shape in build("scalar").predictor.shapes.items()
    }
    strength = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))
    rule = Proximal(GradientDescent(rates), strength)
    regime, support, query = build("scalar", rule), draw(2), draw(2, seed=1)
    names = dict(regime.named_parameters()).keys()
    assert {
        "rule.strength.value",
        "rule.rule.rate.named.scale",
        "rule.rule.rate.named.last/bias",
    } < names
    check_finite_differences(regime, lambda: outer_losses(regime, support, query, 3).sum())


def test_gradients_unroll_through_until_converged():
    rule = UntilConverged(Proximal(GradientDescent(0.3), 0.5), tolerance=0.01, max_steps=20)
    regime, support, query = build("layer-norm-affine", rule), draw(2), draw(2, seed=1)
    state = regime.update(regime.init(2), regime.encode(support))
    assert 1 < state.carry.steps.min() < state.carry.steps.max() < 20
    check_finite_differences(regime, lambda: outer_losses(regime, support, query, 1).sum())


@pytest.mark.parametrize("rule", DESCENT)
def test_adapting_needs_no_gradients_to_be_enabled(rule):
    regime, support, query = build("layer-norm", DESCENT[rule]()), draw(), draw(seed=1)
    expected = outer_losses(regime, support, query)
    with torch.no_grad():
        losses = outer_losses(regime, support, query)
    assert expected.requires_grad and not losses.requires_grad
    assert torch.equal(losses, expected)


def test_a_recurrent_module_can_be_copied_after_use():
    regime, support, query = build("lstm"), draw(), draw(seed=1)
    losses = outer_losses(regime, support, query)
    twin = copy.deepcopy(regime)
    with torch.no_grad():
        for parameter in regime.parameters():
            parameter.zero_()
    assert torch.equal(outer_losses(twin, support, query), losses)
