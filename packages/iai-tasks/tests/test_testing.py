"""check_sampler finds each planted fault: a contract that cannot fail would prove nothing."""

import attrs
import pytest
import torch
from iai_tasks import LinearRegression, Real, TaskSpec
from iai_tasks.testing import check_sampler

GOOD = LinearRegression(2)


class Altered:
    """A linear regression whose batches, spec or oracle are altered."""

    def __init__(self, sample=None, oracle=None, spec=GOOD.spec):
        self.spec = spec
        self._sample = sample or (lambda batch, **_: batch)
        self._oracle = oracle or GOOD.oracle

    def sample(self, num_tasks, *, num_support, num_query, generator, latent=None):
        counts = {"num_support": num_support, "num_query": num_query}
        batch = GOOD.sample(num_tasks, **counts, generator=generator, latent=latent)
        return self._sample(batch, latent=latent, generator=generator, **counts)

    def oracle(self, batch):
        return self._oracle(batch)


def repeat_first(batch, **_):
    return batch[torch.zeros(batch.num_tasks, dtype=torch.int64)]


def use_global_generator(batch, **_):
    torch.rand(())
    return batch


def ignore_generator(batch, num_support, num_query, latent, **_):
    counts = {"num_support": num_support, "num_query": num_query}
    generator = torch.Generator().manual_seed(0)
    return GOOD.sample(batch.num_tasks, **counts, generator=generator, latent=latent)


def ignore_latent(batch, num_support, num_query, latent, generator):
    counts = {"num_support": num_support, "num_query": num_query}
    other = GOOD.sample(batch.num_tasks, **counts, generator=generator)
    return other if latent is None else attrs.evolve(other, latent=latent)


class Counting:
    """Draws that depend on how often it was called."""

    calls = 0

    def __call__(self, batch, **_):
        self.calls += 1
        query = attrs.evolve(batch.query, y=batch.query.y + self.calls)
        return attrs.evolve(batch, query=query)


def always_one_query(batch, **_):
    return attrs.evolve(batch, query=batch.query[:, :1])


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("sampler", "text"),
    [
        (object(), "has not got `spec` and `sample`"),
        (Altered(repeat_first), "all tasks of a batch have the same support"),
        (Altered(use_global_generator), "drew from torch's global generator"),
        (Altered(ignore_generator), "two generators gave the same batch"),
        (
            Altered(ignore_latent),
            "the examples do not depend on the latent",
        ),
        (Altered(Counting()), "the same generator gave two different batches"),
        (Altered(always_one_query), "asked for 3 query examples, got 1"),
        (
            Altered(lambda batch, **_: attrs.evolve(batch, latent=None)),
            "sample returned no latent",
        ),
        (
            Altered(lambda batch, **_: attrs.evolve(batch, latent=batch.latent + 1)),
            "did not return the latent that it was given",
        ),
        (Altered(oracle=lambda batch: GOOD.oracle(batch)[..., 0]), "oracle must return shape"),
        (
            Altered(oracle=lambda batch: GOOD.oracle(batch) / batch.support.num_examples),
            "oracle is not finite for an empty support",
        ),
        (
            Altered(oracle=lambda batch: GOOD.oracle(batch) + batch.support.num_examples),
            "depends on masked examples or on the order of the support",
        ),
    ],
)
def test_a_fault_is_found(sampler, text):
    with pytest.raises(AssertionError, match=text):
        check_sampler(sampler)


class WithoutOracle:
    """The sampler without its oracle, which would find some faults first."""

    def __init__(self, sample):
        self.spec, self.sample = GOOD.spec, Altered(sample).sample


@pytest.mark.parametrize(
    ("sample", "text"),
    [
        (ignore_latent, "the examples do not depend on the latent"),
        (lambda batch, **_: batch.to(dtype=torch.float64), "must be torch.float32"),
    ],
)
def test_a_fault_is_found_without_an_oracle(sample, text):
    with pytest.raises(AssertionError, match=text):
        check_sampler(WithoutOracle(sample))


def test_a_spec_that_does_not_fit_is_found():
    shape = {"support_x_shape": (2,), "query_x_shape": (2,)}
    with pytest.raises(ValueError, match="must have 3 numbers an example"):
        check_sampler(Altered(spec=TaskSpec(**shape, target=Real(3))))


def test_what_is_not_altered_passes():
    check_sampler(Altered())


class ByName:
    """The sampler with its latent in a dict."""

    spec = GOOD.spec

    def sample(self, num_tasks, *, latent=None, **options):
        batch = GOOD.sample(num_tasks, latent=None if latent is None else latent["w"], **options)
        return attrs.evolve(batch, latent={"w": batch.latent})


def test_a_latent_may_be_a_pytree():
    check_sampler(ByName())
