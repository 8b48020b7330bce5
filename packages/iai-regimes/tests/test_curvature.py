import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_regimes import Gaussian, Predictor
from iai_regimes.curvature import Curvature, DampedNewton, curvature_at
from iai_regimes.objective import MinibatchObjective
from regime_parts import draw
from torch import nn


def mlp_objective(seed=0):
    torch.manual_seed(seed)
    likelihood = Gaussian(1, scale=0.5)
    module = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1)).double()
    batch = draw(likelihood, dtype=torch.float64, seed=seed)
    batch.mask[0, 2:] = False
    predictor = Predictor(module)
    theta = predictor.start(3) + 0.3 * torch.randn(3, predictor.size, dtype=torch.float64)
    return MinibatchObjective(predictor, likelihood, batch), theta.detach()


def explicit_hessian(loss, theta, task):
    def one(row):
        return loss(torch.cat([theta[:task], row[None], theta[task + 1 :]]))[task]

    jacobian = torch.autograd.functional.jacobian(one, theta[task])
    return jacobian, torch.autograd.functional.hessian(one, theta[task])


@given(seed=st.integers(0, 99))
def test_a_full_krylov_space_splits_the_gradient_along_the_explicit_hessian(seed):
    objective, theta = mlp_objective(seed)
    found = curvature_at(objective.loss, theta, theta.shape[1])
    torch.testing.assert_close(found.parts.sum(1), found.gradient)
    for task in range(3):
        gradient, hessian = explicit_hessian(objective.loss, theta, task)
        torch.testing.assert_close(found.gradient[task], gradient)
        sizes, vectors = torch.linalg.eigh(hessian)
        for strength in (0.1, 10.0):  # |H| + strength solves alike on both splits
            expected = vectors @ ((vectors.mT @ gradient) / (sizes.abs() + strength))
            parts = found.parts[task] / (found.sizes[task, :, None] + strength)
            torch.testing.assert_close(parts.sum(0), expected, rtol=1e-5, atol=1e-8)


@given(seed=st.integers(0, 99), num_products=st.integers(0, 4))
def test_few_products_split_the_whole_gradient_at_sizes_within_the_spectrum(seed, num_products):
    objective, theta = mlp_objective(seed)
    found = curvature_at(objective.loss, theta, num_products)
    assert found.sizes.shape == (3, num_products)
    for task in range(3):
        gradient, hessian = explicit_hessian(objective.loss, theta, task)
        torch.testing.assert_close(found.gradient[task], gradient)
        if num_products:
            torch.testing.assert_close(found.parts[task].sum(0), gradient)
            largest = torch.linalg.eigvalsh(hessian).abs().max()
            assert (found.sizes[task] <= largest * (1 + 1e-9)).all()


def test_the_gradient_is_a_constant_unless_asked_for():
    objective, theta = mlp_objective()
    theta.requires_grad_()
    with torch.no_grad():
        silent = curvature_at(objective.loss, theta, 2)
    plain = curvature_at(objective.loss, theta, 2)
    followed = curvature_at(objective.loss, theta, 2, differentiate=True)
    assert not any(field.requires_grad for field in (*silent, *plain, *followed[1:]))
    assert followed.gradient.requires_grad
    for one, other, third in zip(silent, plain, followed, strict=True):
        torch.testing.assert_close(one, other)
        torch.testing.assert_close(one, third.detach())


def test_outer_gradients_flow_through_a_gradient_that_is_followed():
    objective, theta = mlp_objective()
    theta.requires_grad_()

    def gradient(theta):
        return curvature_at(objective.loss, theta, 1, differentiate=True).gradient

    assert torch.autograd.gradcheck(gradient, theta)


@pytest.mark.parametrize("differentiate", [True, False])
@pytest.mark.parametrize(
    "loss",
    [
        lambda theta: theta.square().sum(-1),
        lambda theta: 0.0 * theta.sum(-1),
        lambda theta: (theta[:, 0] - 1).pow(2) * theta[:, 1] ** 4,
    ],
    ids=["minimum", "constant", "flat"],
)
def test_a_zero_gradient_leads_nowhere(loss, differentiate):
    theta = torch.zeros(2, 3, requires_grad=True)
    found = curvature_at(loss, theta, 2, differentiate=differentiate)
    assert not found.gradient.any() and not found.parts.any()
    newton = DampedNewton()
    step = newton(found, found.mean_size(), torch.zeros(2), torch.ones(2))
    assert not step.any()
    (step.sum() + found.gradient.sum() + 0 * theta.sum()).backward()
    assert all(p.grad.isfinite().all() for p in (theta, *newton.parameters()))


