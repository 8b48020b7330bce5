import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_regimes import Evidence, Gaussian, Gradient, Newton, Predictor
from iai_regimes.hessian import hessian_products
from iai_regimes.learned.newton import DampedNewton, ritz
from iai_regimes.objective import MinibatchObjective
from iai_regimes.ravel import of_vectors, ravel
from regime_parts import draw
from torch import nn


class Objective:
    """A function of the one parameter "w", a vector for each task, as an objective."""

    shared = False

    def __init__(self, function):
        self.function = function

    def loss(self, theta):
        return self.function(theta["w"])

    def residual(self, theta):
        return theta["w"][:, None]


def split(loss, theta, num_products):
    """The gradient, |Ritz values| and the parts of the gradient."""
    _, gradient, product = hessian_products(loss, theta)
    return gradient, *ritz(gradient, product, num_products)


def told(count, seen=0.0, dtype=torch.float64):
    """Evidence of tasks with so many examples in the minibatch and behind theta."""
    count = torch.as_tensor(count, dtype=dtype).reshape(-1)
    return Evidence((), count, torch.full_like(count, seen), True)


def mean_curvature(loss, theta, num_products):
    """Of the minibatch alone, which is h where nothing was seen before."""
    newton, evidence = Newton(num_products), told([1.0] * len(theta), dtype=theta.dtype)
    start = newton.start({"w": theta})
    return newton.to(theta.dtype).directions(
        {"w": theta}, start, evidence, Objective(loss), evidence.gain
    )[1]


def mlp_loss(seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    likelihood = Gaussian(1, scale=0.5)
    module = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1)).to(dtype)
    batch = draw(likelihood, dtype=dtype, seed=seed)
    batch.mask[0, 2:] = False
    predictor = Predictor(module)
    theta = predictor.start(3)
    flat = ravel(theta) + 0.3 * torch.randn(3, predictor.size, dtype=dtype)
    objective = MinibatchObjective(predictor, likelihood, batch)
    return of_vectors(objective.loss, theta), flat.detach()


def explicit_hessian(loss, theta, task):
    def one(row):
        return loss(torch.cat([theta[:task], row[None], theta[task + 1 :]]))[task]

    jacobian = torch.autograd.functional.jacobian(one, theta[task])
    return jacobian, torch.autograd.functional.hessian(one, theta[task])


@given(seed=st.integers(0, 99))
def test_products_are_those_of_the_explicit_hessian(seed):
    loss, theta = mlp_loss(seed)
    _, gradient, product = hessian_products(loss, theta)
    vector = torch.randn(theta.shape, generator=torch.Generator().manual_seed(seed)).double()
    for task in range(3):
        jacobian, hessian = explicit_hessian(loss, theta, task)
        torch.testing.assert_close(gradient[task], jacobian)
        torch.testing.assert_close(product(vector)[task], hessian @ vector[task])


@given(seed=st.integers(0, 99))
def test_a_full_krylov_space_splits_the_gradient_along_the_explicit_hessian(seed):
    loss, theta = mlp_loss(seed)
    found, curvatures, parts = split(loss, theta, theta.shape[1])
    torch.testing.assert_close(parts.sum(1), found)
    for task in range(3):
        gradient, hessian = explicit_hessian(loss, theta, task)
        sizes, vectors = torch.linalg.eigh(hessian)
        for strength in (0.1, 10.0):  # |H| + strength solves alike on both splits
            expected = vectors @ ((vectors.mT @ gradient) / (sizes.abs() + strength))
            solved = parts[task] / (curvatures[task, :, None] + strength)
            torch.testing.assert_close(solved.sum(0), expected, rtol=1e-5, atol=1e-8)


@given(seed=st.integers(0, 99), num_products=st.integers(1, 4))
def test_few_products_split_the_whole_gradient_at_curvatures_within_the_spectrum(
    seed, num_products
):
    loss, theta = mlp_loss(seed)
    _, curvatures, parts = split(loss, theta, num_products)
    assert curvatures.shape == (3, num_products)
    for task in range(3):
        gradient, hessian = explicit_hessian(loss, theta, task)
        torch.testing.assert_close(parts[task].sum(0), gradient)
        largest = torch.linalg.eigvalsh(hessian).abs().max()
        assert (curvatures[task] <= largest * (1 + 1e-9)).all()


