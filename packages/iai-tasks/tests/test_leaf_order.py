"""Orders made leaf by leaf: without error where the leaves are known, and counted by hand."""

import networkx as nx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_tasks import (
    ErdosRenyi,
    Examples,
    StructuralCausalModels,
    TaskBatch,
    order_by_leaves,
    order_error,
    to_networkx,
    variance_order,
    without_leaves,
)

seeds = st.integers(0, 2**60)
sizes = st.integers(1, 8)


def random_graphs(seed, num_nodes, num_tasks=3):
    return ErdosRenyi(1.5).sample(seed + torch.arange(num_tasks), num_nodes)


def named(graph):
    """A table whose every row is the number of each variable."""
    return torch.arange(float(graph.shape[1])).expand(len(graph), 2, -1)


def leaves(graph):
    """Scores the variables of a named table by what is true of those that are left."""

    def score(x):
        left = x[:, 0].long()
        rows = graph.gather(1, left[:, :, None].expand(-1, -1, graph.shape[2]))
        return -rows.gather(2, left[:, None].expand(-1, left.shape[1], -1)).sum(2).float()

    return score


@given(seed=seeds, num_nodes=sizes)
def test_known_leaves_give_an_order_without_error(seed, num_nodes):
    graph = random_graphs(seed, num_nodes)
    order = order_by_leaves(leaves(graph), named(graph))
    assert torch.equal(order.sort(1).values, torch.arange(num_nodes).expand(3, -1))
    assert (order_error(order, graph) == 0).all()


@given(seed=seeds, num_nodes=sizes, data=st.data())
def test_the_error_counts_removals_that_were_of_no_leaf(seed, num_nodes, data):
    graph = random_graphs(seed, num_nodes, num_tasks=1)
    order = data.draw(st.permutations(range(num_nodes)))
    left, wrong = to_networkx(graph[0]), 0
    for node in reversed(order):
        wrong += left.out_degree(node) > 0
        left.remove_node(node)
    error = order_error(torch.tensor([order]), graph)
    assert error.item() == pytest.approx(wrong / max(num_nodes - 1, 1))


def test_scores_must_be_one_a_variable_and_numbers():
    x = torch.zeros(2, 3, 4)
    with pytest.raises(ValueError, match=r"one number a variable, \(2, 4\); got \(2, 1\)"):
        order_by_leaves(lambda x: x[:, 0, :1], x)
    with pytest.raises(ValueError, match="`score` must give no NaN"):
        order_by_leaves(lambda x: x[:, 0] / 0, x)


def test_what_is_no_order_and_what_has_none():
    graph = torch.zeros(1, 3, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="`order` must hold each of 3 variables once"):
        order_error(torch.tensor([[0, 0, 1]]), graph)
    for x in (torch.zeros(1, 0, 3), torch.full((1, 2, 3), torch.nan)):
        with pytest.raises(ValueError, match="`x` must have samples, all of them finite"):
            variance_order(x)


def test_raw_scales_tell_an_order_and_standardised_ones_do_not():
    errors = []
    for standardise in (False, True):
        sampler = StructuralCausalModels(
            graphs=ErdosRenyi(2.0), num_nodes=10, standardise=standardise
        )
        generator = torch.Generator().manual_seed(0)
        batch = sampler.sample(100, num_support=200, num_query=0, generator=generator)
        graph = sampler.graph(batch.latent)
        errors.append(order_error(variance_order(batch.support.x), graph).mean())
    assert errors[0] < 0.15 < 0.4 < errors[1]


@given(seed=seeds, num_nodes=st.integers(2, 8), data=st.data())
def test_what_is_left_is_closed_under_causes(seed, num_nodes, data):
    graph = random_graphs(seed, num_nodes)
    num_removed = data.draw(st.integers(0, num_nodes - 1))
    mask = torch.tensor([[True, False]]).expand(3, -1)
    support = Examples(x=named(graph), mask=mask)
    query = Examples(x=torch.zeros(3, 1, 1), y=torch.zeros(3, 1, dtype=torch.int64))
    generator = torch.Generator().manual_seed(seed % 100)
    batch = without_leaves(TaskBatch(support=support, query=query), graph, num_removed, generator)
    assert torch.equal(batch.support.mask, mask)
    assert batch.query.x[..., 0].tolist() == [list(range(num_nodes - num_removed))] * 3
    for task in range(3):
        names = batch.support.x[task, 0].long().tolist()
        assert names == sorted(set(names)) and len(names) == num_nodes - num_removed
        whole = to_networkx(graph[task])
        assert all(nx.ancestors(whole, name) <= set(names) for name in names)
        left = whole.subgraph(names)
        assert batch.query.y[task].tolist() == [left.out_degree(name) == 0 for name in names]


def test_every_leaf_is_removed_as_often_as_another():
    graph = torch.zeros(900, 3, 3, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    query = Examples(x=torch.zeros(900, 1, 1))
    batch = TaskBatch(support=Examples(x=named(graph)), query=query)
    left = without_leaves(batch, graph, 2, generator).support.x[:, 0, 0]
    assert (left.long().bincount(minlength=3) - 300).abs().max() < 60


def test_one_variable_must_be_left():
    graph = torch.zeros(1, 3, 3, dtype=torch.bool)
    batch = TaskBatch(support=Examples(x=named(graph)), query=Examples(x=torch.zeros(1, 1, 1)))
    with pytest.raises(ValueError, match="`num_removed` must be from 0 to 2, to leave one; got 3"):
        without_leaves(batch, graph, 3, torch.Generator())
