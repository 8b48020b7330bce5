"""check_sampler finds each planted fault: a contract that cannot fail would prove nothing."""

import attrs
import pytest
import torch
from iai_tasks import AbstractSampler, Categorical, Examples, LinearRegression, Real, TaskSpec
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


def least_squares(batch):
    """Overfits four noisy examples, as if the weights had no prior."""
    ridge = 1e-4 if batch.support.num_examples else 1.0
    mask = batch.support.mask[..., None]
    x, query = (
        torch.cat([part.x, torch.ones_like(part.x[..., :1])], -1)
        for part in (batch.support, batch.query)
    )
    x, y = (part.where(mask, 0) for part in (x, batch.support.y))
    gram = x.mT @ x + ridge * torch.eye(x.shape[-1])
    return query @ torch.linalg.solve(gram, x.mT @ y)


class Counting:
    """Draws that depend on how often it was called."""

    calls = 0

    def __call__(self, batch, **_):
        self.calls += 1
        query = attrs.evolve(batch.query, y=batch.query.y + self.calls)
        return attrs.evolve(batch, query=query)


def always_one_query(batch, **_):
    return attrs.evolve(batch, query=batch.query[:, :1])


def support_as_queries(batch, num_query, **_):
    known = batch.support[:, :num_query]
    return attrs.evolve(batch, query=known) if known.num_examples == num_query else batch


def one_query_of_the_support(batch, **_):
    known = batch.support[:, :1]
    if not known.num_examples:
        return batch
    x, y = (torch.cat([part, rest[:, 1:]], 1) for part, rest in _pairs(known, batch.query))
    return attrs.evolve(batch, query=attrs.evolve(batch.query, x=x, y=y))


def _pairs(one, other):
    return (one.x, other.x), (one.y, other.y)


def no_targets_but_zero(batch, **_):
    return attrs.evolve(batch, query=attrs.evolve(batch.query, y=0 * batch.query.y))


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
        (Altered(no_targets_but_zero), "all query targets are the same"),
        (Altered(support_as_queries), "queries are taken from the support"),
        (Altered(one_query_of_the_support), "queries are taken from the support"),
        (
            Altered(oracle=lambda batch: 0.9 * GOOD.oracle(batch)),
            "oracle is not the posterior mean: its answers are too small.",
        ),
        (
            Altered(oracle=lambda batch: 1.1 * GOOD.oracle(batch)),
            "oracle is not the posterior mean: its answers are too large.",
        ),
        (
            Altered(oracle=lambda batch: GOOD.oracle(batch) + 0.1),
            "oracle is not the posterior mean: the mean of its error is not 0.",
        ),
        (Altered(oracle=least_squares), "oracle is not the posterior mean: its answers are too l"),
        (Altered(oracle=lambda batch: GOOD.oracle(batch).expand(-1, -1, 2)), "oracle must return"),
    ],
)
def test_a_fault_is_found(sampler, text):
    with pytest.raises(AssertionError, match=text):
        check_sampler(sampler)


class Coins(AbstractSampler):
    """Each task has a coin; all examples are tosses of it, and x says nothing."""

    latent_shape = (1,)
    spec = TaskSpec(support_x_shape=(1,), query_x_shape=(1,), target=Categorical(2))

    def draw_latent(self, num_tasks, generator):
        return torch.rand(num_tasks, 1, generator=generator, device=generator.device)

    def draw_examples(self, latent, num_support, num_query, generator):
        shape = len(latent), num_support + num_query
        draws = [torch.rand(shape, generator=generator, device=generator.device) for _ in "xy"]
        examples = Examples(x=draws[0][..., None], y=(draws[1] < latent).long())
        return examples[:, :num_support], examples[:, num_support:]


class Counted(Coins):
    """The rule of succession, by Laplace, with its logits multiplied."""

    def __init__(self, temper=1.0, prior=1.0):
        self.temper, self.prior = temper, prior

    def oracle(self, batch):
        support = batch.support
        tails, heads = (((support.y == k) & support.mask).sum(1) + self.prior for k in (0, 1))
        logits = torch.stack([tails, heads], -1).log()[:, None]
        return self.temper * logits.expand(-1, batch.query.num_examples, -1) + 7.0


def test_an_oracle_of_classes_gives_the_logits_of_the_posterior():
    check_sampler(Counted())
    for temper, how in ((0.9, "small"), (1.1, "large")):
        text = f"oracle is not logits of the posterior probabilities: its answers are too {how}."
        with pytest.raises(AssertionError, match=text):
            check_sampler(Counted(temper))
    with pytest.raises(AssertionError, match="its answers are too large"):
        check_sampler(Counted(prior=0.1))


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
