"""Flow matching asks for a field, and its targets tell of it."""

import attrs
import pytest
import torch
from iai_tasks import Examples, MixtureOfGaussians, straight_path


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_path_is_straight_from_noise_and_keeps_the_mask():
    samples = Examples(x=torch.full((20, 500, 3), 7.0), mask=torch.arange(500).expand(20, -1) < 400)
    path = straight_path(samples, generator())
    x_t, t = path.x.split([3, 1], dim=-1)
    noise = (x_t - t * path.y)[path.mask]
    assert torch.equal(path.mask, samples.mask)
    assert torch.allclose((x_t + (1 - t) * path.y)[path.mask], samples.x[path.mask], atol=1e-5)
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02
    assert abs(t.mean() - 0.5) < 0.01 and t.min() >= 0 and t.max() < 1


def test_a_path_leads_to_rows():
    with pytest.raises(ValueError, match=r"shape \(task, n, dim\); got \(1, 2, 3, 3\)"):
        straight_path(Examples(x=torch.zeros(1, 2, 3, 3)), generator())


@pytest.mark.parametrize("num_samples", [1, 2, 8])
def test_targets_of_few_samples_average_to_the_field(num_samples):
    sampler = MixtureOfGaussians(2, 2)
    latent = sampler.sample(1, num_support=0, num_query=0, generator=generator()).latent
    latent = latent.expand(200_000 // num_samples, -1, -1)
    batch = sampler.sample(
        len(latent), num_support=0, num_query=num_samples, generator=generator(1), latent=latent
    )
    off = batch.query.y - sampler.oracle(batch)
    x_t, t = batch.query.x.split([2, 1], dim=-1)
    early = (t < 0.7).to(t)  # later, a wrong target would vary without bound and pass
    for feature in (early, t, x_t[..., :1], x_t[..., :1] * t, (x_t[..., 1:] * 3).sin() * t):
        apart = (off * feature * early).mean(1)  # of one draw each, which are independent
        assert (apart.mean(0).abs() < 4 * apart.std(0) / len(apart) ** 0.5).all()


def test_the_more_samples_the_less_a_target_varies():
    sampler = MixtureOfGaussians()
    spread = []
    for num_samples in (1, 8, 64):
        batch = sampler.sample(
            2048 // num_samples, num_support=0, num_query=num_samples, generator=generator()
        )
        spread.append((batch.query.y - sampler.oracle(batch)).square().mean().item())
    assert spread[0] > 3 * spread[1] > 9 * spread[2]


def test_targets_are_means_over_the_samples_as_likely_as_they_are():
    samples = Examples(x=torch.randn(3, 6, 2, generator=generator(), dtype=torch.float64))
    path = straight_path(samples, generator(1))
    for x, y, x_1 in zip(path.x, path.y, samples.x, strict=True):
        for (*x_t, t), target in zip(x, y, strict=True):
            law = torch.distributions.Normal(t * x_1, (1 - t).expand(6, 2))
            posterior = law.log_prob(torch.stack(x_t)).sum(-1).softmax(0)
            velocity = (x_1 - torch.stack(x_t)) / (1 - t)
            torch.testing.assert_close(target, posterior @ velocity)


def test_what_is_padded_counts_for_nothing():
    samples = Examples(
        x=torch.randn(1, 6, 2, generator=generator()), mask=torch.arange(6)[None] < 4
    )
    path = straight_path(samples, generator(1))
    for anything in (9.0, torch.inf, torch.nan):
        other = attrs.evolve(samples, x=samples.x.where(samples.mask[..., None], anything))
        assert torch.equal(straight_path(other, generator(1)).y[:, :4], path.y[:, :4])
    none = attrs.evolve(samples, mask=torch.zeros(1, 6, dtype=torch.bool))
    assert straight_path(none, generator()).y.isfinite().all()


@pytest.mark.parametrize(("num_tasks", "num_samples"), [(0, 3), (2, 0)])
def test_of_no_samples_there_are_no_paths(num_tasks, num_samples):
    path = straight_path(Examples(x=torch.zeros(num_tasks, num_samples, 2)), generator())
    assert path.x.shape == (num_tasks, num_samples, 3)
    assert path.y.shape == (num_tasks, num_samples, 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_but_rounded(dtype):
    samples = Examples(x=torch.randn(2, 6, 2, generator=generator()).to(dtype))
    path = straight_path(samples, generator(1))
    wide = straight_path(samples.to(dtype=torch.float32), generator(1))
    assert path.x.dtype == path.y.dtype == dtype
    assert torch.equal(path.y, wide.y.to(dtype))


def test_autocast_does_not_round_what_is_divided_by_little():
    samples = Examples(x=torch.randn(2, 64, 2, generator=generator()))
    path = straight_path(samples, generator(1))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(straight_path(samples, generator(1)).y, path.y)
