"""Linear regression: its stated distributions, and the oracle against other closed forms."""

import math
import re

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_tasks import Examples, LinearRegression


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(sampler, num_tasks=4, num_support=6, num_query=5, seed=0, dtype=torch.float64):
    latent = torch.randn(num_tasks, sampler.dim + 1, generator=generator(seed), dtype=dtype)
    counts = {"num_support": num_support, "num_query": num_query}
    return sampler.sample(num_tasks, **counts, generator=generator(seed), latent=latent)


def test_inputs_weights_and_noise_have_the_stated_moments():
    sampler = LinearRegression(3, noise_variance=0.25)
    batch = sampler.sample(4000, num_support=25, num_query=25, generator=generator())
    assert batch.latent.shape == (4000, 4)
    for value in (batch.latent, batch.support.x, batch.query.x):
        assert abs(value.mean().item()) < 0.03
        assert abs(value.var().item() - 1) < 0.03
    x1 = torch.cat((batch.support.x, torch.ones(4000, 25, 1)), dim=-1)
    noise = batch.support.y - x1 @ batch.latent[..., None]
    assert abs(noise.mean().item()) < 0.01
    assert abs(noise.var().item() - 0.25) < 0.01


def test_wide_and_far_queries():
    wide = LinearRegression(3, query_shift="wide")
    x = wide.sample(500, num_support=50, num_query=50, generator=generator())
    assert abs(x.query.x.std().item() - 3) < 0.03
    assert abs(x.support.x.std().item() - 1) < 0.01

    far = LinearRegression(50, query_shift="far")
    x = far.sample(100, num_support=50, num_query=50, generator=generator())
    # The square of 0.1 z + 3 u has mean 0.01 dim + 9, and u points another way in each query.
    assert abs(x.query.x.square().sum(dim=-1).mean().item() - 9.5) < 0.05
    assert x.query.x.mean(dim=1).norm(dim=-1).max() < 1.5
    assert abs(x.support.x.std().item() - 1) < 0.01


def test_a_query_without_noise_is_its_mean():
    batch = draw(LinearRegression(2, noisy_query=False))
    w = batch.latent[:, None]
    mean = (batch.query.x * w[..., :-1]).sum(-1, keepdim=True) + w[..., -1:]
    torch.testing.assert_close(batch.query.y, mean)


@given(
    dim=st.integers(1, 5),
    n=st.integers(0, 9),
    noise=st.sampled_from([0.01, 0.25, 4.0]),
    seed=st.integers(0, 999),
)
def test_the_oracle_is_the_mean_of_the_gaussian_posterior(dim, n, noise, seed):
    """Computed here in function space: k(x, X) (k(X, X) + noise I)^-1 y with k(a, b) = a.b + 1."""
    sampler = LinearRegression(dim, noise_variance=noise)
    batch = draw(sampler, num_support=n, seed=seed)
    x, query = batch.support.x, batch.query.x
    gram = x @ x.mT + 1 + noise * torch.eye(n, dtype=x.dtype)
    expected = (query @ x.mT + 1) @ torch.linalg.solve(gram, batch.support.y)
    torch.testing.assert_close(sampler.oracle(batch), expected, rtol=1e-9, atol=1e-9)


@given(n=st.integers(1, 9), k=st.integers(0, 9), seed=st.integers(0, 999))
def test_a_prefix_is_a_mask_and_masked_examples_are_ignored(n, k, seed):
    k = min(n, k)
    sampler = LinearRegression(3)
    batch = draw(sampler, num_support=n, seed=seed)
    support = batch.support
    observed = (torch.arange(n) < k).expand(4, n)
    hidden = Examples(
        x=support.x.masked_fill(~observed[..., None], torch.nan),
        y=support.y.masked_fill(~observed[..., None], torch.inf),
        mask=observed,
    )
    prefix = sampler.oracle(attrs.evolve(batch, support=support[:, :k]))
    masked = sampler.oracle(attrs.evolve(batch, support=hidden))
    torch.testing.assert_close(prefix, masked, rtol=1e-12, atol=1e-12)
    if k == 0:
        assert not prefix.any()


