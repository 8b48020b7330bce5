"""Graphs: without cycles, of as many edges as was said, the same for the same seed."""

import networkx as nx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_tasks import (
    ErdosRenyi,
    GivenGraphs,
    GraphFamily,
    ScaleFree,
    StochasticBlock,
    WattsStrogatz,
    to_networkx,
)

CHAIN = nx.DiGraph([("a", "b"), ("b", "c")])
FAMILIES = {
    "ErdosRenyi": ErdosRenyi(1.5),
    "in": ScaleFree(2, "in"),
    "out": ScaleFree(2, "out"),
    "small world": WattsStrogatz(),
    "small world in 3D": WattsStrogatz(3),
    "blocks": StochasticBlock(1.5, num_blocks=3),
}


@pytest.mark.parametrize("name", FAMILIES)
@given(seed=st.integers(0, 2**61), num_nodes=st.integers(1, 12))
def test_there_is_no_cycle_and_a_batch_is_its_tasks_one_at_a_time(name, seed, num_nodes):
    family = FAMILIES[name]
    assert isinstance(family, GraphFamily)
    seeds = seed + torch.arange(3)
    graphs = family.sample(seeds, num_nodes)
    assert graphs.shape == (3, num_nodes, num_nodes)
    for task in range(3):
        assert nx.is_directed_acyclic_graph(to_networkx(graphs[task]))
        assert torch.equal(family.sample(seeds[task : task + 1], num_nodes)[0], graphs[task])


@pytest.mark.parametrize("name", FAMILIES)
def test_names_of_nodes_say_nothing_of_the_order(name):
    graphs = FAMILIES[name].sample(torch.arange(600), 8).float()
    earlier, later = graphs.triu().sum((1, 2)).mean(), graphs.tril().sum((1, 2)).mean()
    assert abs(earlier - later) < 0.1 * (earlier + later)


@pytest.mark.parametrize(
    ("family", "edges"),
    [
        (ErdosRenyi(2.0), 2.0 * 20),
        (ErdosRenyi(50.0), 0.99 * 190),
        (StochasticBlock(2.0), 2.0 * 20),
        (StochasticBlock(2.0, num_blocks=10), 2.0 * 20),  # ten pairs hold ten at most
        (StochasticBlock(50.0), 0.99 * 190),
        (ScaleFree(2), 2 * 18),
        (ScaleFree(3, "out"), 3 * 17),
        (WattsStrogatz(2), 31.0),  # five columns and four rows of a lattice
    ],
)
def test_how_many_edges(family, edges):
    counts = family.sample(torch.arange(400), 20).sum((1, 2)).double()
    assert counts.mean().item() == pytest.approx(edges, rel=0.03)


def test_hubs_have_many_causes_or_many_effects():
    seeds = torch.arange(100)
    incoming, outgoing = (ScaleFree(1, way).sample(seeds, 40).long() for way in ("in", "out"))
    for hubs, leaves in ((1, 2), (2, 1)):
        graphs = incoming if hubs == 1 else outgoing
        assert graphs.sum(hubs).max(1).values.double().mean() > 6
        assert graphs.sum(leaves).max() == 1


def test_an_unrewired_lattice_has_its_neighbours():
    graph = WattsStrogatz(1, rewire=0.0).sample(torch.tensor([5]), 7)[0]
    path = to_networkx(graph).to_undirected()
    assert nx.is_isomorphic(path, nx.path_graph(7))
    cube = WattsStrogatz(3, rewire=0.0).sample(torch.tensor([5]), 27)[0]
    assert nx.is_isomorphic(to_networkx(cube).to_undirected(), nx.grid_graph([3, 3, 3]))


def test_rewiring_moves_edges_and_keeps_their_number():
    seeds = torch.arange(50)
    kept, moved = (WattsStrogatz(2, rewire=rate).sample(seeds, 16) for rate in (0.0, 1.0))
    assert (kept.sum((1, 2)) == moved.sum((1, 2))).all()
    assert not any(
        nx.is_isomorphic(*(to_networkx(graphs[task]).to_undirected() for graphs in (kept, moved)))
        for task in range(50)
    )


def test_blocks_keep_to_themselves():
    family = StochasticBlock(2.0, num_blocks=2, damping=0.0)
    for graph in family.sample(torch.arange(20), 20):
        parts = nx.connected_components(to_networkx(graph).to_undirected())
        assert max(map(len, parts)) <= 10


def test_given_graphs_keep_their_nodes_in_order():
    other = nx.create_empty_copy(CHAIN)
    other.add_edges_from([("a", "c"), ("c", "b")])
    graphs = GivenGraphs([CHAIN, other]).sample(torch.tensor([0, 1, 2]), 3)
    assert to_networkx(graphs[0]).edges == nx.DiGraph([(0, 1), (1, 2)]).edges
    assert torch.equal(graphs[0], graphs[2]) and not torch.equal(graphs[0], graphs[1])


def test_given_graphs_must_be_usable(untyped):
    with pytest.raises(ValueError, match=r"no cycle; number 1 has a -> b -> c -> a\."):
        GivenGraphs([CHAIN, nx.DiGraph([("a", "b"), ("b", "c"), ("c", "a")])])
    with pytest.raises(TypeError, match=r"type networkx\.DiGraph; number 0 is of Graph"):
        GivenGraphs([nx.path_graph(3)])
    with pytest.raises(TypeError, match=r"type networkx\.DiGraph; number 0 is of str"):
        GivenGraphs(CHAIN)
    with pytest.raises(ValueError, match="at least one graph; got none"):
        GivenGraphs([])
    with pytest.raises(ValueError, match=r"same number of nodes; got \[2, 3\]"):
        GivenGraphs([CHAIN, nx.DiGraph([("a", "b")])])
    with pytest.raises(ValueError, match="`num_nodes` must be 3, as `graphs` have; got 4"):
        GivenGraphs([CHAIN]).sample(torch.tensor([0]), 4)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: ErdosRenyi(0.0), "`edges_per_node` must be above 0; got 0"),
        (lambda: ScaleFree(0), "`edges_per_node` must be at least 1; got 0"),
        (lambda: ScaleFree(1, "up"), "`direction` must be one of 'in', 'out'; got 'up'"),
        (lambda: WattsStrogatz(0), "`lattice_dim` must be at least 1; got 0"),
        (lambda: WattsStrogatz(rewire=1.5), "`rewire` must be from 0 to 1; got 1.5"),
        (lambda: StochasticBlock(damping=-1.0), "`damping` must be from 0 to 1; got -1.0"),
        (lambda: StochasticBlock(num_blocks=0), "`num_blocks` must be at least 1; got 0"),
    ],
)
def test_what_cannot_be(untyped, make, text):
    with pytest.raises(ValueError, match=text):
        make()
