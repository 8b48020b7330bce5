"""A task gets the same beside longer and empty ones as alone, wherever its padding is."""

import attrs
import pytest
import torch
from iai_encoders import DeepSet
from iai_iterate import Iterated, unrolled
from iai_iterate.minibatch import steps_of_a_pass
from iai_regimes import (
    GradientDescent,
    GradientRule,
    LearnedRule,
    MLPRule,
    Newton,
    Parametric,
    Predictor,
    RecurrentRule,
    WhitenedNewton,
)
from iai_tasks import TaskBatch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

COUNTS, NUM_EXAMPLES, MINIBATCH = (5, 0, 9), 10, 4


def spoilt(examples, mask):
    """The same examples, those that the mask hides replaced by what cannot be."""

    def hidden(values):
        wrong = torch.nan if values.is_floating_point() else -(10**6)
        return values.masked_fill(~mask.reshape(*mask.shape, *[1] * (values.dim() - 2)), wrong)

    y = None if examples.y is None else hidden(examples.y)
    return attrs.evolve(examples, x=hidden(examples.x), y=y, mask=mask)


def ragged(sampler):
    """Tasks in float64 with as many examples as `COUNTS` says, and gaps between them."""
    generator = torch.Generator().manual_seed(0)
    counts = {"num_support": NUM_EXAMPLES, "num_query": 3}
    tasks = sampler.sample(len(COUNTS), **counts, generator=generator).to(dtype=torch.float64)
    order = torch.rand(len(COUNTS), NUM_EXAMPLES, generator=generator).argsort(dim=1)
    mask = order < torch.tensor(COUNTS)[:, None]
    return attrs.evolve(tasks, support=spoilt(tasks.support, mask))


def alone(tasks, task):
    """A task by itself, without its padding."""
    own = tasks[task : task + 1]
    kept = own.support.mask[0].nonzero()[:, 0]
    return attrs.evolve(own, support=own.support[:, kept])


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-9, equal_nan=True)


def check_adapting(learner: Iterated, tasks: TaskBatch) -> None:
    together = learner.adapt(tasks.support, tasks.query.x)
    outputs = together.predict(tasks.query.x)
    for task, count in enumerate(COUNTS):
        own = alone(tasks, task)
        adapted = learner.adapt(own.support, own.query.x)
        close(outputs[task : task + 1], adapted.predict(own.query.x))
        close(together.seen[task].item(), float(count))
        state = tree_map(lambda leaf, task=task: leaf[task : task + 1], together.state)
        for one, other in zip(tree_leaves(state), tree_leaves(adapted.state), strict=True):
            close(one, other)


def check_training(learner: Iterated, tasks: TaskBatch) -> None:
    """The losses of each task's own pass, and their gradient."""
    weights = [weight for weight in learner.parameters() if weight.requires_grad]

    def gradient(losses):
        return torch.autograd.grad(sum(losses), weights, materialize_grads=True)

    losses, seen, _ = learner(tasks)
    steps = [steps_of_a_pass(count, (MINIBATCH,)) for count in COUNTS]
    together = [losses[: 1 + own, task] for task, own in enumerate(steps)]
    apart = []
    for task, own in enumerate(steps):
        by_itself = Iterated(
            learner.regime, steps=own, minibatch=MINIBATCH, gradient=learner.gradient
        )
        apart.append(by_itself(alone(tasks, task)).losses[:, 0])
        close(together[task], apart[task])
        close(losses[1 + own :, task], losses[own, task].expand(len(losses) - 1 - own))
    close(seen[-1], torch.tensor(COUNTS, dtype=seen.dtype))
    pairs = zip(
        gradient([part.sum() for part in together]),
        gradient([part.sum() for part in apart]),
        strict=True,
    )
    for one, other in pairs:
        close(one, other)


def check(regime, tasks):
    options = {"steps": 3, "minibatch": MINIBATCH, "gradient": unrolled}
    learner = Iterated(regime.double(), **options)
    check_adapting(learner, tasks)
    check_training(learner, tasks)


@pytest.mark.parametrize("likelihood", ["gaussian"], indirect=True)
def test_every_regime(moving_regime, fitting_sampler):
    check(moving_regime, ragged(fitting_sampler))


def test_without_targets(unlabelled):
    regime, sampler = unlabelled
    check(regime, ragged(sampler))


class Momentum(GradientRule):
    """Gradient descent along a running sum of gradients."""

    def start(self, theta):
        return tree_map(torch.zeros_like, theta)

    def move(self, theta, carry, gradient, evidence):
        carry = {name: 0.5 * carry[name] + gradient[name] for name in theta}
        return {name: value - 0.1 * carry[name] for name, value in theta.items()}, carry


def learned(slope):
    def make(predictor, likelihood):
        options = {"x_dim": 3, "slope": slope(predictor)}
        return LearnedRule(predictor, likelihood, DeepSet(8), **options)

    return make


RULES = {
    "rates by step": lambda *_: GradientDescent(nn.Parameter(torch.tensor([0.3, 0.1, 0.01]))),
    "momentum": lambda *_: Momentum(differentiate_gradient=True),
    "a learned optimizer": lambda *_: MLPRule(),
    "a recurrent one": lambda *_: RecurrentRule(),
    "Newton": learned(lambda predictor: Newton(3)),
    "whitened Newton": learned(lambda predictor: WhitenedNewton(predictor, 3)),
}


@pytest.mark.parametrize("likelihood", ["categorical"], indirect=True)
@pytest.mark.parametrize("name", RULES)
def test_every_rule(name, likelihood, fitting_sampler):
    torch.manual_seed(0)
    outputs = likelihood.num_outputs
    predictor = Predictor(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, outputs)))
    regime = Parametric(predictor, likelihood, RULES[name](predictor, likelihood))
    for parameter in regime.rule.parameters():
        if "rates" not in name:
            nn.init.normal_(parameter, std=0.05)
    check(regime, ragged(fitting_sampler))


@pytest.mark.parametrize("likelihood", ["gaussian"], indirect=True)
def test_a_short_task_learns_no_worse_beside_a_long_one(fitting_sampler, likelihood):
    # One minibatch alone; of the padding, 100.
    tasks = ragged(fitting_sampler)
    model = Predictor(nn.Linear(3, likelihood.num_outputs).double())
    learner = Iterated(
        Parametric(model, likelihood, GradientDescent(0.1)), steps=1, minibatch=NUM_EXAMPLES
    )
    own = alone(tasks, 0)
    expected = learner.adapt(own.support)
    padding = torch.arange(100 * NUM_EXAMPLES) % NUM_EXAMPLES
    mask = torch.cat([tasks.support.mask, torch.zeros(3, 99 * NUM_EXAMPLES, dtype=torch.bool)], 1)
    padded = attrs.evolve(tasks.support[:, padding], mask=mask)
    adapted = learner.adapt(padded)
    assert adapted.step == expected.step == 1
    close(adapted.predict(tasks.query.x)[:1], expected.predict(own.query.x))
