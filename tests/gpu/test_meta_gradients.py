"""Meta-gradients on a CUDA device: equal to the CPU's, and to one another."""

import copy
from operator import attrgetter

import pytest
import torch
from iai_iterate import (
    ConjugateGradient,
    ImplicitGradient,
    Iterated,
    first_order,
    rematerialised,
    reptile,
    unrolled,
)
from iai_regimes import Categorical, Conv4, GradientDescent, Parametric, Predictor, Proximal
from iai_tasks import FewShotClassification, ImageClasses
from iai_train import FitConfig, SamplerSource, fit
from torch import nn

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device; there is none", allow_module_level=True)

pytestmark = pytest.mark.gpu

WAYS = 4


def sampler() -> FewShotClassification:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (240, 1, 20, 20), generator=generator, dtype=torch.uint8)
    letters = ImageClasses(images=images, labels=torch.arange(240) % 8, class_names="abcdefgh")
    return FewShotClassification(letters, range(8), ways=WAYS)


def draw(device="cpu"):
    generator = torch.Generator(device).manual_seed(0)
    return sampler().sample(3, num_support=WAYS, num_query=8, generator=generator)


def learner(gradient, *, rule=None, dropout=0.0, **options) -> Iterated:
    torch.manual_seed(0)
    network = Conv4(1, WAYS, width=8, image_size=20, **options)
    network.body.append(nn.Dropout(dropout))
    regime = Parametric(Predictor(network), Categorical(WAYS), rule or GradientDescent(0.1))
    if gradient is ImplicitGradient:
        solver = ConjugateGradient(steps=5)
        gradient = ImplicitGradient(regime.residual, solver, solved=attrgetter("theta"))
    return Iterated(regime, steps=3, gradient=gradient, loss="last")


def gradients(learner, tasks):
    loss = learner(tasks).losses.mean()
    return torch.autograd.grad(loss, list(learner.parameters()), materialize_grads=True)


@pytest.mark.parametrize("transductive", [False, True], ids=["group norm", "batch norm"])
@pytest.mark.parametrize(
    "gradient",
    [unrolled, rematerialised, first_order, reptile, ImplicitGradient],
    ids=["unrolled", "rematerialised", "first-order", "reptile", "implicit"],
)
def test_a_convolutional_meta_gradient_is_that_of_the_cpu(gradient, transductive):
    rule = Proximal(GradientDescent(0.1), 2.0)
    here = learner(gradient, rule=rule, transductive=transductive).double()
    tasks = draw().to(dtype=torch.float64)
    expected = gradients(here, tasks)
    there = copy.deepcopy(here).cuda()
    if isinstance(there.gradient, ImplicitGradient):  # its residual is bound to the regime
        there.gradient = ImplicitGradient(
            there.regime.residual, ConjugateGradient(steps=5), solved=attrgetter("theta")
        )
    actual = gradients(there, tasks.to(device="cuda"))
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-9, check_device=False)


def test_what_is_made_again_draws_what_it_drew():
    tasks = draw("cuda").to(dtype=torch.float64)
    taken = []
    for gradient in (unrolled, rematerialised):
        made = learner(gradient, dropout=0.3).double().cuda()
        torch.manual_seed(1)
        taken.append(gradients(made, tasks))
    torch.testing.assert_close(taken[1], taken[0], rtol=1e-9, atol=1e-12)


def test_chunks_of_tasks_train_as_all_at_once():
    weights = []
    for chunk in (None, 3):
        made = learner(unrolled).cuda()
        source = SamplerSource(
            sampler(),
            num_tasks=8,
            num_support=WAYS,
            num_query=8,
            generator=torch.Generator("cuda").manual_seed(0),
        )
        fit(made, source, FitConfig(iterations=3, chunk=chunk), device="cuda", progress=False)
        weights.append([weight.detach() for weight in made.parameters()])
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-3, atol=1e-4)
