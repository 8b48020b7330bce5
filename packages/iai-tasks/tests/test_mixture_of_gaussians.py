"""Mixtures: moments of their samples, and the field against two other ways to it."""

import attrs
import pytest
import torch
from iai_tasks import Examples, MixtureOfGaussians, TaskBatch


@pytest.fixture
def double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def asked(latent, x_t, t):
    """A batch that asks for the field of given mixtures at given points and one time."""
    x = torch.cat([x_t, torch.full_like(x_t[..., :1], t)], dim=-1)
    return TaskBatch(
        support=Examples(x=x_t[:, :0]), query=Examples(x=x, y=torch.zeros_like(x_t)), latent=latent
    )


def mixture(weights, means, covariances):
    """A latent, as the sampler says that it is laid out."""
    factors = torch.linalg.cholesky(covariances)
    return torch.cat([weights[..., None], means, factors.flatten(2)], dim=2)


def test_samples_have_the_moments_of_the_mixture(double):
    sampler = MixtureOfGaussians(2, 3)
    weights = torch.tensor([[0.7, 0.2, 0.1]])
    means = torch.tensor([[[0.0, 0.0], [20.0, 0.0], [0.0, -20.0]]])
    covariances = torch.tensor([[[2.0, 0.5], [0.5, 1]], [[0.1, 0], [0, 0.2]], [[1, 0], [0, 1]]])
    latent = mixture(weights, means, covariances[None])
    x = sampler.sample(1, num_support=40_000, num_query=0, generator=generator(), latent=latent)
    x = x.support.x[0]
    nearest = (x[:, None] - means[0]).square().sum(-1).argmin(1)
    assert torch.allclose(nearest.bincount() / len(x), weights[0], atol=0.01)
    mean = (weights[0, :, None] * means[0]).sum(0)
    centred = means[0] - mean
    spread = covariances + centred[:, :, None] * centred[:, None]
    assert torch.allclose(x.mean(0), mean, atol=0.15)
    assert torch.allclose(x.T.cov(), (weights[0, :, None, None] * spread).sum(0), rtol=0.05)


@pytest.mark.parametrize("covariance", ["isotropic", "diagonal", "full"])
def test_covariances_are_of_their_kind(covariance):
    sampler = MixtureOfGaussians(3, (2, 4), variance=0.3, covariance=covariance)
    latent = sampler.sample(500, num_support=0, num_query=0, generator=generator()).latent
    weights, means, factors = latent.split([1, 3, 9], dim=2)
    number = (weights[..., 0] > 0).sum(1)
    assert number.unique().tolist() == [2, 3, 4]
    assert torch.allclose(weights.sum(1), torch.ones(500, 1))
    assert abs(means.mean()) < 0.05 and abs(means.std() - 1) < 0.05
    matrices = factors.view(500, 4, 3, 3)
    matrices = matrices @ matrices.mT
    sizes = torch.linalg.eigvalsh(matrices)
    assert abs(sizes.mean() - 0.3) < 0.01
    off = matrices - torch.diag_embed(matrices.diagonal(dim1=-2, dim2=-1))
    assert (off.abs().max() > 0.01) == (covariance == "full")
    assert (sizes.std() > 0.1) == (covariance != "isotropic")
    assert sizes.min() > 0.05 and sizes.max() < 0.55


@pytest.mark.parametrize("covariance", ["isotropic", "full"])
def test_the_field_is_the_mean_velocity_of_the_paths_through_a_point(covariance, double):
    sampler = MixtureOfGaussians(2, (2, 3), variance=0.5, covariance=covariance)
    batch = sampler.sample(3, num_support=200_000, num_query=0, generator=generator())
    x_1, t = batch.support.x, 0.6
    x_t = x_1[:, :4] * t + 0.3
    z = (x_t[:, :, None] - t * x_1[:, None]) / (1 - t)  # the noise that would lead there
    chances = (-z.square().sum(-1) / 2).softmax(-1)
    expected = (chances[..., None] * (x_1[:, None] - z)).sum(2)
    found = sampler.oracle(asked(batch.latent, x_t, t))
    assert torch.allclose(found, expected, atol=0.04)


def test_the_field_carries_noise_to_a_gaussian_as_the_closed_form_says(double):
    sampler = MixtureOfGaussians(2, 1, variance=0.09)
    latent = sampler.sample(2, num_support=0, num_query=0, generator=generator()).latent
    start = torch.randn(2, 5, 2, generator=generator(1))
    x, steps = start, 400
    for step in range(steps):  # the midpoint rule
        t, half = step / steps, 0.5 / steps
        middle = x + half * sampler.oracle(asked(latent, x, t))
        x = x + 2 * half * sampler.oracle(asked(latent, middle, t + half))
    assert torch.allclose(x, latent[..., 1:3] + 0.3 * start, atol=1e-4)


@pytest.mark.parametrize("t", [0.0, 1.0])
def test_the_field_is_finite_at_both_ends(t):
    sampler = MixtureOfGaussians(2, (1, 4), covariance="full")
    latent = sampler.sample(4, num_support=0, num_query=0, generator=generator()).latent
    x_t = 100 * torch.randn(4, 9, 2, generator=generator())
    assert sampler.oracle(asked(latent, x_t, t)).isfinite().all()


def test_no_prediction_of_the_velocity_is_better_than_the_field():
    sampler = MixtureOfGaussians()
    batch = sampler.sample(20, num_support=0, num_query=2000, generator=generator())
    error, scale = sampler.oracle(batch) - batch.query.y, 1.05
    best = error.square().mean()
    for other in (scale * error + 0.05 * batch.query.y, error + 0.1, error - 0.1):
        assert best < other.square().mean()


def test_components_of_weight_0_do_not_count(double):
    sampler = MixtureOfGaussians(2, 4)
    one, many = torch.eye(2).expand(1, 2, 2, 2), 100 * torch.eye(2).expand(1, 2, 2, 2)
    weights, means = torch.tensor([[0.25, 0.75, 0, 0]]), torch.tensor([[0.0, 0, 9, 9]])
    latent = mixture(weights, means[..., None].expand(1, 4, 2), torch.cat([one, many], dim=1))
    x_t = torch.randn(1, 3, 2, generator=generator())
    t = 0.5  # of one standard normal: (t - (1 - t)) / ((1 - t)^2 + t^2) x
    assert sampler.oracle(asked(latent, x_t, t)).abs().max() < 1e-12
    batch = sampler.sample(1, num_support=999, num_query=0, generator=generator(), latent=latent)
    assert batch.support.x.abs().max() < 5


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: MixtureOfGaussians(0), "`dim` must be at least 1; got 0"),
        (lambda: MixtureOfGaussians(2, (3, 2)), r"the smaller one first; got \(3, 2\)"),
        (lambda: MixtureOfGaussians(2, (1, 2, 3)), r"the smaller one first; got \(1, 2, 3\)"),
        (lambda: MixtureOfGaussians(2, 0), "`num_components` must be at least 1"),
        (lambda: MixtureOfGaussians(variance=0.0), "`variance` must be above 0; got 0.0"),
        (lambda: MixtureOfGaussians(covariance="round"), "`covariance` must be one of"),
    ],
)
def test_what_cannot_be(untyped, make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_an_oracle_must_know_the_mixture():
    sampler = MixtureOfGaussians()
    batch = sampler.sample(1, num_support=1, num_query=1, generator=generator())
    with pytest.raises(ValueError, match="`batch` must have its `latent`, the mixtures; got None"):
        sampler.oracle(attrs.evolve(batch, latent=None))
