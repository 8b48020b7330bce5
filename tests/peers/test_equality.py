"""Our meta-gradients equal those of other libraries, on the same weights and tasks."""

import copy
from operator import attrgetter

import pytest
import torch
from iai_iterate import ConjugateGradient, ImplicitGradient, Iterated
from iai_regimes import (
    Gaussian,
    GradientDescent,
    Parametric,
    Predictor,
    Proximal,
    UntilConverged,
)
from iai_tasks import Examples, TaskBatch
from torch import nn
from workbench import imaml, maml
from workbench.few_shot import NETWORKS, draw_tasks, network

# Warnings of other libraries are not ours to fix.
pytestmark = pytest.mark.filterwarnings("ignore")

WAYS = 5
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}
KINDS = {
    "MAML": maml.Adaptation(WAYS, steps=3),
    "first-order MAML": maml.Adaptation(WAYS, steps=3, first_order=True),
    "ANIL": maml.Adaptation(WAYS, steps=3, child="head"),
}

each_network = pytest.mark.parametrize("net", NETWORKS)
each_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=["float32", "float64"])


def problem(net, dtype):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    tasks = draw_tasks(3, ways=WAYS, shots=2, queries=3, generator=generator, dtype=dtype)
    return network(net, ways=WAYS, width=8).to(dtype), tasks


def meta_gradient(make, module, how, tasks, **options):
    own = copy.deepcopy(module)
    make(own, how, **options)(tasks)
    return [weight.grad for weight in own.parameters()]


def assert_equal(gradients, others, tolerance):
    """Relative to the norm of the whole gradient: some parts are zero up to rounding."""
    ours, theirs = (torch.cat([part.flatten() for part in parts]) for parts in (gradients, others))
    assert theirs.norm() > 1e-3
    assert (ours - theirs).norm() <= tolerance * theirs.norm()


@each_dtype
@each_network
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("party", ["plain", *maml.PEERS])
def test_maml_and_its_kin(party, kind, net, dtype):
    if party != "plain":
        pytest.importorskip(party)
    module, tasks = problem(net, dtype)
    theirs = maml.PEERS.get(party, maml.plain)
    expected = meta_gradient(theirs, module, KINDS[kind], tasks)
    for chunk in (1, 2, None):
        gradients = meta_gradient(maml.ours, module, KINDS[kind], tasks, chunk=chunk)
        assert_equal(gradients, expected, TOLERANCE[dtype])


@each_dtype
@each_network
def test_implicit_maml(net, dtype):
    pytest.importorskip("torchopt")
    module, tasks = problem(net, dtype)
    # Neither the inner problem nor the linear system is solved, but the iterates are the same.
    how = imaml.ProximalAdaptation(WAYS, steps=4, solver_steps=3)
    expected = meta_gradient(imaml.by_torchopt, module, how, tasks)
    for chunk in (1, None):
        gradients = meta_gradient(imaml.ours, module, how, tasks, mode="implicit", chunk=chunk)
        assert_equal(gradients, expected, TOLERANCE[dtype])


def test_implicit_maml_on_quadratics():
    """Inner solution (H + s I)^-1 (b + s w), meta-gradient s (H + s I)^-1 g; s is the strength."""
    torch.manual_seed(0)
    strength, size, num_tasks = 2.0, 6, 4
    module = nn.Linear(size, 1, bias=False, dtype=torch.float64)

    def examples(number):
        x = torch.randn(num_tasks, number, size, dtype=torch.float64)
        return Examples(x=x, y=torch.randn(num_tasks, number, 1, dtype=torch.float64))

    tasks = TaskBatch(support=examples(9), query=examples(7))
    rule = UntilConverged(Proximal(GradientDescent(0.1), strength), tolerance=1e-12, max_steps=1000)
    regime = Parametric(Predictor(module), Gaussian(1, scale=1.0), rule)
    mode = ImplicitGradient(
        regime.residual, ConjugateGradient(steps=size), solved=attrgetter("theta")
    )
    learner = Iterated(regime, steps=1, gradient=mode, loss="last")
    learner(tasks).losses.sum().backward()

    support, query = tasks.support, tasks.query
    hessian = support.x.mT @ support.x / support.num_examples
    damped = hessian + strength * torch.eye(size, dtype=torch.float64)
    right = (support.x.mT @ support.y).squeeze(-1) / support.num_examples
    solution = torch.linalg.solve(damped, right + strength * module.weight.detach())
    misses = (query.x @ solution[..., None] - query.y).squeeze(-1)
    outer = (query.x.mT @ misses[..., None]).squeeze(-1) / query.num_examples
    expected = strength * torch.linalg.solve(damped, outer).sum(0, keepdim=True)
    torch.testing.assert_close(module.weight.grad, expected, rtol=1e-9, atol=1e-10)
    assert mode.report.residual.max() < 1e-11
    assert mode.report.solve.residual.max() < 1e-9
