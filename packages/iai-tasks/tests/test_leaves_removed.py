"""Training tasks of an order that is made leaf by leaf."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_tasks import ErdosRenyi, LeavesRemoved, StructuralCausalModels

NO_EDGES = ErdosRenyi(1e-9)


class Chain:
    """0 causes 1, which causes 2, and so on."""

    def sample(self, seeds, num_nodes):
        next_to = torch.ones(num_nodes, num_nodes).triu(1) - torch.ones(num_nodes, num_nodes).triu(
            2
        )
        return next_to.bool().expand(len(seeds), -1, -1)


def models(graphs=NO_EDGES, num_nodes=4, bias=0.0):
    return StructuralCausalModels(graphs=graphs, num_nodes=num_nodes, bias=(bias, bias))


def drawn(*families, seed):
    generator = torch.Generator().manual_seed(seed)
    return LeavesRemoved(families).sample(5, num_support=3, num_query=1, generator=generator)


@given(seed=st.integers(0, 2**60))
def test_of_a_chain_the_first_variables_are_left_and_the_last_of_these_is_a_leaf(seed):
    tasks = drawn(models(Chain()), seed=seed)
    num_left = tasks.support.x.shape[2]
    assert torch.equal(tasks.query.x[..., 0], torch.arange(float(num_left)).expand(5, -1))
    assert torch.equal(tasks.query.y, torch.tensor([0, 0, 0, 1])[-num_left:].expand(5, -1))


def test_between_none_and_all_but_two_of_the_variables_are_removed():
    assert {drawn(models(), seed=seed).support.x.shape[2] for seed in range(40)} == {2, 3, 4}


def test_a_batch_is_of_one_family_and_each_family_has_its_turn():
    families = models(bias=-1e6), models(bias=1e6)
    signs = {
        tuple(drawn(*families, seed=seed).support.x.sign().unique().tolist()) for seed in range(40)
    }
    assert signs == {(-1.0,), (1.0,)}


@pytest.mark.parametrize(("sizes", "shown"), [((), r"\[\]"), ((3, 1), r"\[3, 1\]")])
def test_refuses_models_of_a_single_variable(sizes, shown):
    with pytest.raises(ValueError, match=f"at least 2 variables; got models of {shown}"):
        LeavesRemoved([models(num_nodes=size) for size in sizes])
