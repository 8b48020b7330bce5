"""Families of directed acyclic graphs: a graph for every seed, for many seeds at once."""

import functools
import random
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import attrs
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from iai_tasks import counter_random
from iai_tasks._extra import extra
from iai_tasks._validators import at_least, is_probability, one_of, positive
from iai_tasks.counter_random import stream

Seeds = Int64[Tensor, " task"]
Graphs = Bool[Tensor, "task node node"]  # True at [i, j] where i is a cause of j


@runtime_checkable
class GraphFamily(Protocol):
    """Draws directed acyclic graphs."""

    def sample(self, seeds: Seeds, num_nodes: int) -> Graphs:
        """The graph of each seed: True at [i, j] where there is an edge from i to j."""


@attrs.frozen
class ErdosRenyi:
    """Every pair of nodes has an edge with the same probability; a random order directs the edges.

    Attributes:
        edges_per_node: Expected number of edges divided by the number of nodes. The probability of
            an edge is min(2 edges_per_node / (num_nodes - 1), 0.99), so small graphs have fewer.

    >>> graphs = ErdosRenyi(2.0).sample(torch.arange(500), 9)
    >>> round(graphs.sum((1, 2)).float().mean().item() / 9, 1)
    2.0
    """

    edges_per_node: float = attrs.field(default=2.0, validator=positive)

    def sample(self, seeds: Seeds, num_nodes: int) -> Graphs:
        """The graph of each seed, the same on every device."""
        probability = min(2 * self.edges_per_node / max(num_nodes - 1, 1), 0.99)
        counter = torch.arange(num_nodes**2, device=seeds.device)
        uniform = counter_random.uniform(stream(seeds, 0), counter)
        return _directed((uniform < probability).view(-1, num_nodes, num_nodes), seeds)


@attrs.frozen
class ScaleFree:
    """Nodes join one by one and link to earlier nodes, preferring those with many links.

    Attributes:
        edges_per_node: Links that a joining node makes, or all earlier nodes while there are fewer.
        direction: "in": a joining node is a cause of the nodes that it links to, so that hubs have
            many causes. "out": it is their effect, so that hubs have many effects.

    Source:
        Barabási, Albert, 1999, "Emergence of Scaling in Random Networks", Science 286. Needs
        networkx: `pip install "iai-tasks[graphs]"`.
    """

    edges_per_node: int = attrs.field(
        default=2, validator=[attrs.validators.instance_of(int), at_least(1)]
    )
    direction: Literal["in", "out"] = attrs.field(default="in", validator=one_of("in", "out"))

    def sample(self, seeds: Seeds, num_nodes: int) -> Graphs:
        """The graph of each seed."""
        networkx = _import_networkx()
        links = min(self.edges_per_node, num_nodes - 1)

        def draw(seed: int) -> Any:
            if links < 1:
                return networkx.empty_graph(num_nodes)
            return networkx.barabasi_albert_graph(num_nodes, links, seed=seed)

        older_first = _drawn(draw, seeds, num_nodes).triu()
        return _shuffled(older_first.mT if self.direction == "in" else older_first, seeds)


@attrs.frozen
class WattsStrogatz:
    """Neighbours on a lattice, some of their edges rewired at random; a random order directs them.

    The lattice is the smallest cube with room for all nodes, filled line by line.

    Attributes:
        lattice_dim: Dimensions of the lattice.
        rewire: Probability that one end of an edge is moved to another node.

    Source:
        Watts, Strogatz, 1998, "Collective dynamics of 'small-world' networks", Nature 393, on a
        lattice of any dimension. Needs networkx.
    """

    lattice_dim: int = attrs.field(default=2, validator=at_least(1))
    rewire: float = attrs.field(default=0.3, validator=is_probability)

    def sample(self, seeds: Seeds, num_nodes: int) -> Graphs:
        """The graph of each seed."""
        networkx = _import_networkx()
        side = 1
        while side**self.lattice_dim < num_nodes:
            side += 1
        points = torch.cartesian_prod(*[torch.arange(side)] * self.lattice_dim)
        points = points.view(-1, self.lattice_dim)[:num_nodes]
        distance = (points[:, None] - points).abs().sum(-1)
        lattice = (distance == 1).triu().nonzero().tolist()

        def draw(seed: int) -> Any:
            chance = random.Random(seed)
            graph = networkx.empty_graph(num_nodes)
            graph.add_edges_from(lattice)
            for near, far in lattice:
                if chance.random() >= self.rewire:
                    continue
                free = [end for end in graph if end != near and end not in graph[near]]
                if free:
                    graph.remove_edge(near, far)
                    graph.add_edge(near, chance.choice(free))
            return graph

        return _directed(_drawn(draw, seeds, num_nodes), seeds)


