"""Methods of the literature, put together from parts: each is a learner with exact gradients."""

from operator import attrgetter

import pytest
import torch
from iai_encoders import DeepSet
from iai_iterate import (
    ConjugateGradient,
    ImplicitGradient,
    Iterated,
    first_order,
    rematerialised,
    reptile,
    truncated,
    unrolled,
)
from iai_regimes import (
    LBFGS,
    Categorical,
    Embedded,
    Explicit,
    GradientDescent,
    Implicit,
    LatentDecoder,
    MLPRule,
    NewtonCG,
    Parametric,
    Predictor,
    Proximal,
    RecurrentRule,
    UntilConverged,
)
from iai_tasks import LinearClassification
from iai_train.testing import check_learner, check_traceable
from torch import nn

X_DIM, NUM_CLASSES, WIDTH = 3, 3, 6

LAYERS = {
    "plain": nn.Identity,
    "layer norm": lambda: nn.LayerNorm(WIDTH),
    "batch norm": lambda: nn.BatchNorm1d(WIDTH, track_running_stats=False),
    "group norm": lambda: nn.GroupNorm(2, WIDTH),
    "group norm without weights": lambda: nn.GroupNorm(2, WIDTH, affine=False),
    "RMS norm": lambda: nn.RMSNorm(WIDTH),
}


def network(layer=nn.Identity) -> nn.Module:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(X_DIM, WIDTH), layer(), nn.Tanh())
    model = nn.Sequential()
    model.add_module("body", body)
    model.add_module("head", nn.Linear(WIDTH, NUM_CLASSES))
    return model


def parametric(rule, adapt=None, layer=nn.Identity) -> Parametric:
    return Parametric(Predictor(network(layer), adapt), Categorical(NUM_CLASSES), rule)


def learner(regime, gradient, steps=3) -> Iterated:
    return Iterated(regime, steps=steps, gradient=gradient, loss="last")


def implicit_maml(rule, *, solver_steps=60, **problem) -> Iterated:
    regime = parametric(rule, **problem)
    solver = ConjugateGradient(steps=solver_steps)
    mode = ImplicitGradient(regime.residual, solver, solved=attrgetter("theta"))
    return learner(regime, mode, steps=1)


def converged(rule) -> UntilConverged:
    strength = nn.Parameter(torch.tensor(5.0))
    return UntilConverged(Proximal(rule, strength), tolerance=1e-9, max_steps=100)


def meta_sgd() -> Iterated:
    size = Predictor(network()).size
    return learner(parametric(GradientDescent(nn.Parameter(torch.full((size,), 0.1)))), unrolled)


def cavia() -> Iterated:
    decoder = Predictor(LatentDecoder(X_DIM, 4, NUM_CLASSES, hidden_dim=WIDTH), adapt=["latent"])
    return learner(Explicit(decoder, Categorical(NUM_CLASSES), GradientDescent(0.5)), unrolled)


def neural_process() -> Iterated:
    regime = Implicit(DeepSet(8), Categorical(NUM_CLASSES), x_dim=5, state="latents")
    return learner(Embedded(regime, nn.Linear(X_DIM, 5)), unrolled, steps=1)


METHODS = {
    "MAML": lambda: learner(parametric(GradientDescent(0.3)), unrolled),
    "MAML, rematerialised": lambda: learner(parametric(GradientDescent(0.3)), rematerialised),
    "first-order MAML": lambda: learner(parametric(GradientDescent(0.3)), first_order),
    "Reptile": lambda: learner(parametric(GradientDescent(0.3)), reptile),
    "Meta-SGD": meta_sgd,
    "ANIL": lambda: learner(parametric(GradientDescent(0.3), ["head"]), unrolled),
    "CAVIA": cavia,
    "implicit MAML": lambda: implicit_maml(converged(GradientDescent(0.15))),
    "implicit MAML, Hessian-free": lambda: implicit_maml(
        converged(NewtonCG(ConjugateGradient(steps=20)))
    ),
    "implicit MAML, L-BFGS": lambda: implicit_maml(converged(LBFGS())),
    "learned optimizer, recurrent": lambda: learner(parametric(RecurrentRule()), truncated(2)),
    "learned optimizer, MLP": lambda: learner(parametric(MLPRule()), truncated(2)),
    "neural process": neural_process,
}


