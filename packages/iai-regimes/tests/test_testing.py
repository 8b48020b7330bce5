"""The contract suites find what they are there to find: each part here breaks one promise."""

import pytest
import torch
from iai_regimes import Adam, Categorical, Gaussian, GradientDescent, GradientRule, Predictor
from iai_regimes.testing import check_likelihood, check_rule
from regime_parts import X_DIM, draw
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


class Counts(Gaussian):
    """A Poisson whose output is the logarithm of the mean: finite for outputs up to 700 or 88."""

    def __init__(self):
        super().__init__(1, scale=1.0)

    def negative_log(self, outputs, y):
        return (outputs.exp() - y * outputs).sum(-1)

    def residual(self, outputs, y):
        return outputs.exp() - y


class ClampedCounts(Counts):
    """Finite, but its residual knows nothing of the clamp."""

    def negative_log(self, outputs, y):
        return super().negative_log(outputs.clamp(max=0.5), y)


class RootOfOutputs(Gaussian):
    """Finite, with a derivative that is not."""

    def negative_log(self, outputs, y):
        far = outputs.abs() > 500
        more = (outputs.abs() - 1e3).where(far, 1.0).sqrt().where(far, 0.0)
        return super().negative_log(outputs, y) + more[..., 0]


class NotThatKind(Gaussian):
    def check(self, y, mask):
        if y is None or not y[mask].isfinite().all():
            raise ValueError


class NotThatClass(Categorical):
    def check(self, y, mask):
        if y is None or not ((y >= 0) & (y < 3))[mask].all():
            raise ValueError


class CentresTargets(Gaussian):
    def negative_log(self, outputs, y):
        return super().negative_log(outputs, y.sub_(1e-3))


