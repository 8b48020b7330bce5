"""The precision matrix tells the order of linear models with noise of one variance."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_tasks import (
    ErdosRenyi,
    StructuralCausalModels,
    order_by_leaves,
    order_error,
    precision_score,
)

seeds = st.integers(0, 2**60)


@given(seed=seeds)
def test_with_many_samples_the_order_has_no_error(seed):
    models = StructuralCausalModels(graphs=ErdosRenyi(1.0), num_nodes=4, weight=(1.0, 1.5))
    generator = torch.Generator().manual_seed(seed)
    tasks = models.sample(3, num_support=10_000, num_query=0, generator=generator)
    order = order_by_leaves(precision_score, tasks.support.x)
    assert (order_error(order, models.graph(tasks.latent)) == 0).all()


@given(seed=seeds, scale=st.floats(0.01, 100))
def test_is_minus_one_over_what_regression_leaves(seed, scale):
    x = scale * torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(seed)).double()
    centred = x - x.mean(1, keepdim=True)
    others = centred[..., 1:]
    rest = centred[..., :1] - others @ torch.linalg.lstsq(others, centred[..., :1]).solution
    torch.testing.assert_close(precision_score(x)[:, 0], -1 / rest[..., 0].square().mean(1))


@pytest.mark.parametrize("num_samples", [1, 2, 4])
@pytest.mark.parametrize("constant", [False, True])
def test_few_samples_or_constant_variables_have_finite_scores(num_samples, constant):
    x = torch.randn(2, num_samples, 4, generator=torch.Generator().manual_seed(0))
    assert precision_score(x.masked_fill(torch.tensor([constant] * 4), 1.0)).isfinite().all()


def test_refuses_tables_without_a_sample():
    with pytest.raises(ValueError, match="`x` must have at least one sample of each task"):
        precision_score(torch.zeros(2, 0, 3))