def test_gradient_and_split_are_constants():
    loss, theta = mlp_loss()
    theta.requires_grad_()
    with torch.no_grad():
        silent = split(loss, theta, 2)
    plain = split(loss, theta, 2)
    assert not any(field.requires_grad for field in (*silent, *plain))
    for one, other in zip(silent, plain, strict=True):
        torch.testing.assert_close(one, other)


def test_outer_gradients_flow_through_a_gradient_where_asked_for():
    loss, theta = mlp_loss()
    theta.requires_grad_()

    def gradient(theta, differentiate=True):
        slope, evidence = Gradient(differentiate=differentiate), told([6.0] * 3)
        (direction,), _ = slope.directions(
            {"w": theta}, (), evidence, Objective(loss), evidence.gain
        )
        return direction

    assert torch.autograd.gradcheck(gradient, theta)
    plain = gradient(theta, differentiate=False)
    assert not plain.requires_grad
    torch.testing.assert_close(plain, gradient(theta))


@pytest.mark.parametrize(
    "loss",
    [
        lambda theta: theta.square().sum(-1),
        lambda theta: 0.0 * theta.sum(-1),
        lambda theta: (theta[:, 0] - 1).pow(2) * theta[:, 1] ** 4,
    ],
    ids=["minimum", "constant", "flat"],
)
def test_a_zero_gradient_leads_nowhere(loss):
    theta = {"w": torch.zeros(2, 3)}
    newton, evidence = Newton(2), told([1.0, 1.0], dtype=torch.float32)
    (gradient, step), h = newton.directions(
        theta, newton.start(theta), evidence, Objective(loss), evidence.gain
    )
    assert not gradient.any() and not step.any() and h.isfinite().all()
    step.sum().backward()
    assert all(p.grad.isfinite().all() for p in newton.parameters())


def test_a_linear_loss_has_a_gradient_and_no_curvature():
    theta, objective = {"w": torch.zeros(1, 2)}, Objective(lambda theta: 3 * theta.sum(-1))
    newton, evidence = Newton(2), told([1.0], dtype=torch.float32)
    (gradient, step), h = newton.directions(
        theta, newton.start(theta), evidence, objective, evidence.gain
    )
    assert gradient.tolist() == [[3.0, 3.0]] and not step.any() and not h.any()


def test_what_is_not_finite_is_passed_on_to_whoever_guards_against_it():
    theta = torch.stack([torch.full((4,), torch.nan), torch.ones(4)])
    _, curvatures, parts = split(lambda theta: (theta**4).sum(-1), theta, 4)
    assert parts[0].isnan().any() and parts[1].isfinite().all()
    torch.testing.assert_close(curvatures[1].max(), torch.tensor(12.0))


def test_no_examples_have_no_gradient():
    likelihood = Gaussian(1, scale=0.5)
    predictor = Predictor(nn.Linear(3, 1))
    objective = MinibatchObjective(predictor, likelihood, draw(likelihood, n=0))
    theta, newton = predictor.start(3), Newton(2)
    evidence = told([0.0] * 3, dtype=torch.float32)
    directions, h = newton.directions(
        theta, newton.start(theta), evidence, objective, evidence.gain
    )
    assert not any(direction.any() for direction in directions) and not h.any()


@given(seed=st.integers(0, 99), seen=st.integers(0, 200))
def test_newton_solves_the_damped_system(seed, seen):
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    hessian = factor @ factor.mT / 6
    target = torch.randn(1, 4, generator=generator, dtype=torch.float64)

    def loss(theta):
        return 0.5 * ((theta - target) @ hessian * (theta - target)).sum(-1)

    theta = torch.zeros(1, 4, dtype=torch.float64)
    gradient, *found = split(loss, theta, 4)
    newton = DampedNewton().double()
    with torch.no_grad():
        newton.log_prior_count.fill_(0.7)
        newton.log_scale.fill_(0.2)
        newton.early_log_scale.fill_(-0.4)
    torch.testing.assert_close(mean_curvature(loss, theta, 4)[0], hessian.diagonal().mean())
    mean = torch.tensor([1.7], dtype=torch.float64)
    step = newton(*found, mean, told(8.0, seen))
    behind, count = torch.tensor(seen + math.exp(0.7), dtype=torch.float64), 8
    weight = behind / (behind + count)
    scale = math.exp(0.2 - 0.4 * math.sqrt(count / (seen + count)))
    damping = weight * scale * mean * torch.eye(4).double()
    share = (seen + count) / (behind + count)
    expected = share * torch.linalg.solve((1 - weight) * hessian + damping, gradient[0])
    torch.testing.assert_close(step[0], expected, rtol=1e-6, atol=1e-9)