def draw(num_tasks=3, num_support=8):
    sampler = LinearClassification(X_DIM, NUM_CLASSES)
    generator = torch.Generator().manual_seed(0)
    tasks = sampler.sample(num_tasks, num_support=num_support, num_query=5, generator=generator)
    return tasks.to(dtype=torch.float64)


def meta_gradient(learner, tasks) -> dict[str, torch.Tensor]:
    trained = {name: p for name, p in learner.named_parameters() if p.requires_grad}
    loss = learner(tasks).losses.mean()
    gradients = torch.autograd.grad(loss, list(trained.values()), materialize_grads=True)
    return dict(zip(trained, gradients, strict=True))


def assert_same(actual, expected, rtol):
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(
            actual[name], gradient, rtol=rtol, atol=rtol * float(gradient.abs().max())
        )


def assert_derivative(learner, tasks, gradients, rtol):
    """Compares with a finite difference along one random direction in all the weights."""
    generator = torch.Generator().manual_seed(1)
    way = {
        name: torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
        for name, weight in learner.named_parameters()
    }

    def shifted(size):
        with torch.no_grad():
            for name, weight in learner.named_parameters():
                weight += size * way[name]
        return learner(tasks).losses.mean().item()

    step = 1e-6
    difference = (shifted(step) - shifted(-2 * step)) / (2 * step)
    slope = sum((gradients[name] * way[name]).sum().item() for name in way)
    assert slope == pytest.approx(difference, rel=rtol)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_a_learner(name):
    method = METHODS[name]().double()
    check_learner(method, draw())
    check_traceable(method, draw())


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_of_tasks_has_the_mean_meta_gradient_of_its_tasks(name):
    method, tasks = METHODS[name]().double(), draw()
    alone = [meta_gradient(method, tasks[index : index + 1]) for index in range(3)]
    mean = {name: torch.stack([each[name] for each in alone]).mean(0) for name in alone[0]}
    assert_same(meta_gradient(method, tasks), mean, rtol=1e-8)


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("adapt", [None, ["head"]], ids=["all", "head"])
def test_unrolled_is_the_derivative_of_the_loop_whatever_is_normalised(layer, adapt):
    method = learner(parametric(GradientDescent(0.3), adapt, layer), unrolled).double()
    again = learner(method.regime, rematerialised)
    tasks = draw()
    gradients = meta_gradient(method, tasks)
    assert_same(meta_gradient(again, tasks), gradients, rtol=1e-12)
    assert_derivative(method, tasks, gradients, rtol=1e-6)


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_implicit_is_the_derivative_of_the_solution_whatever_is_normalised(layer):
    rule = converged(NewtonCG(ConjugateGradient(steps=30)))
    method, tasks = implicit_maml(rule, layer=layer).double(), draw()
    gradients = meta_gradient(method, tasks)
    report = method.gradient.report
    assert report.residual.max() <= 1e-9 and not report.solve.negative.any()
    assert_derivative(method, tasks, gradients, rtol=1e-4)


@pytest.mark.parametrize(
    "rule",
    [lambda: GradientDescent(0.15), lambda: NewtonCG(ConjugateGradient(steps=20)), LBFGS],
    ids=["descent", "Newton-CG", "L-BFGS"],
)
def test_implicit_is_unrolled_where_the_inner_problem_is_solved(rule):
    tasks = draw()
    implicit = implicit_maml(converged(rule())).double()
    descent = parametric(converged(GradientDescent(0.15)))
    expected = meta_gradient(learner(descent, unrolled, steps=1).double(), tasks)
    actual = meta_gradient(implicit, tasks)
    report = implicit.gradient.report
    assert report.residual.max() <= 1e-9
    assert report.solve.residual.max() <= 1e-9 and not report.solve.negative.any()
    assert_same(actual, expected, rtol=1e-6)