def test_a_linear_loss_has_a_gradient_and_no_curvature():
    found = curvature_at(lambda theta: 3 * theta.sum(-1), torch.zeros(1, 2), 2)
    assert found.gradient.tolist() == [[3.0, 3.0]] and not found.sizes.any()
    assert not found.mean_size().any()
    assert not DampedNewton()(found, found.mean_size(), torch.zeros(1), torch.ones(1)).any()


def test_what_is_not_finite_is_passed_on_to_whoever_guards_against_it():
    theta = torch.stack([torch.full((4,), torch.nan), torch.ones(4)])
    found = curvature_at(lambda theta: (theta**4).sum(-1), theta, 4)
    assert found.parts[0].isnan().any() and found.parts[1].isfinite().all()
    torch.testing.assert_close(found.sizes[1].max(), torch.tensor(12.0))


def test_no_examples_have_no_gradient():
    likelihood = Gaussian(1, scale=0.5)
    predictor = Predictor(nn.Linear(3, 1))
    objective = MinibatchObjective(predictor, likelihood, draw(likelihood, n=0))
    found = curvature_at(objective.loss, predictor.start(3), 2)
    assert not found.gradient.any() and not found.parts.any()


@given(seed=st.integers(0, 99), seen=st.integers(0, 200))
def test_newton_solves_the_damped_system(seed, seen):
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    hessian = factor @ factor.mT / 6
    target = torch.randn(1, 4, generator=generator, dtype=torch.float64)

    def loss(theta):
        return 0.5 * ((theta - target) @ hessian * (theta - target)).sum(-1)

    found = curvature_at(loss, torch.zeros(1, 4, dtype=torch.float64), 4)
    newton = DampedNewton().double()
    with torch.no_grad():
        newton.log_prior_count.fill_(0.7)
        newton.log_scale.fill_(0.2)
        newton.early_log_scale.fill_(-0.4)
    torch.testing.assert_close(found.mean_size()[0], hessian.diagonal().mean())
    mean, seen, count = torch.tensor([[1.7], [seen], [8]], dtype=torch.float64)
    step = newton(found, mean, seen, count)
    behind = seen + math.exp(0.7)
    weight = behind / (behind + count)
    scale = torch.exp(0.2 - 0.4 * torch.sqrt(count / (seen + count)))
    damping = weight * scale * mean * torch.eye(4).double()
    share = (seen + count) / (behind + count)
    expected = share * torch.linalg.solve((1 - weight) * hessian + damping, found.gradient[0])
    torch.testing.assert_close(step[0], expected, rtol=1e-6, atol=1e-9)


def test_from_nothing_newton_is_the_ridge():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 8, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(1, 8, generator=generator, dtype=torch.float64)

    def loss(theta):
        return 0.5 * ((x @ theta[..., None])[..., 0] - y).square().mean(1)

    found = curvature_at(loss, torch.zeros(1, 3, dtype=torch.float64), 3)
    newton, size = DampedNewton().double(), torch.tensor([2.0], dtype=torch.float64)
    step = newton(found, size, torch.zeros(1), torch.full((1,), 8.0, dtype=torch.float64))
    ridge = x[0].mT @ x[0] + 2.0 * torch.eye(3, dtype=torch.float64)  # a prior worth one example
    torch.testing.assert_close(-step[0], torch.linalg.solve(ridge, x[0].mT @ y[0]))


def test_directions_that_rounding_left_do_not_count():
    x = torch.randn(64, 2, 5, generator=torch.Generator().manual_seed(0))

    def size(dtype):
        rows = x.to(dtype)
        return curvature_at(
            lambda theta: 0.5 * ((rows @ theta[..., None])[..., 0] - 1).square().mean(1),
            torch.zeros(64, 5, dtype=dtype),
            5,
        ).mean_size()

    torch.testing.assert_close(size(torch.float32), size(torch.float64).float(), rtol=1e-2, atol=0)


def test_inference_mode_is_refused():
    with torch.inference_mode(), pytest.raises(ValueError, match=r"torch.no_grad\(\)"):
        curvature_at(lambda theta: theta.sum(-1), torch.zeros(1, 2), 0)


def test_newtons_numbers_learn():
    found = Curvature(torch.ones(1, 2), torch.tensor([[1.0, 4.0]]), torch.eye(2)[None])
    newton = DampedNewton()
    newton(found, *torch.tensor([[2.0], [8.0], [8.0]]))[0, 0].backward()
    assert all(p.grad.isfinite() and p.grad != 0 for p in newton.parameters())
