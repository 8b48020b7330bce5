"""Each mistake has its sentence."""

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_regimes import (
    Categorical,
    Explicit,
    Gaussian,
    GradientDescent,
    LatentDecoder,
    Newton,
    Parametric,
    Predictor,
)
from iai_regimes.check import check_examples
from iai_regimes.embedding import BilinearEmbedding
from iai_regimes.learned.parameter_token import ParameterTokens
from regime_parts import X_DIM, Examples, draw, implicit, parametric, rule
from torch import nn

pytestmark = pytest.mark.usefixtures("own_errors")


def error(message):
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Gaussian(0), "`y_dim` must be at least 1; got 0."),
        (lambda: Gaussian(1, scale=0.0), "`scale` must be above 0; got 0.0."),
        (lambda: Gaussian(1, min_scale=-1.0), "`min_scale` must be above 0; got -1.0."),
        (lambda: Categorical(1), "`num_classes` must be at least 2; got 1."),
        (lambda: BilinearEmbedding(0, 1), "`in_dim` must be at least 1; got 0."),
        (lambda: LatentDecoder(3, 0, 1), "`latent_dim` must be at least 1; got 0."),
        (lambda: LatentDecoder(3, 1, 1, num_layers=0), "`num_layers` must be at least 1; got 0."),
        (
            lambda: ParameterTokens({"a": torch.Size([1])}, chunk=0),
            "`chunk` must be at least 1; got 0.",
        ),
        (
            lambda: Predictor(nn.Linear(1, 1), adapt=["head"]),
            "`adapt` must name parameters of the module, weight, bias; got 'head'.",
        ),
        (
            lambda: Predictor(nn.Linear(1, 1), adapt=[]),
            "At least one parameter of the module must be adapted; got none. A frozen one is "
            "adapted only if `adapt` names it.",
        ),
        (
            lambda: Predictor(nn.ReLU()),
            "At least one parameter of the module must be adapted; got none.",
        ),
        (lambda: parametric(Gaussian(1), x_dim=0), "`x_dim` must be at least 1; got 0."),
        (
            lambda: parametric(Gaussian(1), signal="data", slope=Newton()),
            "`slope` must be None where `signal` is data; got Newton.",
        ),
        (
            lambda: parametric(Gaussian(1), summary_dim=-1),
            "`summary_dim` must be at least 0; got -1.",
        ),
        (
            lambda: parametric(Gaussian(1), signal="all"),
            "`signal` must be one of data, gradient, both; got 'all'.",
        ),
        (
            lambda: parametric(Gaussian(1), update="direct"),
            "`update` must be one of residual, gated, annealed; got 'direct'.",
        ),
        (
            lambda: implicit(Gaussian(1), update="direct"),
            "`update` must be one of residual, gated, annealed; got 'direct'.",
        ),
        (
            lambda: implicit(Gaussian(1), state="answers"),
            "`state` must be one of logits, latents, probabilities; got 'answers'.",
        ),
        (lambda: implicit(Gaussian(1), query_dim=0), "`query_dim` must be at least 1; got 0."),
    ],
)
def test_construction(build, message):
    with error(message):
        build()


def test_an_explicit_regime_shares_its_decoder():
    predictor, likelihood = Predictor(nn.Linear(3, 1)), Gaussian(1, scale=1.0)
    with error(
        "An explicit regime learns a decoder that all tasks share; here every parameter is adapted."
    ):
        Explicit(predictor, likelihood, rule(predictor, likelihood))


