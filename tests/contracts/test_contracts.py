"""Every producer of the repository passes the contracts of all its consumers."""

import attrs
import torch
from iai_encoders.testing import (
    check_memory_encoder,
    check_running_encoder,
    check_sequence_encoder,
    check_set_encoder,
    check_table_encoder,
)
from iai_iterate import Iterated, Pool
from iai_iterate.testing import check_gradient_mode, check_linear_solver, check_regime
from iai_regimes import Parametric, Unlabelled
from iai_regimes.testing import check_likelihood, check_rule
from iai_tasks.testing import check_sampler
from iai_train import SamplerSource
from iai_train.testing import check_learner, check_metric, check_source, check_traceable


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_sampler(sampler):
    check_sampler(sampler)


def test_set_encoder(set_encoder):
    check_set_encoder(set_encoder, set_encoder.dim)


def test_memory_encoder(memory_encoder):
    check_memory_encoder(memory_encoder, memory_encoder.dim)


def test_running_encoder(running_encoder):
    check_running_encoder(running_encoder, running_encoder.dim)


def test_table_encoder(table_encoder):
    check_table_encoder(table_encoder, table_encoder.dim)


def test_sequence_encoder(sequence_encoder):
    check_sequence_encoder(sequence_encoder, sequence_encoder.dim)


def test_likelihood(likelihood, fitting_sampler):
    tasks = fitting_sampler.sample(3, num_support=4, num_query=0, generator=generator())
    check_likelihood(likelihood, tasks.support.y)


def test_a_likelihood_says_whether_it_fits(likelihood, sampler):
    query = sampler.sample(8, num_support=2, num_query=4, generator=generator()).query
    try:
        likelihood.check(query.y, query.mask)
        accepted = True
    except ValueError:
        accepted = False
    assert likelihood.fits(sampler.spec) is accepted
    assert Unlabelled(likelihood).fits(sampler.spec) is accepted


def test_regime(regime, fitting_sampler):
    tasks = fitting_sampler.sample(3, num_support=6, num_query=4, generator=generator())
    check_regime(regime, tasks.support, tasks.query)


def test_rule(regime, fitting_sampler):
    if isinstance(regime, Parametric):
        tasks = fitting_sampler.sample(3, num_support=6, num_query=0, generator=generator())
        check_rule(regime.rule, regime.predictor, regime.likelihood, tasks.support)


def test_a_support_set_without_the_other_classes_gives_finite_answers(regime, fitting_sampler):
    tasks = fitting_sampler.sample(3, num_support=40, num_query=4, generator=generator())
    alike = attrs.evolve(tasks.support, y=torch.ones_like(tasks.support.y))
    adapted = Iterated(regime, steps=1, minibatch=4).adapt(alike, tasks.query.x)
    assert adapted.step == 10
    assert adapted.predict(tasks.query.x).isfinite().all()


def test_gradient_mode(gradient):
    check_gradient_mode(gradient)


def test_linear_solver(solver):
    check_linear_solver(solver)


def test_metric(metric):
    measure, sampler, num_outputs = metric
    query = sampler.sample(3, num_support=0, num_query=5, generator=generator()).query
    check_metric(measure, torch.randn(3, 5, num_outputs, generator=generator(1)), query)


def test_learner(moving_regime, gradient, fitting_sampler):
    learner = Iterated(moving_regime, steps=3, minibatch=4, gradient=gradient)
    tasks = fitting_sampler.sample(5, num_support=12, num_query=6, generator=generator())
    check_learner(learner, tasks)
    check_traceable(learner, tasks, steps=4)


def test_sampler_source(sampler):
    def make() -> SamplerSource:
        return SamplerSource(
            sampler, num_tasks=3, num_support=(4, 8), num_query=5, generator=generator()
        )

    check_source(make)


def test_pool_source(moving_regime, fitting_sampler):
    learner = Iterated(moving_regime, steps=1, minibatch=4)

    def make() -> Pool:
        return Pool(
            learner,
            fitting_sampler,
            num_tasks=6,
            num_query=5,
            max_steps=3,
            generator=generator(),
        )

    check_source(make, learner)


def test_what_learns_from_samples_without_targets(unlabelled):
    regime, sampler = unlabelled
    tasks = sampler.sample(3, num_support=12, num_query=4, generator=generator())
    check_regime(regime, tasks.support[:, :6], tasks.query)
    learner = Iterated(regime, steps=3, minibatch=4)
    check_learner(learner, tasks)
    check_traceable(learner, tasks, steps=4)


def test_a_pool_of_samples_without_targets(unlabelled):
    regime, sampler = unlabelled
    learner = Iterated(regime, steps=1, minibatch=4)

    def make() -> Pool:
        counts = {"num_tasks": 6, "num_query": 5, "max_steps": 3}
        return Pool(learner, sampler, **counts, generator=generator())

    check_source(make, learner)