@given(seed=st.integers(0, 999))
def test_a_batch_of_tasks_is_its_tasks_one_by_one(seed):
    sampler = LinearRegression(3)
    batch = draw(sampler, seed=seed)
    one_by_one = [sampler.oracle(batch[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(sampler.oracle(batch), torch.cat(one_by_one))


@pytest.mark.parametrize("n", [0, 1, 3, 4, 30])
def test_without_noise_the_oracle_is_the_shortest_fit(n):
    sampler = LinearRegression(3, noise_variance=0.0)
    support = draw(sampler, num_support=n).support
    mean = sampler.posterior_mean(support)
    for task in range(4):
        rows = np.hstack([support.x[task].numpy(), np.ones((n, 1))])
        shortest = np.linalg.pinv(rows) @ support.y[task].numpy()
        np.testing.assert_allclose(mean[task].numpy(), shortest[:, 0], rtol=1e-7, atol=1e-7)


def test_float32_data_of_any_scale_keep_the_posterior_accurate():
    """10,000 examples, inputs around 1,000: the normal equations square the condition number."""
    sampler = LinearRegression(2, noise_variance=0.25)
    x = (1000 + torch.randn(1, 10_000, 2, generator=generator())).float()
    w = torch.tensor([1.0, -1.0])
    y = (x @ w)[..., None] + 0.5 * torch.randn(1, 10_000, 1, generator=generator(1))
    mean = sampler.posterior_mean(Examples(x=x, y=y))
    rows = np.hstack([x[0].double().numpy(), np.ones((10_000, 1))])
    rows, targets = np.vstack([rows, 0.5 * np.eye(3)]), np.vstack([y[0].numpy(), np.zeros((3, 1))])
    expected = np.linalg.lstsq(rows, targets)[0][:, 0]
    np.testing.assert_allclose(mean[0].numpy(), expected, rtol=1e-5)


def test_no_weights_beat_the_oracle_on_average_and_the_excess_is_the_posterior_variance():
    sampler = LinearRegression(3, noise_variance=0.25, noisy_query=False)
    batch = sampler.sample(4000, num_support=8, num_query=8, generator=generator())
    rows = torch.cat((batch.support.x, torch.ones(4000, 8, 1)), dim=-1).double()
    covariance = torch.linalg.inv(rows.mT @ rows / 0.25 + torch.eye(4))
    asked = torch.cat((batch.query.x, torch.ones(4000, 8, 1)), dim=-1).double()
    promised = ((asked @ covariance) * asked).sum(dim=-1).mean().item()

    def error(other):
        return (other.oracle(batch) - batch.query.y).square().mean().item()

    best = error(sampler)
    assert math.isclose(best, promised, rel_tol=0.05)
    assert best < error(LinearRegression(3, noise_variance=0.05))
    assert best < error(LinearRegression(3, noise_variance=1.0))


def test_gradients_flow_through_the_posterior():
    sampler = LinearRegression(2)
    support = draw(sampler, num_tasks=1, num_support=4).support

    def posterior(x, y):
        return sampler.posterior_mean(Examples(x=x, y=y))

    inputs = support.x.requires_grad_(), support.y.requires_grad_()
    assert torch.autograd.gradcheck(posterior, inputs)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"dim": 0}, "`dim` must be at least 1; got 0."),
        ({"dim": 2, "noise_variance": -1.0}, "`noise_variance` must be at least 0; got -1.0."),
        (
            {"dim": 2, "noise_variance": math.nan},
            "`noise_variance` must be at least 0; got nan.",
        ),
        (
            {"dim": 2, "query_shift": "near"},
            "`query_shift` must be one of 'none', 'wide', 'far'; got 'near'.",
        ),
    ],
)
def test_options_out_of_range(options, text):
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        LinearRegression(**options)


def test_an_oracle_needs_targets():
    with pytest.raises(ValueError, match="`support` must have `y`"):
        LinearRegression(2).posterior_mean(Examples(x=torch.zeros(1, 3, 2)))
