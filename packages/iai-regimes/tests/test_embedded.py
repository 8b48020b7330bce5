import copy
import re

import pytest
import torch
from iai_regimes import (
    Adam,
    Categorical,
    Embedded,
    Explicit,
    GradientDescent,
    Implicit,
    LatentDecoder,
    Parametric,
    Predictor,
)
from iai_regimes.ravel import ravel
from regime_parts import DIM, Examples, MeanEncoder, draw, read, rule
from torch import nn

SHAPE, NUM_FEATURES = (1, 4, 4), 3
LIKELIHOOD = Categorical(3)


def embedding():
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(8, NUM_FEATURES),
    )


def linear():
    return Parametric(Predictor(nn.Linear(NUM_FEATURES, 3)), LIKELIHOOD, Adam(0.1))


def learned():
    predictor = Predictor(nn.Linear(NUM_FEATURES, 3))
    return Parametric(predictor, LIKELIHOOD, rule(predictor, LIKELIHOOD))


def explicit():
    decoder = LatentDecoder(NUM_FEATURES, 5, 3, hidden_dim=DIM, num_layers=1)
    predictor = Predictor(decoder, adapt=["latent"])
    return Explicit(predictor, LIKELIHOOD, rule(predictor, LIKELIHOOD))


def implicit():
    return Implicit(MeanEncoder(), LIKELIHOOD, x_dim=NUM_FEATURES, summary_dim=4)


INNER = {"linear": linear, "learned": learned, "explicit": explicit, "implicit": implicit}


def build(name, *, seed=0):
    torch.manual_seed(seed)
    return Embedded(INNER[name](), embedding())


def images(num_tasks=2, n=4, *, seed=0, dtype=torch.float32):
    return draw(LIKELIHOOD, num_tasks, n, x_shape=SHAPE, dtype=dtype, seed=seed)


@pytest.mark.parametrize("name", INNER)
def test_the_regime_inside_sees_features_alone(name):
    regime = build(name)
    support, query = images(), images(n=3, seed=1)
    with torch.no_grad():
        own = [
            one._replace(x=regime.embedding(one.x.flatten(0, 1)).unflatten(0, one.mask.shape))
            for one in (support, query)
        ]
    state = read(regime, query.x, support, support)
    inner = read(regime.regime, own[1].x, own[0], own[0])
    torch.testing.assert_close(
        regime.predict(state, query.x), regime.regime.predict(inner, own[1].x)
    )
    assert regime.needs_query == regime.regime.needs_query


def test_gradients_through_support_and_query_are_those_of_finite_differences():
    torch.manual_seed(0)
    predictor = Predictor(nn.Linear(NUM_FEATURES, 3))
    data = Parametric(predictor, LIKELIHOOD, rule(predictor, LIKELIHOOD, signal="data"))
    support, query = (images(seed=seed, dtype=torch.float64) for seed in (0, 1))
    for inner in (implicit(), data):
        regime = Embedded(inner, embedding()).double()
        for parameter in regime.parameters():
            nn.init.normal_(parameter, std=0.3)
        weight = regime.embedding[0].weight
        along = torch.randn_like(weight)

        def loss(size, regime=regime, weight=weight, along=along):
            with torch.no_grad():
                weight.add_(size * along)
            state = read(regime, query.x, support)
            return regime.loss(regime.predict(state, query.x), query).sum()

        (gradient,) = torch.autograd.grad(loss(0.0), weight)
        upper, lower = loss(1e-5).item(), loss(-2e-5).item()
        torch.testing.assert_close((gradient * along).sum().item(), (upper - lower) / 2e-5)


def test_padding_reaches_neither_result_nor_gradient():
    regime = build("learned")
    support, query = images(), images(n=3, seed=1)
    support.mask[0, 1] = query.mask[1, 0] = False
    results = []
    for hidden in (0.0, torch.nan):
        support.x[~support.mask], query.x[~query.mask] = hidden, hidden
        regime.zero_grad()
        state = read(regime, query.x, support)
        losses = regime.loss(regime.predict(state, query.x), query)
        losses.sum().backward()
        results.append([losses, *(p.grad.clone() for p in regime.parameters())])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other) and one.isfinite().all()


def test_a_frozen_embedding_is_a_constant():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, NUM_FEATURES), nn.BatchNorm1d(3))
    regime = Embedded(linear(), network.requires_grad_(False)).train()
    assert not network.training and regime.regime.training
    before = copy.deepcopy(network.state_dict())
    query = images(seed=1)
    state = read(regime, query.x, images())
    regime.loss(regime.predict(state, query.x), query).sum().backward()
    trained = [name for name, p in regime.named_parameters() if p.requires_grad]
    assert trained == ["regime.predictor.module.weight", "regime.predictor.module.bias"]
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_wrapping_leaves_the_modes_of_what_it_wraps(frozen, training):
    inner = linear().train(training)
    network = embedding().requires_grad_(not frozen).train(training)
    regime = Embedded(inner, network)
    assert all(layer.training == training for layer in inner.modules())
    assert all(layer.training == (training and not frozen) for layer in network.modules())
    assert regime.eval().train().regime.training and network.training == (not frozen)


def test_the_residual_is_that_inside_and_reaches_the_embedding():
    torch.manual_seed(0)
    inner = Parametric(Predictor(nn.Linear(NUM_FEATURES, 3)), LIKELIHOOD, GradientDescent(0.1))
    regime = Embedded(inner, embedding())
    support = images()
    support.mask[0, 1], support.x[0, 1] = False, torch.nan
    with torch.no_grad():
        start = regime.init(2)
        state = regime.update(start, regime.encode(support))
    residual = ravel(regime.residual(state, start, (support, True)))
    observed = support.x.masked_fill(~support.mask[..., None, None, None], 0.0)
    features = regime.embedding(observed.flatten(0, 1)).unflatten(0, (2, 4))
    expected = ravel(inner.residual(state, start, (support._replace(x=features), True)))
    assert torch.equal(residual, expected)
    weight = torch.randn_like(residual)
    weights = list(regime.embedding.parameters())
    gradients = torch.autograd.grad((residual * weight).sum(), weights)
    wanted = torch.autograd.grad((expected * weight).sum(), weights)
    for gradient, other in zip(gradients, wanted, strict=True):
        assert gradient.isfinite().all() and (gradient != 0).any()
        torch.testing.assert_close(gradient, other)

    regime = build("implicit")
    with pytest.raises(
        TypeError, match=r"^The regime must have a `residual`; Implicit has none\.$"
    ):
        regime.residual(start, start, (support, True))


def test_autocast_keeps_the_dtypes_of_a_state():
    regime = build("learned")
    support, query = images(), images(seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        state = read(regime, query.x, support)
        loss = regime.loss(regime.predict(state, query.x), query).mean()
    loss.backward()
    assert state.theta["weight"].dtype == state.seen.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in regime.parameters())


def test_validation_is_of_the_inputs_as_given():
    regime = build("linear")
    support = images()
    regime.validate(support)
    support.x[0, 1, 0, 2, 2] = torch.inf
    message = "`x` must be finite where `mask` is True; got NaN or infinity."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        regime.validate(support)
    support.mask[0, 1] = False
    regime.validate(support)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            nn.Flatten(0),
            "`embedding` must give features for each of 8 inputs; got the shape (128,).",
        ),
        (
            nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)),
            "The embedding keeps running statistics (1), which padding would enter; use GroupNorm "
            "or LayerNorm, or freeze it.",
        ),
    ],
)
def test_errors(network, message):
    regime = Embedded(linear(), network)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        regime.encode(images())
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        regime.predict(regime.init(2), Examples(*images()).x)
