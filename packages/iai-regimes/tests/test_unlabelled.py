import pytest
import torch
from iai_regimes import (
    Categorical,
    Explicit,
    Gaussian,
    Implicit,
    LatentDecoder,
    LearnedRule,
    Parametric,
    Predictor,
    Unlabelled,
)
from iai_regimes.testing import check_likelihood
from regime_parts import DIM, LIKELIHOODS, X_DIM, Examples, MeanEncoder, draw, rule
from torch import nn

POINT = X_DIM - 1  # a query asks at a point and a time


def samples_and_queries(dtype=torch.float64):
    query = draw(Gaussian(2, scale=0.5), dtype=dtype)
    points = draw(Gaussian(1), dtype=dtype, seed=1).x[..., :POINT]
    return Examples(points, None, query.mask), query


def likelihood():
    return Unlabelled(Gaussian(POINT, scale=0.5))


def implicit():
    return Implicit(MeanEncoder(), likelihood(), x_dim=POINT, query_dim=X_DIM, summary_dim=4)


def explicit():
    predictor = Predictor(LatentDecoder(X_DIM, 5, POINT, hidden_dim=DIM), adapt=["latent"])
    own = rule(predictor, likelihood(), x_dim=POINT, signal="data")
    return Explicit(predictor, likelihood(), own)


def parametric():
    predictor = Predictor(nn.Linear(X_DIM, POINT))
    own = rule(predictor, likelihood(), x_dim=POINT, signal="data")
    return Parametric(predictor, likelihood(), own)


@pytest.mark.parametrize("make", LIKELIHOODS.values(), ids=LIKELIHOODS)
def test_contract_and_the_loss_of_what_is_within(make):
    within = make()
    y = draw(within).y
    check_likelihood(Unlabelled(within), y)
    outputs = torch.randn(*y.shape[:2], within.num_outputs)
    unlabelled = Unlabelled(within)
    assert torch.equal(unlabelled.negative_log(outputs, y), within.negative_log(outputs, y))
    assert unlabelled.features(y).shape == (*y.shape[:2], 0)


@pytest.mark.parametrize("make", [implicit, explicit, parametric])
def test_a_support_with_targets_is_read_without_them(make):
    samples, query = samples_and_queries()
    regime = make().double()
    for parameter in regime.parameters():
        nn.init.normal_(parameter, std=0.1)
    answers = []
    for batch in (samples, samples._replace(y=query.y)):
        state = regime.init(3, query.x)
        state = regime.update(state, regime.encode(batch), query.x)
        answers.append(regime.predict(state, query.x))
    assert torch.equal(*answers)
    assert not torch.equal(answers[0], regime.predict(regime.init(3, query.x), query.x))


@pytest.mark.parametrize("signal", ["gradient", "both"])
def test_a_rule_has_no_gradient_of_examples_without_targets(signal):
    predictor = Predictor(nn.Linear(X_DIM, 3))
    message = f"`signal` must be data where the examples have no targets; got '{signal}'."
    with pytest.raises(ValueError, match=message):
        LearnedRule(
            predictor, Unlabelled(Categorical(3)), MeanEncoder(), x_dim=X_DIM, signal=signal
        )


def test_targets_that_are_there_are_checked():
    mask = torch.ones(1, 2, dtype=torch.bool)
    Unlabelled(Categorical(3)).check(None, mask)
    with pytest.raises(ValueError, match=r"`y` must lie in 0 .. 2"):
        Unlabelled(Categorical(3)).check(torch.tensor([[0, 3]]), mask)


@pytest.mark.usefixtures("own_errors")
def test_it_holds_a_likelihood():
    with pytest.raises(
        TypeError, match=r"`likelihood` must be a Likelihood, .*; int has no check\."
    ):
        Unlabelled(7)