@attrs.frozen
class StochasticBlock:
    """Nodes in blocks, with more edges inside than across; a random order directs them.

    Attributes:
        edges_per_node: Expected number of edges divided by the number of nodes; fewer if the graph
            has no room for them.
        num_blocks: Number of blocks, of sizes as equal as can be.
        damping: Probability of an edge across blocks divided by that of one inside. It is larger
            where the blocks are too small to hold the other edges.

    Source:
        Holland, Laskey, Leinhardt, 1983, "Stochastic blockmodels", Social Networks 5. Needs
        networkx.
    """

    edges_per_node: float = attrs.field(default=2.0, validator=positive)
    num_blocks: int = attrs.field(default=5, validator=at_least(1))
    damping: float = attrs.field(default=0.1, validator=is_probability)

    def sample(self, seeds: Seeds, num_nodes: int) -> Graphs:
        """The graph of each seed."""
        networkx = _import_networkx()
        block = torch.arange(num_nodes) % self.num_blocks
        sizes = block.bincount(minlength=self.num_blocks).tolist()
        inside = sum(size * (size - 1) / 2 for size in sizes)
        across = num_nodes * (num_nodes - 1) / 2 - inside
        pairs = inside + self.damping * across
        edges = self.edges_per_node * num_nodes
        inner = min(edges / pairs, 0.99) if pairs else 0.0
        outer = min((edges - inner * inside) / across, 0.99) if across else 0.0
        blocks = range(self.num_blocks)
        probabilities = [[inner if a == b else outer for a in blocks] for b in blocks]
        draw = functools.partial(networkx.stochastic_block_model, sizes, probabilities)
        return _directed(_drawn(draw, seeds, num_nodes), seeds)


class GivenGraphs:
    """Graphs of your own; a seed chooses one of them, whose nodes keep their order.

    Args:
        graphs: Directed acyclic graphs of networkx, all with the same number of nodes.

    Raises:
        TypeError: If one is no directed graph of networkx.
        ValueError: If there is none, one has a cycle, or they differ in their number of nodes.
    """

    def __init__(self, graphs: Sequence[Any]) -> None:
        networkx = _import_networkx()
        if not graphs:
            raise ValueError("`graphs` must hold at least one graph; got none.")
        for number, graph in enumerate(graphs):
            if not isinstance(graph, networkx.DiGraph):
                raise TypeError(
                    f"`graphs` must be of type networkx.DiGraph; number {number} is of "
                    f"{type(graph).__name__}."
                )
            if not networkx.is_directed_acyclic_graph(graph):
                cycle = [str(source) for source, *_ in networkx.find_cycle(graph)]
                path = " -> ".join([*cycle, cycle[0]])
                raise ValueError(f"`graphs` must have no cycle; number {number} has {path}.")
        counts = {graph.number_of_nodes() for graph in graphs}
        if len(counts) > 1:
            raise ValueError(
                f"`graphs` must all have the same number of nodes; got {sorted(counts)}."
            )
        self._graphs = torch.stack(
            [torch.from_numpy(networkx.to_numpy_array(graph, weight=None) > 0) for graph in graphs]
        )

    def sample(self, seeds: Seeds, num_nodes: int) -> Graphs:
        """The graph that each seed chooses.

        Raises:
            ValueError: If the graphs have another number of nodes.
        """
        if num_nodes != self._graphs.shape[1]:
            raise ValueError(
                f"`num_nodes` must be {self._graphs.shape[1]}, as `graphs` have; got {num_nodes}."
            )
        return self._graphs.to(seeds.device)[seeds.remainder(len(self._graphs))]


def to_networkx(graph: Bool[Tensor, "node node"]) -> Any:
    """The graph of one task as a `networkx.DiGraph`, nodes numbered from 0.

    Raises:
        ImportError: If networkx is not installed.

    >>> to_networkx(torch.tensor([[False, True], [False, False]])).edges
    OutEdgeView([(0, 1)])
    """
    networkx = _import_networkx()
    directed = networkx.empty_graph(len(graph), networkx.DiGraph)
    directed.add_edges_from(graph.nonzero().tolist())
    return directed


def subgraph(
    graph: Graphs, nodes: Int64[Tensor, "task chosen"]
) -> Bool[Tensor, "task chosen chosen"]:
    """The edges among some nodes of each graph, the nodes in the order given."""
    task = torch.arange(len(graph), device=graph.device)[:, None, None]
    return graph[task, nodes[:, :, None], nodes[:, None]]


def _import_networkx() -> Any:
    with extra("graphs"):
        import networkx
    return networkx


def _drawn(draw: Callable[..., Any], seeds: Seeds, num_nodes: int) -> Graphs:
    """The symmetric adjacency of an undirected graph for each seed."""
    streams = stream(seeds, 0).remainder(2**32).tolist()
    linked = torch.zeros(len(streams), num_nodes, num_nodes, dtype=torch.bool)
    for task, seed in enumerate(streams):
        edges = torch.tensor(list(draw(seed=seed).edges), dtype=torch.int64).view(-1, 2).mT
        linked[task, edges[0], edges[1]] = True
    return (linked | linked.mT).to(seeds.device)


def _directed(linked: Graphs, seeds: Seeds) -> Graphs:
    """Directs edges by a random order; of a pair the entry above the diagonal counts."""
    return _shuffled(linked.triu(diagonal=1), seeds)


def _shuffled(graph: Graphs, seeds: Seeds) -> Graphs:
    """The same graphs, their nodes in a random order."""
    return subgraph(graph, counter_random.permutation(stream(seeds, 1), graph.shape[1]))
