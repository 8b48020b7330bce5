"""The five packages together on a CUDA device give the same numbers as on the CPU."""

import copy
import math

import attrs
import pytest
import torch
from iai_iterate import Iterated, Pool, unrolled
from iai_regimes import Parametric, flow
from iai_tasks import Examples, MixtureOfGaussians, ProjectedClassification
from iai_tasks.testing import check_sampler
from iai_train import FitConfig, SamplerSource, fit, maximum_mean_discrepancy, wasserstein

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device; there is none", allow_module_level=True)

pytestmark = pytest.mark.gpu


def draw(sampler, device):
    generator = torch.Generator(device).manual_seed(0)
    return sampler.sample(8, num_support=16, num_query=8, generator=generator)


def losses_and_gradients(learner, tasks):
    losses, _, _ = learner(tasks)
    named = dict(learner.named_parameters())
    gradients = torch.autograd.grad(losses.mean(), list(named.values()), allow_unused=True)
    return losses, dict(zip(named, gradients, strict=True))


def test_losses_and_gradients_are_those_of_the_cpu(moving_regime, fitting_sampler):
    learner = Iterated(moving_regime, steps=3, minibatch=5, gradient=unrolled).double()
    tasks = draw(fitting_sampler, "cpu").to(dtype=torch.float64)
    expected = losses_and_gradients(learner, tasks)
    actual = losses_and_gradients(copy.deepcopy(learner).cuda(), tasks.to(device="cuda"))
    assert actual[0].is_cuda
    torch.testing.assert_close(actual, expected, rtol=1e-7, atol=1e-9, check_device=False)


def test_predictions_are_those_of_the_cpu_and_go_back_to_it(moving_regime, fitting_sampler):
    learner = Iterated(moving_regime, steps=3, minibatch=5)
    tasks = draw(fitting_sampler, "cpu")
    expected = learner.adapt(tasks.support).predict(tasks.query.x)
    on_cuda = tasks.to(device="cuda")
    shuffle = torch.Generator().manual_seed(0)  # the same reading order on both devices
    adapted = learner.cuda().adapt(on_cuda.support, generator=shuffle)
    actual = adapted.predict(on_cuda.query.x)
    assert actual.is_cuda
    torch.testing.assert_close(actual.cpu(), expected, rtol=1e-3, atol=1e-4)


def test_samples_without_targets_are_read_as_on_the_cpu(unlabelled):
    regime, sampler = unlabelled
    learner = Iterated(regime, steps=3, minibatch=5, gradient=unrolled).double()
    tasks = draw(sampler, "cpu").to(dtype=torch.float64)
    expected = losses_and_gradients(learner, tasks)
    on_cuda = tasks.to(device="cuda")
    actual = losses_and_gradients(copy.deepcopy(learner).cuda(), on_cuda)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-8, check_device=False)


def test_noise_flows_and_distances_are_those_of_the_cpu():
    sampler = MixtureOfGaussians()
    tasks = draw(sampler, "cpu").to(dtype=torch.float64)
    start = torch.randn(8, 20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = []
    for device in ("cpu", "cuda"):
        asked = tasks.to(device=device)

        def field(x, asked=asked):
            return sampler.oracle(attrs.evolve(asked, query=Examples(x=x)))

        ends = flow(field, start.to(device), tolerance=1e-6)
        others = start.to(device)
        found.append((ends, wasserstein(ends, others), maximum_mean_discrepancy(ends, others)))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-4, check_device=False)


def test_samplers_keep_their_contract_on_the_device(sampler):
    check_sampler(sampler, device="cuda")


def test_a_seed_is_the_same_projected_task_on_both_devices():
    images = torch.randn(12, 5, generator=torch.Generator().manual_seed(1))
    sampler = ProjectedClassification(images, torch.arange(12) % 3, projection_dim=4)
    latent = torch.tensor([0, 7, 2**40])
    drawn = []
    for device in ("cpu", "cuda"):
        generator = torch.Generator(device).manual_seed(0)
        # Every task holds all the images, so that the two draws differ only in their order.
        batch = sampler.sample(
            3, num_support=12, num_query=0, generator=generator, latent=latent.to(device)
        )
        order = batch.support.x[..., 0].argsort(dim=1)
        rows = torch.arange(3, device=device)[:, None]
        drawn.append(batch.support[rows, order].to(device="cpu"))
    torch.testing.assert_close(drawn[0].x, drawn[1].x, rtol=1e-4, atol=1e-5)
    assert torch.equal(drawn[0].y, drawn[1].y)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("pooled", [False, True], ids=["sampled", "pool"])
def test_training_moves_every_weight_and_keeps_it_fp32(
    regime, likelihood, fitting_sampler, pooled, precision
):
    if isinstance(regime, Parametric) and getattr(likelihood, "scale", 1) is None:
        pytest.skip("a learned rule follows the gradient of a predicted scale out of range")
    generator = torch.Generator("cuda").manual_seed(0)
    learner = Iterated(regime, steps=1 if pooled else 3, minibatch=8).cuda()
    before = {name: p.detach().clone() for name, p in learner.named_parameters()}
    source = (
        Pool(learner, fitting_sampler, num_tasks=16, num_query=8, max_steps=4, generator=generator)
        if pooled
        else SamplerSource(
            fitting_sampler, num_tasks=16, num_support=24, num_query=8, generator=generator
        )
    )
    config = FitConfig(iterations=3, precision=precision)
    result = fit(learner, source, config, device="cuda", progress=False)
    assert all(math.isfinite(loss) for loss in result.losses)
    for name, parameter in learner.named_parameters():
        assert parameter.is_cuda and parameter.dtype == torch.float32
        assert not torch.equal(parameter, before[name]), name


def test_memory_of_reading_a_stream_does_not_grow(regime, fitting_sampler):
    learner = Iterated(regime, steps=1, minibatch=16).cuda()
    generator = torch.Generator("cuda").manual_seed(0)
    query_x = draw(fitting_sampler, "cuda").query.x

    def peak(num_minibatches):
        counts = {"num_support": 16, "num_query": 0}
        stream = (
            fitting_sampler.sample(8, **counts, generator=generator).support
            for _ in range(num_minibatches)
        )
        torch.cuda.reset_peak_memory_stats()
        learner.adapt(stream, query_x)
        return torch.cuda.max_memory_allocated()

    peak(2)
    assert peak(64) <= 1.01 * peak(4)
