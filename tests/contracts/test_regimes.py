"""Every choice that a regime offers keeps the contract of what refines it."""

from itertools import product

import pytest
import torch
from iai_encoders import AxialTransformer, DeepSet
from iai_iterate.testing import check_regime
from iai_regimes import (
    Adam,
    Categorical,
    Conv4,
    Embedded,
    Explicit,
    Gaussian,
    Gradient,
    GradientDescent,
    Implicit,
    ImplicitColumns,
    LatentDecoder,
    LearnedRule,
    Parametric,
    Predictor,
    Unlabelled,
)
from iai_tasks import Examples
from torch import nn

X_DIM, NUM_CLASSES, DIM = 3, 3, 8
UPDATES = ("annealed", "residual", "gated")
SIGNALS = ("data", "gradient", "both")
PAPER = {"update": "residual", "summary_dim": 0, "count": False}


def classes(n, *, x_shape=(X_DIM,), seed=0):
    """Two tasks of labelled examples; the class depends on the first number of an input."""
    x = torch.randn(2, n, *x_shape, generator=torch.Generator().manual_seed(seed))
    first = x.flatten(2)[..., 0]
    return Examples(x=x, y=(first > 0).long() + (first > 1).long())


def check(regime, x_shape=(X_DIM,), query_shape=None):
    query = classes(3, x_shape=query_shape or x_shape, seed=1)
    check_regime(regime, classes(4, x_shape=x_shape), query)


def implicit(x_dim=X_DIM, **options):
    return Implicit(DeepSet(DIM), Categorical(NUM_CLASSES), x_dim=x_dim, **options)


def learned(predictor, likelihood, x_dim=X_DIM, **options):
    return LearnedRule(predictor, likelihood, DeepSet(DIM), x_dim=x_dim, **options)


def parametric(**options):
    predictor, likelihood = Predictor(nn.Linear(X_DIM, NUM_CLASSES)), Categorical(NUM_CLASSES)
    return Parametric(predictor, likelihood, learned(predictor, likelihood, **options))


def explicit(likelihood=None, in_dim=X_DIM, x_dim=X_DIM, **options):
    likelihood = likelihood or Categorical(NUM_CLASSES)
    decoder = LatentDecoder(in_dim, 5, likelihood.num_outputs, hidden_dim=DIM)
    predictor = Predictor(decoder, adapt=["latent"])
    return Explicit(predictor, likelihood, learned(predictor, likelihood, x_dim, **options))


def body():
    return nn.Sequential(nn.Linear(X_DIM, 4), nn.Tanh(), nn.Linear(4, NUM_CLASSES))


def ruled(rule, adapt=None):
    return Parametric(Predictor(body(), adapt), Categorical(NUM_CLASSES), rule)


@pytest.mark.parametrize(
    ("state", "update"), list(product(("logits", "latents", "probabilities"), UPDATES))
)
def test_states_and_updates_of_implicit(state, update):
    check(implicit(state=state, update=update))


def test_implicit_as_the_paper_has_it():
    check(implicit(**PAPER))


def test_queries_of_another_size():
    check(implicit(query_dim=5), query_shape=(5,))


@pytest.mark.parametrize(("signal", "update"), list(product(SIGNALS, UPDATES)))
def test_signals_and_updates_of_the_learned_rule(signal, update):
    check(parametric(signal=signal, update=update))


@pytest.mark.parametrize("signal", SIGNALS)
def test_the_learned_rule_as_the_paper_has_it(signal):
    slope = None if signal == "data" else Gradient()
    check(parametric(signal=signal, slope=slope, **PAPER))


@pytest.mark.parametrize("signal", SIGNALS)
def test_signals_of_explicit(signal):
    check(explicit(signal=signal))


@pytest.mark.parametrize("adapt", [None, ["2"]])
def test_all_of_a_network_or_its_head(adapt):
    check(ruled(GradientDescent(0.3), adapt))
    check(ruled(Adam(0.1, differentiate_gradient=True), adapt))


EMBEDDED = {
    "linear": lambda: Parametric(
        Predictor(nn.Linear(X_DIM, NUM_CLASSES)), Categorical(NUM_CLASSES), Adam(0.1)
    ),
    "learned": parametric,
    "explicit": explicit,
    "implicit": implicit,
}


@pytest.mark.parametrize(("name", "frozen"), list(product(EMBEDDED, (False, True))))
def test_features_of_images(name, frozen):
    convolution = nn.Conv2d(1, 2, 3, stride=2, padding=1)
    network = nn.Sequential(convolution, nn.Tanh(), nn.Flatten(), nn.Linear(8, X_DIM))
    check(Embedded(EMBEDDED[name](), network.requires_grad_(not frozen)), x_shape=(1, 4, 4))


def few_shot(transductive):
    network = Conv4(1, NUM_CLASSES, width=8, image_size=32, transductive=transductive)
    return Parametric(Predictor(network), Categorical(NUM_CLASSES), GradientDescent(0.1))


def test_conv4():
    check(few_shot(transductive=False), x_shape=(1, 32, 32))


def test_transduction_breaks_the_contract_where_it_is_said_to():
    with pytest.raises(AssertionError, match="A query has the same answer in any company"):
        check(few_shot(transductive=True), x_shape=(1, 32, 32))


def unlabelled(kind):
    """A regime that reads points, and answers at a point and a time."""
    likelihood = Unlabelled(Gaussian(2, scale=0.5))
    if kind == "implicit":
        return Implicit(DeepSet(DIM), likelihood, x_dim=2, query_dim=3, summary_dim=4)
    if kind == "explicit":
        return explicit(likelihood, in_dim=3, x_dim=2, signal="data")
    predictor = Predictor(nn.Linear(3, 2))
    rule = learned(predictor, likelihood, 2, signal="data")
    return Parametric(predictor, likelihood, rule)


@pytest.mark.parametrize("kind", ["implicit", "explicit", "parametric"])
def test_samples_without_targets(kind):
    query = Examples(x=classes(3).x, y=classes(3).x[..., :2])
    check_regime(unlabelled(kind), Examples(x=classes(4).x[..., :2]), query)


@pytest.mark.parametrize("update", UPDATES)
def test_updates_of_answers_about_columns(update):
    table = AxialTransformer(DIM, num_layers=1, num_heads=2)
    regime = ImplicitColumns(table, Unlabelled(Categorical(2)), update=update)
    index = torch.arange(5.0)[None, :, None].expand(2, -1, -1)
    query = Examples(x=index, y=torch.arange(5).remainder(2).expand(2, -1))
    check_regime(regime, Examples(x=classes(6, x_shape=(5,)).x), query)