def test_from_nothing_newton_is_the_ridge():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 8, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(1, 8, generator=generator, dtype=torch.float64)

    def loss(theta):
        return 0.5 * ((x @ theta[..., None])[..., 0] - y).square().mean(1)

    _, *found = split(loss, torch.zeros(1, 3, dtype=torch.float64), 3)
    mean = torch.tensor([2.0], dtype=torch.float64)
    step = DampedNewton().double()(*found, mean, told(8.0))
    ridge = x[0].mT @ x[0] + 2.0 * torch.eye(3, dtype=torch.float64)  # a prior worth one example
    torch.testing.assert_close(-step[0], torch.linalg.solve(ridge, x[0].mT @ y[0]))


def test_the_mean_curvature_of_late_is_weighted_by_the_root_of_the_gain():
    theta, newton = {"w": torch.ones(1, 1, dtype=torch.float64)}, Newton(1).double()
    objective = Objective(lambda theta: 3 * theta.square().sum(-1))  # a curvature of 6
    memory = torch.tensor([2.0], dtype=torch.float64)
    _, h = newton.directions(theta, memory, told(4.0, seen=12.0), objective, torch.ones(1))
    assert h.item() == 4.0  # 2 + sqrt(4 / 16) (6 - 2)


def test_directions_that_rounding_left_do_not_count():
    x = torch.randn(64, 2, 5, generator=torch.Generator().manual_seed(0))

    def mean(dtype):
        rows = x.to(dtype)
        return mean_curvature(
            lambda theta: 0.5 * ((rows @ theta[..., None])[..., 0] - 1).square().mean(1),
            torch.zeros(64, 5, dtype=dtype),
            5,
        )

    torch.testing.assert_close(mean(torch.float32), mean(torch.float64).float(), rtol=1e-2, atol=0)


def test_autocast_does_not_reach_the_step():
    loss, flat = mlp_loss(dtype=torch.float32)
    theta, newton = {"w": flat}, Newton(3)
    evidence = told([6.0] * 3, seen=6.0, dtype=torch.float32)
    objective = Objective(loss)
    plain, _ = newton.directions(theta, newton.start(theta), evidence, objective, evidence.gain)
    with torch.autocast("cpu", torch.bfloat16):
        cast, _ = newton.directions(theta, newton.start(theta), evidence, objective, evidence.gain)
    for one, other in zip(plain, cast, strict=True):
        assert torch.equal(one, other)


def test_inference_mode_is_refused():
    theta, evidence = {"w": torch.zeros(1, 2)}, told([1.0], dtype=torch.float32)
    objective = Objective(lambda theta: theta.sum(-1))
    for slope in (Gradient(), Newton(1)):
        memory = slope.start(theta)
        with torch.inference_mode(), pytest.raises(ValueError, match=r"torch.no_grad\(\)"):
            slope.directions(theta, memory, evidence, objective, evidence.gain)


def test_newtons_numbers_learn():
    curvatures, newton = torch.tensor([[1.0, 4.0]]), DampedNewton()
    evidence = told(8.0, seen=8.0, dtype=torch.float32)
    newton(curvatures, torch.eye(2)[None], torch.tensor([2.0]), evidence)[0, 0].backward()
    assert all(p.grad.isfinite() and p.grad != 0 for p in newton.parameters())


def test_a_step_needs_a_product():
    with pytest.raises(ValueError, match=r"^`num_products` must be at least 1; got 0.$"):
        Newton(0)
