"""The contract suites find what they are there to find: each part here breaks one promise."""

import pytest
import torch
from iai_regimes import (
    Adam,
    Categorical,
    Gaussian,
    GradientDescent,
    Implicit,
    Parametric,
    Predictor,
)
from iai_regimes.testing import check_likelihood, check_regime
from regime_parts import X_DIM, MeanEncoder, draw
from torch import nn

pytestmark = pytest.mark.usefixtures("own_errors")


class WrongSign(Gaussian):
    def residual(self, outputs, y):
        return -super().residual(outputs, y)


class TargetsMeet(Gaussian):
    def negative_log(self, outputs, y):
        return super().negative_log(outputs, y) + y.mean((1, 2), keepdim=True)[..., 0]


class LetsAllPass(Gaussian):
    def check(self, y, mask):
        pass


class LooksBehindTheMask(Gaussian):
    def check(self, y, mask):
        super().check(y, torch.ones_like(mask))


class BlindToClasses(Categorical):
    def features(self, y):
        return torch.ones_like(super().features(y))


@pytest.mark.parametrize(
    ("likelihood", "sentence"),
    [
        (WrongSign(1, scale=1.0), "The residual is the loss's derivative by outputs."),
        (TargetsMeet(1, scale=1.0), "A target has the same loss alone and beside others."),
        (LetsAllPass(1), "An observed target that cannot be raises ValueError."),
        (BlindToClasses(3), "Different targets have different features."),
    ],
)
def test_a_broken_likelihood_is_found(likelihood, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_likelihood(likelihood, draw(likelihood).y)


def test_a_likelihood_that_looks_behind_the_mask_is_found():
    likelihood = LooksBehindTheMask(1)
    with pytest.raises(ValueError, match="must be finite"):
        check_likelihood(likelihood, draw(likelihood).y)


class KnowsTheOrder(Implicit):
    def encode(self, batch):
        places = torch.arange(1.0, batch.x.shape[1] + 1)[:, None]
        return super().encode(type(batch)(batch.x * places, batch.y, batch.mask))


class TasksMeet(Implicit):
    def encode(self, batch):
        evidence = super().encode(batch)
        return evidence._replace(statistic=evidence.statistic.flip(0))


class QueriesMeet(Implicit):
    def predict(self, state, query_x):
        return super().predict(state, query_x) - state.answer.mean(1, keepdim=True)


class CountsTwice(Implicit):
    def update(self, state, evidence, query_x=None, fresh=True):
        return super().update(state, evidence, query_x, True)


class StandsStill(Implicit):
    def update(self, state, evidence, query_x=None, fresh=True):
        moved = super().update(state, evidence, query_x, fresh)
        return moved._replace(answer=state.answer)


class ReadsPadding(Implicit):
    def encode(self, batch):
        every = torch.ones_like(batch.mask)
        evidence = super().encode(type(batch)(batch.x, batch.y, every))
        return evidence._replace(num_observed=batch.mask.sum(1).to(batch.x.dtype))


class CountsPadding(Implicit):
    def encode(self, batch):
        evidence = super().encode(batch)
        return evidence._replace(num_observed=torch.ones_like(batch.mask).sum(1).to(batch.x.dtype))


class LeaksIntoGradients(Implicit):
    def loss(self, outputs, query):
        losses = self.likelihood.negative_log(outputs, query.y).masked_fill(~query.mask, 0.0)
        return losses.sum(1) / query.mask.sum(1).clamp(min=1)


class LosesTheMaskOfQueries(Implicit):
    def loss(self, outputs, query):
        return super().loss(outputs, type(query)(query.x, query.y.nan_to_num(), query.mask | True))


class HasAnIdleLayer(Implicit):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.idle = nn.Linear(1, 1)


class ValidatesNothing(Implicit):
    def validate(self, batch):
        pass


class Overwrites(Implicit):
    def update(self, state, evidence, query_x=None, fresh=True):
        moved = super().update(state, evidence, query_x, fresh)
        state.seen.add_(1)
        return moved


class StartsWithoutQueries(Implicit):
    def init(self, num_tasks, query_x=None):
        return super().init(num_tasks, torch.zeros(num_tasks, 1, 1) if query_x is None else query_x)


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (KnowsTheOrder, "The order of a minibatch changes no answer."),
        (TasksMeet, "A task has the same answers alone and in a batch."),
        (QueriesMeet, "A subset of the queries has the same answers."),
        (CountsTwice, "Examples read again add nothing to `seen`."),
        (StandsStill, "A minibatch moves the answers of its task."),
        (ReadsPadding, "A masked example, NaN included, changes no answer."),
        (CountsPadding, "A minibatch without an observed example changes nothing."),
        (LeaksIntoGradients, "Gradients are finite, whatever padding holds; that of"),
        (LosesTheMaskOfQueries, "A masked query changes no loss."),
        (HasAnIdleLayer, "One step gives every parameter a gradient; idle.weight has none."),
        (ValidatesNothing, "An observed input that is NaN raises ValueError."),
        (Overwrites, "An update leaves the state that it is given as it was."),
        (StartsWithoutQueries, "A start without its queries raises ValueError."),
    ],
)
def test_a_broken_regime_is_found(kind, sentence):
    likelihood = Gaussian(1, scale=0.5)
    regime = kind(MeanEncoder(), likelihood, x_dim=X_DIM, summary_dim=2)
    with pytest.raises(AssertionError, match=sentence):
        check_regime(regime, draw(likelihood, 2, 4), draw(likelihood, 2, 3, seed=1))


class StepsOnNothing(Adam):
    def step(self, theta, carry, evidence, objective, seen, fresh):
        return super().step(theta, carry, torch.ones_like(evidence), objective, seen, fresh)


class NeedsGradientsEnabled(Adam):
    def step(self, theta, carry, evidence, objective, seen, fresh):
        moved, carry = super().step(theta, carry, evidence, objective, seen, fresh)
        return (moved if torch.is_grad_enabled() else theta), carry


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        (StepsOnNothing, "A minibatch without an observed example changes nothing."),
        (NeedsGradientsEnabled, "Adapting needs no gradients to be enabled."),
    ],
)
def test_a_broken_rule_is_found(rule, sentence):
    likelihood = Gaussian(1, scale=0.5)
    regime = Parametric(Predictor(nn.Linear(X_DIM, 1)), likelihood, rule(0.1))
    with pytest.raises(AssertionError, match=sentence):
        check_regime(regime, draw(likelihood, 2, 4), draw(likelihood, 2, 3, seed=1))


class ResidualOfAll(GradientDescent):
    def residual(self, theta, carry, objective):
        return super().residual(theta, carry, objective).mean(0, keepdim=True).expand_as(theta)


class ConstantResidual(GradientDescent):
    def residual(self, theta, carry, objective):
        return super().residual(theta, carry, objective).detach().requires_grad_()


class NormAsResidual(GradientDescent):
    def residual(self, theta, carry, objective):
        return super().residual(theta, carry, objective).norm(dim=-1)


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        (ResidualOfAll, "A task has the same residual alone, and without its padding."),
        (ConstantResidual, "Gradients flow through a residual to what is adapted."),
        (NormAsResidual, "A residual has the shape of what is adapted."),
    ],
)
def test_a_broken_residual_is_found(rule, sentence):
    likelihood = Gaussian(1, scale=0.5)
    regime = Parametric(Predictor(nn.Linear(X_DIM, 1)), likelihood, rule(0.1))
    with pytest.raises(AssertionError, match=sentence):
        check_regime(regime, draw(likelihood, 2, 4), draw(likelihood, 2, 3, seed=1))
