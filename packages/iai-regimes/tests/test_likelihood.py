import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_regimes import Categorical, Gaussian
from iai_regimes.testing import check_likelihood
from regime_parts import LIKELIHOODS, draw
from torch.distributions import Normal


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_role(name):
    likelihood = LIKELIHOODS[name]()
    check_likelihood(likelihood, draw(likelihood).y)


@pytest.mark.parametrize("scale", [None, 0.3])
def test_gaussian_is_torchs(scale):
    likelihood = Gaussian(2, scale=scale)
    outputs = torch.randn(3, 4, likelihood.num_outputs, dtype=torch.float64)
    y = torch.randn(3, 4, 2, dtype=torch.float64)
    mean, scale = likelihood.mean_and_scale(outputs)
    expected = -Normal(mean, scale).log_prob(y).sum(-1)
    torch.testing.assert_close(likelihood.negative_log(outputs, y), expected)


def test_categorical_is_torchs():
    outputs, y = torch.randn(3, 4, 5), torch.randint(0, 5, (3, 4))
    expected = torch.nn.functional.cross_entropy(outputs.mT, y, reduction="none")
    torch.testing.assert_close(Categorical(5).negative_log(outputs, y), expected)


def test_a_predicted_scale_stays_above_the_least_one():
    likelihood = Gaussian(1, min_scale=0.25)
    outputs = torch.tensor([[[0.0, -1e4]]], requires_grad=True)
    assert likelihood.mean_and_scale(outputs)[1].item() == 0.25
    likelihood.negative_log(outputs, torch.ones(1, 1, 1)).sum().backward()
    assert outputs.grad.isfinite().all()


@given(seed=st.integers(0, 99), size=st.sampled_from([1.0, 30.0]))
def test_probabilities_minus_one_hot_sum_to_zero(seed, size):
    generator = torch.Generator().manual_seed(seed)
    outputs = size * torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 4, (2, 3), generator=generator)
    residual = Categorical(4).residual(outputs, y)
    torch.testing.assert_close(residual.sum(-1), torch.zeros(2, 3, dtype=torch.float64))
    assert (residual.gather(-1, y[..., None]) <= 0).all()
