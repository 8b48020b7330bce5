import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_regimes import Explicit, Gaussian, Gradient, LatentDecoder, Newton, Parametric, Predictor
from iai_regimes.ravel import ravel
from iai_regimes.testing import check_rule
from regime_parts import X_DIM, Examples, draw, paper, parametric, read, rule
from torch import nn
from torch.utils._pytree import tree_leaves


def randomised(module, std=0.3):
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=std)
    return module.double()


def fixed(regime, correction, *rates):
    """The regime whose rule's correction and rates are constants."""
    with torch.no_grad():
        regime.rule.head.bias[: regime.rule.tokens.token_dim] = correction
        regime.rule.rates.copy_(torch.tensor(rates)[:, None].expand_as(regime.rule.rates))
    return regime.double()


def vector(state):
    return ravel(state.theta)


@pytest.mark.parametrize("options", [{"signal": "data"}, {"slope": Gradient()}])
def test_at_first_nothing_moves_without_curvature(options):
    likelihood = Gaussian(1, scale=0.5)
    regime, batch = parametric(likelihood, **options), draw(likelihood)
    state = read(regime, batch.x, batch)
    assert torch.equal(vector(state), vector(regime.init(3)))


def test_by_default_a_gradient_is_read_as_four_products_of_newton_and_data_without_a_slope():
    slopes = [parametric(Gaussian(1), signal=signal).rule.slope for signal in ("both", "gradient")]
    assert all(isinstance(slope, Newton) and slope.num_products == 4 for slope in slopes)
    assert parametric(Gaussian(1), signal="data").rule.slope is None


@pytest.mark.parametrize("signal", ["data", "gradient", "both"])
def test_the_papers_state_is_theta_alone(signal):
    likelihood = Gaussian(2, scale=0.5)
    regime = randomised(paper(likelihood, signal))
    batch = draw(likelihood, dtype=torch.float64)
    start = regime.init(3)
    assert not any(leaf.numel() for leaf in tree_leaves(start.carry))
    evidence = regime.encode(batch)
    one, other = (
        regime.update(start._replace(seen=torch.full_like(start.seen, seen)), evidence)
        for seen in (0.0, 100.0)
    )
    assert torch.equal(vector(one), vector(other))
    assert not torch.equal(vector(one), vector(start))