@pytest.mark.parametrize("build", [parametric, implicit])
@pytest.mark.parametrize(
    ("likelihood", "change", "message"),
    [
        (
            Gaussian(1),
            {"x": torch.full((2, 4, 3), torch.nan)},
            "`x` must be finite where `mask` is True; got NaN or infinity.",
        ),
        (
            Gaussian(1),
            {"x": torch.zeros(2)},
            "`x` must have the shape (task, n, *x_shape); got (2,).",
        ),
        (
            Gaussian(1),
            {"mask": torch.ones(2, 5, dtype=torch.bool)},
            "`mask` must have the first two axes of `x`, (2, 4); got (2, 5).",
        ),
        (
            Gaussian(1),
            {"mask": torch.ones(2, 4)},
            "`mask` must be bool, True where observed; got torch.float32.",
        ),
        (
            Gaussian(1),
            {"y": torch.full((2, 4, 1), torch.inf)},
            "`y` must be finite where `mask` is True; got NaN or infinity.",
        ),
        (
            Gaussian(1),
            {"y": torch.zeros(2, 4, 2)},
            "`y` must be floating point of the shape (2, 4, 1); "
            "got torch.float32 of the shape (2, 4, 2).",
        ),
        (
            Gaussian(1),
            {"y": None},
            "`y` must be floating point of the shape (2, 4, 1); got None.",
        ),
        (
            Categorical(3),
            {"y": torch.tensor([[0, 1, 2, 3]] * 2)},
            "`y` must lie in 0 .. 2 where `mask` is True; got 0 .. 3.",
        ),
        (
            Categorical(3),
            {"y": torch.zeros(2, 4)},
            "`y` must be int64 classes of the shape (2, 4); got torch.float32 of the shape (2, 4).",
        ),
    ],
)
def test_validation(build, likelihood, change, message):
    regime, good = build(likelihood), draw(likelihood, 2, 4)
    regime.validate(good)
    with error(message):
        regime.validate(good._replace(**change))


@given(st.data(), st.sampled_from([(), (3,), (2, 2), (0,)]), st.booleans())
def test_observed_inputs_are_finite_or_refused(data, x_shape, large):
    numbers = [0.0, 1.0, torch.inf, -torch.inf, torch.nan] + [3e38, -3e38] * large
    values = st.lists(st.sampled_from(numbers), min_size=24, max_size=24)
    size = math.prod(x_shape)
    x = torch.tensor(data.draw(values))[: 6 * size].reshape(2, 3, *x_shape)
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=6, max_size=6))).reshape(2, 3)
    batch, likelihood = Examples(x, torch.zeros(2, 3, 1), mask), Gaussian(1)
    if x[mask].isfinite().all():
        check_examples(batch, likelihood)
    else:
        with error("`x` must be finite where `mask` is True; got NaN or infinity."):
            check_examples(batch, likelihood)


@pytest.mark.parametrize("build", [parametric, implicit])
def test_inputs_of_another_size_and_absent_targets(build):
    likelihood = Gaussian(1)
    regime, batch = build(likelihood), draw(likelihood, 2, 4, x_shape=(2, 2))
    with error("`x` must have 3 numbers an input, behind (task, n); got (2, 4, 2, 2)."):
        regime.encode(batch)
    with error("Targets are needed here; got examples whose `y` is None."):
        regime.encode(draw(likelihood)._replace(y=None))
    with error("Targets are needed here; got examples whose `y` is None."):
        regime.loss(torch.zeros(3, 6, 2), draw(likelihood)._replace(y=None))


def test_the_queries_of_an_implicit_state():
    likelihood = Gaussian(1)
    regime, batch = implicit(likelihood), draw(likelihood)
    with error("An implicit state is the answer to given queries; give `query_x`."):
        regime.init(3)
    state, evidence = regime.init(3, batch.x), regime.encode(batch)
    answers = "An implicit state answers the queries that it was started with, (task, query) = "
    with error(f"{answers}(3, 6); got None."):
        regime.update(state, evidence)
    with error(f"{answers}(3, 6); got (3, 5)."):
        regime.predict(state, batch.x[:, 1:])
    with error("`query_x` must have 3 numbers an input, behind (task, n); got (3, 6, 2)."):
        regime.update(state, evidence, batch.x[..., 1:])


@pytest.mark.parametrize("num_outputs", [1, 5])
def test_a_predictor_of_another_number_of_outputs(num_outputs):
    likelihood = Gaussian(1)
    batch = draw(likelihood)
    regime = Parametric(Predictor(nn.Linear(X_DIM, num_outputs)), likelihood, GradientDescent(0.1))
    message = (
        "`outputs` must be (task, n, 2), the likelihood's `num_outputs` for each example; "
        f"got (3, 6, {num_outputs})."
    )
    state = regime.init(3)
    with error(message):
        regime.loss(regime.predict(state, batch.x), batch)
    with error(message):
        regime.update(state, regime.encode(batch))