@pytest.mark.parametrize(
    ("likelihood", "sentence"),
    [
        (WrongSign(1, scale=1.0), "The residual is the loss's derivative by outputs."),
        (TargetsMeet(1, scale=1.0), "A target has the same loss alone and beside others."),
        (LetsAllPass(1), "An observed target that cannot be raises ValueError."),
        (Counts(), "The loss is finite at outputs of .-1,000 in torch.float64."),
        (ClampedCounts(), "The residual is the loss's derivative by outputs."),
        (RootOfOutputs(1, scale=1.0), "The loss has a finite derivative at outputs of .-1,000"),
        (NotThatKind(1), "A class in place of a real target raises ValueError."),
        (NotThatClass(3), "A real number in place of a class raises ValueError."),
        (CentresTargets(1, scale=1.0), "A likelihood leaves outputs and targets as they were."),
        (BlindToClasses(3), "Different targets have different features."),
    ],
)
def test_a_broken_likelihood_is_found(likelihood, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_likelihood(likelihood, draw(likelihood).y)


class ReadsAbsentTargets(Gaussian):
    def check(self, y, mask):
        super().check(y[:], mask)


def test_a_likelihood_that_breaks_without_targets_is_found():
    likelihood = ReadsAbsentTargets(1)
    with pytest.raises(AssertionError, match="without targets raises ValueError; got TypeError"):
        check_likelihood(likelihood, draw(likelihood).y)


def test_real_targets_without_their_axis_are_refused():
    with pytest.raises(
        AssertionError, match=r"Real targets are `task n y_dim`; got shape \(2, 3\)"
    ):
        check_likelihood(Gaussian(1), torch.zeros(2, 3))


class FailsOnWrongClasses(Categorical):
    def check(self, y, mask):
        nn.functional.one_hot(y[mask], self.num_classes)


def test_a_likelihood_that_fails_of_itself_is_found():
    sentence = "An observed target that cannot be raises ValueError; got RuntimeError"
    with pytest.raises(AssertionError, match=sentence):
        check_likelihood(FailsOnWrongClasses(3), draw(Categorical(3)).y)


def test_a_likelihood_that_looks_behind_the_mask_is_found():
    likelihood = LooksBehindTheMask(1)
    with pytest.raises(ValueError, match="must be finite"):
        check_likelihood(likelihood, draw(likelihood).y)


def check(rule):
    likelihood = Gaussian(1, scale=0.5)
    check_rule(rule, Predictor(nn.Linear(X_DIM, 1)), likelihood, draw(likelihood, 3, 5))


class Descent(GradientDescent):
    def __init__(self):
        super().__init__(0.1)


class Broken(GradientDescent):
    """Gradient descent whose bias is moved by a number for each task beside that."""

    def __init__(self):
        super().__init__(0.1)
        self.weight = nn.Parameter(torch.tensor(0.1))

    def encode(self, batch):
        return batch

    def step(self, theta, carry, evidence, objective):
        moved, carry = super().step(theta, carry, evidence, objective)
        shift = self.weight * self.shift(theta, evidence, evidence.encoded)
        return moved | {"bias": moved["bias"] + (evidence.informed * shift)[:, None]}, carry


class KnowsTheOrder(Broken):
    def shift(self, theta, evidence, batch):
        return batch.x.where(batch.mask[..., None], 0.0)[:, :1].sum((1, 2))


class TasksMeet(Broken):
    def shift(self, theta, evidence, batch):
        return batch.x.where(batch.mask[..., None], 0.0).sum()


class ReadsPadding(Broken):
    def shift(self, theta, evidence, batch):
        return batch.x.isnan().sum((1, 2))


class TasksMeetInGradients(Broken):
    def shift(self, theta, evidence, batch):
        total = theta["bias"].sum()
        return 1 + total - total.detach()


class LeaksIntoGradients(Broken):
    def step(self, theta, carry, evidence, objective):
        moved, carry = super().step(theta, carry, evidence, objective)
        x, mask = evidence.encoded.x, evidence.encoded.mask[..., None]
        read = (self.weight * x).where(mask, 0.0).sum((1, 2))
        return moved | {"bias": moved["bias"] + read[:, None]}, carry

    def shift(self, theta, evidence, batch):
        return 0.0


class HasAnIdleLayer(Descent):
    def __init__(self):
        super().__init__()
        self.idle = nn.Linear(1, 1)


class StandsStill(Descent):
    def step(self, theta, carry, evidence, objective):
        return theta, super().step(theta, carry, evidence, objective)[1]


class StepsOnNothing(Adam):
    def __init__(self):
        super().__init__(0.1)

    def step(self, theta, carry, evidence, objective):
        evidence = evidence._replace(num_observed=torch.ones_like(evidence.num_observed))
        return super().step(theta, carry, evidence, objective)


class CountsNothing(Descent):
    def step(self, theta, carry, evidence, objective):
        moved, carry = super().step(theta, carry, evidence, objective)
        return moved, carry + 1


class NeedsGradientsEnabled(Descent):
    def step(self, theta, carry, evidence, objective):
        moved, carry = super().step(theta, carry, evidence, objective)
        return (moved if torch.is_grad_enabled() else theta), carry


class CountsItsSteps(Descent):
    steps = 0

    def step(self, theta, carry, evidence, objective):
        self.steps += 1
        moved, carry = super().step(theta, carry, evidence, objective)
        return {k: w + (moved[k] - w) / (1 + self.steps) for k, w in theta.items()}, carry


class DrawsNoise(Descent):
    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def step(self, theta, carry, evidence, objective):
        moved, carry = super().step(theta, carry, evidence, objective)
        jitter = torch.randn((), generator=self.generator)
        return {k: w + (moved[k] - w) * (1 + 0.1 * jitter) for k, w in theta.items()}, carry


class TakesFiniteForObserved(Broken):
    def shift(self, theta, evidence, batch):
        return batch.x.nan_to_num().sum((1, 2))


class LosesPrecision(Descent):
    def step(self, theta, carry, evidence, objective):
        moved, carry = super().step(theta, carry, evidence, objective)
        return {name: value.float() for name, value in moved.items()}, carry


class Overwrites(Descent):
    def step(self, theta, carry, evidence, objective):
        moved, after = super().step(theta, carry, evidence, objective)
        carry.add_(1)
        return moved, after


class GrowsItsCarry(Descent):
    def step(self, theta, carry, evidence, objective):
        moved, after = super().step(theta, carry, evidence, objective)
        return moved, (after, after)


class CarriesOneNumber(Descent):
    def start(self, theta):
        return super().start(theta)[:1]


class CarriesNone(Descent):
    def start(self, theta):
        return None


class DifferentiatesByThetaItself(Descent):
    def step(self, theta, carry, evidence, objective):
        total = objective.loss(theta).sum()
        slopes = torch.autograd.grad(total, list(theta.values()), create_graph=True)
        return {name: w - s for (name, w), s in zip(theta.items(), slopes, strict=True)}, carry


class RootOfZero(GradientRule):
    def __init__(self):
        super().__init__(differentiate_gradient=True)

    def start(self, theta):
        return ()

    def move(self, theta, carry, gradient, evidence):
        length = {name: g.square().sqrt() for name, g in gradient.items()}
        return {name: w - gradient[name] / (1 + length[name]) for name, w in theta.items()}, carry


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (CarriesOneNumber, r"A carry is .* that lead with the tasks, .*; got shape \(1,\)."),
        (CarriesNone, r"A carry is .* tensors .*, \(\) to carry nothing; got None."),
        (DifferentiatesByThetaItself, "A step needs no gradients to be enabled."),
        (RootOfZero, "Gradients are finite where a task's own gradient is 0"),
        (Overwrites, "A step leaves theta and the carry as they were."),
        (GrowsItsCarry, "A step keeps the names, shapes and dtypes of theta and of the carry."),
        (LosesPrecision, "A step keeps the names, shapes and dtypes of theta and of the carry."),
        (StandsStill, "A minibatch moves theta in each of its tasks."),
        (NeedsGradientsEnabled, "A step needs no gradients to be enabled."),
        (StepsOnNothing, "A task without an observed example keeps its theta and its carry."),
        (CountsNothing, "A task without an observed example keeps its theta and its carry."),
        (KnowsTheOrder, "The order of a minibatch changes nothing."),
        (TasksMeet, "A task moves alike alone and in a batch, with and without padding"),
        (CountsItsSteps, "From the same theta, carry and minibatch a step leads to the same"),
        (DrawsNoise, "From the same theta, carry and minibatch a step leads to the same"),
        (TakesFiniteForObserved, "A task moves alike alone and in a batch, with and without"),
        (ReadsPadding, "A task moves alike alone and in a batch, with and without padding"),
        (TasksMeetInGradients, "No gradient flows from a task to another."),
        (LeaksIntoGradients, "Gradients are finite, whatever padding holds; that of rule.weight"),
        (HasAnIdleLayer, "A step gives every weight a gradient; rule.idle.weight has none."),
    ],
)
def test_a_broken_rule_is_found(kind, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check(kind())


def test_a_move_without_a_carry_is_found():
    class MovesThetaAlone(RootOfZero):
        def move(self, theta, carry, gradient, evidence):
            return theta

    with pytest.raises(TypeError, match="`move` must return theta and the carry; got dict"):
        check(MovesThetaAlone())


class ResidualOfAll(Descent):
    def residual(self, theta, carry, objective):
        residual = super().residual(theta, carry, objective)
        return {name: value + value.detach().mean(0) for name, value in residual.items()}


class ResidualThatLeaks(Descent):
    def residual(self, theta, carry, objective):
        residual = super().residual(theta, carry, objective)
        return {name: value + value.mean(0) for name, value in residual.items()}


class ConstantResidual(Descent):
    def residual(self, theta, carry, objective):
        residual = super().residual(theta, carry, objective)
        return {name: value.detach().requires_grad_() for name, value in residual.items()}


class NormAsResidual(Descent):
    def residual(self, theta, carry, objective):
        residual = super().residual(theta, carry, objective)
        return {name: value.flatten(1).norm(dim=-1) for name, value in residual.items()}


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (ResidualOfAll, "A task has the same residual alone, and without its padding."),
        (ResidualThatLeaks, "No gradient flows from a task to another."),
        (ConstantResidual, "Gradients flow through a residual to theta."),
        (NormAsResidual, "A residual has the names, shapes and dtypes of theta."),
    ],
)
def test_a_broken_residual_is_found(kind, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check(kind())