@given(sizes=st.lists(st.integers(0, 4), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_the_summary_is_the_mean_over_all_examples_however_they_are_cut(sizes, seed):
    likelihood = Gaussian(1, scale=0.5)
    regime = randomised(parametric(likelihood))
    whole = draw(likelihood, 2, max(1, sum(sizes)), dtype=torch.float64, seed=seed)
    cuts = [sum(sizes[:i]) for i in range(1, len(sizes))]
    pieces = zip(*(torch.tensor_split(field, cuts, dim=1) for field in whole), strict=True)
    batches = [Examples(*piece) for piece in pieces]
    state = read(regime, whole.x, *batches)
    torch.testing.assert_close(state.carry.summary, read(regime, whole.x, whole).carry.summary)

    again = regime.update(state, regime.encode(whole), fresh=False)
    assert torch.equal(again.carry.summary, state.carry.summary)
    assert torch.equal(again.seen, state.seen)


def test_constant_rates_are_gradient_descent_and_damped_newton():
    likelihood = Gaussian(1, scale=1.0)
    regime = fixed(parametric(likelihood, update="residual"), 0.0, 0.1, 0.5)
    batch = draw(likelihood, dtype=torch.float64)
    state = read(regime, batch.x, batch)
    weight = 1 / (1 + 6)  # nothing seen, a prior worth one example, six in the minibatch
    for task in range(3):
        x = torch.cat([batch.x[task], torch.ones(6, 1, dtype=torch.float64)], dim=1)
        hessian = x.mT @ x / 6
        theta = vector(regime.init(1))[0]
        gradient = hessian @ theta - x.mT @ batch.y[task, :, 0] / 6
        damping = weight * hessian.diagonal().mean() * torch.eye(4, dtype=torch.float64)
        newton = torch.linalg.solve((1 - weight) * hessian + damping, gradient) * 6 / 7
        expected = theta - 0.1 * gradient - 0.5 * newton
        torch.testing.assert_close(vector(state)[task], expected)


def test_annealing_shrinks_a_gradient_step_once_and_a_correction_twice():
    likelihood = Gaussian(1, scale=1.0)
    batch = draw(likelihood, dtype=torch.float64)

    def moved(seen, correction=0.0, rate=0.0, signal="both"):
        torch.manual_seed(0)
        slope = None if signal == "data" else Gradient()
        regime = parametric(likelihood, signal=signal, slope=slope)
        with torch.no_grad():
            regime.rule.head.bias[: regime.rule.tokens.token_dim] = correction
            if slope:
                regime.rule.rates.fill_(rate)
        regime = regime.double()
        start = regime.init(3)._replace(seen=torch.full((3,), seen, dtype=torch.float64))
        return vector(regime.update(start, regime.encode(batch))) - vector(start)

    at_first, later = (moved(seen, rate=0.1) for seen in (0.0, 18.0))  # a gain of 6 / 24
    torch.testing.assert_close(later, at_first / 4)
    at_first, later = (moved(seen, correction=0.1) for seen in (0.0, 18.0))
    torch.testing.assert_close(later, at_first / 16)
    at_first, later = (moved(seen, correction=0.1, signal="data") for seen in (0.0, 18.0))
    torch.testing.assert_close(later, at_first / 4)


@pytest.mark.parametrize("second_order", [True, False])
def test_unrolled_constant_rates_are_maml_through_a_norm_that_vmap_must_get_right(second_order):
    likelihood = Gaussian(1, scale=1.0)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(X_DIM, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 1))
    predictor = Predictor(module)
    learned = rule(
        predictor,
        likelihood,
        signal="gradient",
        update="residual",
        slope=Gradient(differentiate=second_order),
    )
    regime = fixed(Parametric(predictor, likelihood, learned), 0.0, 0.3)
    support = draw(likelihood, dtype=torch.float64)
    query = draw(likelihood, dtype=torch.float64, seed=1)
    losses = regime.loss(regime.predict(read(regime, support.x, support, support), query.x), query)
    actual = torch.autograd.grad(losses.sum(), list(module.parameters()))

    names = [name for name, _ in module.named_parameters()]

    def mean_loss(parameters, examples, task):
        by_name = dict(zip(names, parameters, strict=True))
        outputs = torch.func.functional_call(module, by_name, (examples.x[task],))
        return likelihood.negative_log(outputs[None], examples.y[task][None]).mean()

    total = 0.0
    for task in range(3):
        parameters = list(module.parameters())
        for _ in range(2):
            gradients = torch.autograd.grad(
                mean_loss(parameters, support, task), parameters, create_graph=second_order
            )
            parameters = [p - 0.3 * g for p, g in zip(parameters, gradients, strict=True)]
        total = total + mean_loss(parameters, query, task)
    torch.testing.assert_close(losses.sum(), total)
    for one, other in zip(
        actual, torch.autograd.grad(total, list(module.parameters())), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_explicit_is_parametric_with_the_latent_adapted():
    likelihood = Gaussian(1, scale=0.5)
    predictor = Predictor(LatentDecoder(X_DIM, 5, 1, hidden_dim=4), adapt=["latent"])
    learned = rule(predictor, likelihood)
    explicit = randomised(Explicit(predictor, likelihood, learned))
    parametric = Parametric(predictor, likelihood, learned)
    batch = draw(likelihood, dtype=torch.float64)
    one, other = (read(regime, batch.x, batch, batch) for regime in (explicit, parametric))
    assert torch.equal(vector(one), vector(other)) and vector(one).shape == (3, 5)
    assert torch.equal(explicit.predict(one, batch.x), parametric.predict(other, batch.x))


class LearnedNoise(nn.Module):
    """A likelihood with a parameter and a buffer of its own."""

    num_outputs = num_features = 1

    def __init__(self):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(1))
        self.register_buffer("unit", torch.ones(1))

    def features(self, y):
        return y / self.unit * self.log_scale.exp()

    def negative_log(self, outputs, y):
        return ((outputs - y).square() / self.log_scale.exp() + self.log_scale)[..., 0]

    def residual(self, outputs, y):
        return 2 * (outputs - y) / self.log_scale.exp()

    def check(self, y, mask):
        if y is None or not y[mask].isfinite().all():
            raise ValueError("`y` must be finite.")


def test_a_likelihood_with_parameters_is_registered_once_and_moves_and_copies():
    likelihood = LearnedNoise()
    regime = parametric(likelihood)
    names = [name for name in regime.state_dict() if "likelihood" in name or "unit" in name]
    assert names == ["likelihood.log_scale", "likelihood.unit"]
    batch = draw(Gaussian(1), dtype=torch.float64)
    read(regime.double(), batch.x, batch)  # the rule reads in the new dtype as well

    twin = copy.deepcopy(regime)
    expected = read(regime, batch.x, batch).carry.summary
    nn.init.ones_(regime.likelihood.log_scale)
    assert torch.equal(read(twin, batch.x, batch).carry.summary, expected)
    assert twin.rule._likelihood[0] is twin.likelihood
    check_rule(regime.rule, regime.predictor, regime.likelihood, batch)
