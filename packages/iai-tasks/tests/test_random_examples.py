"""Tasks whose examples are drawn from one set."""

import pytest
import torch
from iai_tasks import Categorical, RandomExamples, Real

X, Y = torch.arange(6.0).reshape(3, 2), torch.tensor([0, 4, 2])


def draw(sampler, num_tasks, num_support, num_query, seed=0):
    counts = {"num_support": num_support, "num_query": num_query}
    return sampler.sample(num_tasks, **counts, generator=torch.Generator().manual_seed(seed))


def test_every_example_is_drawn_as_often_with_its_own_target():
    batch = draw(RandomExamples(X, Y), 100, 20, 10)
    for examples in (batch.support, batch.query):
        index = (examples.x[..., 0] / 2).long()
        assert torch.equal(examples.x, X[index])
        assert torch.equal(examples.y, Y[index])
        share = index.flatten().bincount() / index.numel()
        assert (share - 1 / 3).abs().max() < 0.05


def test_the_same_draws_make_a_minibatch_after_the_other_or_all_at_once():
    sampler, generator = RandomExamples(X, Y), torch.Generator().manual_seed(0)
    counts = {"num_support": 4, "num_query": 0, "generator": generator}
    parts = torch.cat([sampler.sample(1, **counts).support.y for _ in range(3)], dim=1)
    assert torch.equal(parts, draw(sampler, 1, 12, 0).support.y)


def test_the_spec_is_that_of_the_set():
    assert RandomExamples(X, Y).spec.target == Categorical(5)
    assert RandomExamples(X[:, None], X).spec.target == Real(2)
    assert RandomExamples(X[:, None], X).spec.query_x_shape == (1, 2)


@pytest.mark.parametrize(("x", "y", "got"), [(X, Y[:2], "3 and 2"), (X[:0], Y[:0], "0 and 0")])
def test_what_does_not_fit_is_refused(x, y, got):
    with pytest.raises(ValueError, match=f"must be equally many, and at least one; got {got}"):
        RandomExamples(x, y)
