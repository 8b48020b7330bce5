"""Tasks that ask which variables of a structural causal model are leaves of its graph."""

import math
from typing import Literal

import attrs
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from iai_tasks import counter_random
from iai_tasks._validators import Range, at_least, is_range, one_of
from iai_tasks.causal.random_graph import GraphFamily
from iai_tasks.counter_random import stream
from iai_tasks.examples import Examples
from iai_tasks.sampler import AbstractSampler
from iai_tasks.spec import Categorical, TaskSpec

Seeds = Int64[Tensor, " task"]
Noise = Literal["gaussian", "laplace", "cauchy"]

_GRAPH, _WEIGHT, _SIGN, _BIAS, _SCALE, _LENGTH, _GAIN, _PHASE, _WAVE, _REFERENCE = range(10)
_WAVES = 100  # random Fourier features of a mechanism
_REFERENCE_ROWS = 1024  # samples whose mean and deviation standardise the variables of a task
_END = 2**62  # one past the largest seed


def _is_positive_range(_: object, attribute: "attrs.Attribute[Range]", value: Range) -> None:
    if not (len(value) == 2 and 0 < value[0] <= value[1] < math.inf):
        raise ValueError(f"`{attribute.name}` must be 0 < smallest <= largest; got {value}.")


@attrs.frozen(kw_only=True)
class StructuralCausalModels(AbstractSampler):
    """Tasks that show samples of variables, and ask of each variable whether it has an effect.

    A variable is a function of its causes in the graph, plus noise. The support holds samples, a
    number for each variable, and no targets. A query is the index of a variable; its class is 1 if
    the variable is a leaf of the graph, which causes no other variable. Removing leaf after leaf
    gives an order of causes before effects: `order_by_leaves`. With more queries than variables,
    each variable is asked about again. Numbers have torch's default dtype.

    The latent of a task is one int64 seed: graph, mechanisms and scales are functions of it through
    a counter-based hash. Seeds are uniform on `first_seed`, ..., `first_seed + num_tasks - 1`.
    Tasks that were not seen in training with `num_tasks=n` are those of `first_seed=n`.

    The linear mechanism is b + w . causes. The Fourier mechanism approximates a draw from a
    Gaussian process, b + c sqrt(2 / 100) sum_m alpha_m cos(omega_m . causes / l + u_m), with alpha,
    omega ~ N(0, 1) and u uniform on the circle. Each variable draws its b, l, c and scale uniformly
    from the ranges below. So does each weight its size; its sign is a fair coin.

    Attributes:
        graphs: Gives the graph of a seed.
        num_nodes: Number of variables.
        mechanism: "linear" or "fourier".
        noise: "gaussian", "laplace" or "cauchy". In a linear Gaussian model all variables have the
            same scale of noise: with different ones, data could not tell the order. After
            standardising, only the range of the weights still hints at the order of such a model.
        standardise: Whether each variable is standardised, by the mean and deviation of 1,024
            samples that are a function of the task's seed. The scale of raw variables grows from
            causes to effects, which tells much of their order.
        weight: Range of the sizes of a linear mechanism's weights.
        bias: Range of b.
        scale: Range of the noise's standard deviation; of Laplace and Cauchy noise, its scale.
        length: Range of l, in units of the causes.
        gain: Range of c.
        first_seed: The smallest seed.
        num_tasks: Number of tasks; by default there is one for every seed from `first_seed` on.

    Raises:
        ValueError: If a name is unknown, or a number or a range is out of range.

    Source:
        Lorenz, Rothfuss, Schölkopf, 2022, "Amortized Inference for Causal Structure Learning",
        arXiv 2205.12934, with the ranges of Scetbon et al., 2024, "A Fixed-Point Approach for
        Causal Generative Modeling", arXiv 2404.06969. They standardise by the data of a task, which
        changes with every draw; we standardise by samples that the seed fixes.

    >>> from iai_tasks import ErdosRenyi
    >>> sampler = StructuralCausalModels(graphs=ErdosRenyi(1.0), num_nodes=6)
    >>> generator = torch.Generator().manual_seed(0)
    >>> batch = sampler.sample(4, num_support=100, num_query=6, generator=generator)
    >>> batch.support.x.shape, batch.query.y.shape
    (torch.Size([4, 100, 6]), torch.Size([4, 6]))
    >>> leaf = ~sampler.graph(batch.latent).any(2)  # causes no other
    >>> bool((batch.query.y == leaf.gather(1, batch.query.x[..., 0].long())).all())
    True
    """

    latent_shape, latent_holds = (), "seeds"

    graphs: GraphFamily
    num_nodes: int = attrs.field(validator=at_least(1))
    mechanism: Literal["linear", "fourier"] = attrs.field(
        default="linear", validator=one_of("linear", "fourier")
    )
    noise: Noise = attrs.field(
        default="gaussian", validator=one_of("gaussian", "laplace", "cauchy")
    )
    standardise: bool = False
    weight: Range = attrs.field(default=(1.0, 3.0), validator=_is_positive_range)
    bias: Range = attrs.field(default=(-3.0, 3.0), validator=is_range)
    scale: Range = attrs.field(default=(0.2, 2.0), validator=_is_positive_range)
    length: Range = attrs.field(default=(7.0, 10.0), validator=_is_positive_range)
    gain: Range = attrs.field(default=(10.0, 20.0), validator=_is_positive_range)
    first_seed: int = attrs.field(default=0, validator=at_least(0))
    num_tasks: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(at_least(1))
    )

    @property
    def spec(self) -> TaskSpec:
        """A number for each variable; a query is one index, and asks for one of two classes."""
        return TaskSpec(
            support_x_shape=(self.num_nodes,), query_x_shape=(1,), target=Categorical(2)
        )

    def graph(self, latent: Seeds) -> Bool[Tensor, "task node node"]:
        """The graph of each seed: True at [i, j] where i is a cause of j."""
        return self.graphs.sample(stream(latent, _GRAPH), self.num_nodes)

    def draw_latent(self, num_tasks: int, generator: torch.Generator) -> Seeds:
        """Draws seeds, uniform from `first_seed` on."""
        end = _END if self.num_tasks is None else self.first_seed + self.num_tasks
        return torch.randint(
            self.first_seed, end, (num_tasks,), generator=generator, device=generator.device
        )

    def draw_examples(
        self, latent: Seeds, num_support: int, num_query: int, generator: torch.Generator
    ) -> tuple[Examples, Examples]:
        """Draws samples of the variables, and asks about the variables in random order."""
        graph = self.graph(latent)
        shape = (len(latent), num_support, self.num_nodes)
        uniform = torch.empty(shape, dtype=torch.float32, device=latent.device)
        x = self._variables(graph, self._quantile(uniform.uniform_(generator=generator)), latent)
        if self.standardise:
            counter = torch.arange(_REFERENCE_ROWS * self.num_nodes, device=latent.device)
            uniform = counter_random.uniform(stream(latent, _REFERENCE), counter)
            noise = self._quantile(uniform.view(-1, _REFERENCE_ROWS, self.num_nodes))
            reference = self._variables(graph, noise, latent)
            x = (x - reference.mean(1, keepdim=True)) / reference.std(1, keepdim=True)
        keys = torch.rand(len(latent), self.num_nodes, generator=generator, device=latent.device)
        turn = torch.arange(num_query, device=latent.device).remainder(self.num_nodes)
        asked = keys.argsort(1)[:, turn]
        is_leaf = (~graph.any(2)).gather(1, asked).long()
        support_x, query_x = (
            numbers.to(torch.get_default_dtype()) for numbers in (x, asked[..., None])
        )
        return Examples(x=support_x), Examples(x=query_x, y=is_leaf)

    def _variables(
        self, graph: Tensor, noise: Tensor, latent: Tensor
    ) -> Float32[Tensor, "task n node"]:
        """The variables, given noise of scale 1, before they are standardised."""
        one_scale = self.mechanism == "linear" and self.noise == "gaussian"
        scale = self._drawn(latent, _SCALE, self.scale, 1 if one_scale else self.num_nodes)
        x = noise * scale[:, None] + self._drawn(latent, _BIAS, self.bias, self.num_nodes)[:, None]
        task = torch.arange(len(latent), device=latent.device)
        effect = self._linear if self.mechanism == "linear" else self._fourier
        for node in topological_order(graph).T:
            causes = x * graph[task, :, node][:, None]
            x[task, :, node] += effect(causes, node, graph.any(1)[task, node], latent)
        return x

    def _linear(self, causes: Tensor, node: Tensor, _: Tensor, latent: Tensor) -> Tensor:
        seeds = stream(stream(latent, _WEIGHT), node)
        size = self._drawn(seeds, _WEIGHT, self.weight, self.num_nodes)
        coin = self._drawn(seeds, _SIGN, (0.0, 1.0), self.num_nodes) < 0.5
        effect: Tensor = causes @ size.where(coin, -size)[..., None]
        return effect[..., 0]

    def _fourier(self, causes: Tensor, node: Tensor, has_cause: Tensor, latent: Tensor) -> Tensor:
        seeds = stream(stream(latent, _WEIGHT), node)
        length = self._drawn(seeds, _LENGTH, self.length, 1)
        gain = self._drawn(seeds, _GAIN, self.gain, 1)
        phase = self._drawn(seeds, _PHASE, (0.0, 2 * math.pi), _WAVES)
        counter = torch.arange(_WAVES // 2 * (self.num_nodes + 1), device=latent.device)
        normal = counter_random.normal(stream(seeds, _WAVE), counter).flatten(1)
        normal = normal.view(-1, self.num_nodes + 1, _WAVES)
        omega, alpha = normal[:, :-1] / length[..., None], normal[:, -1]
        waves = (causes @ omega + phase[:, None]).cos() @ alpha[..., None]
        # Without a cause the sum is a constant, which the bias already is.
        effect: Tensor = waves[..., 0] * gain * math.sqrt(2 / _WAVES)
        return effect.where(has_cause[:, None], 0.0)

    def _drawn(self, latent: Tensor, number: int, bounds: Range, num: int) -> Tensor:
        """Uniform numbers of each seed, `task num`."""
        counter = torch.arange(num, device=latent.device)
        low, high = bounds
        return low + (high - low) * counter_random.uniform(stream(latent, number), counter)

    def _quantile(self, uniform: Float32[Tensor, "task n node"]) -> Float32[Tensor, "task n node"]:
        """Noise of scale 1, by its quantile function, from multiples of 2^-24 in [0, 1)."""
        u = uniform.double() + 2.0**-25  # neither 0 nor 1
        noise: Tensor
        if self.noise == "gaussian":
            noise = torch.special.ndtri(u)
        elif self.noise == "laplace":
            noise = (0.5 - u).sign() * (1 - (2 * u - 1).abs()).log()
        else:
            noise = (math.pi * (u - 0.5)).tan()
        return noise.float()


def topological_order(graph: Bool[Tensor, "task node node"]) -> Int64[Tensor, "task node"]:
    """The nodes of each graph, every cause before its effects.

    Of the nodes that may come next, the one with the lowest index does.

    Raises:
        ValueError: If a graph has a cycle.

    >>> topological_order(torch.tensor([[[False, False], [True, False]]]))  # 1 causes 0
    tensor([[1, 0]])
    """
    left = graph.new_ones(graph.shape[:2])
    nodes = []
    for _ in range(graph.shape[1]):
        caused = (graph & left[:, :, None]).any(1)
        nodes.append((left & ~caused).to(torch.int8).argmax(1))
        left = left.scatter(1, nodes[-1][:, None], False)
    order = torch.stack(nodes, dim=1)
    if (order.sort(1).values != torch.arange(graph.shape[1], device=graph.device)).any():
        raise ValueError("`graph` must have no cycle.")
    return order
