"""Tasks that ask which variables of a structural causal model are leaves of its graph."""

import math
from typing import Literal

import attrs
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from iai_tasks import counter_random
from iai_tasks._validators import Range, at_least, is_range, one_of
from iai_tasks.causal.random_graph import GraphFamily
from iai_tasks.examples import Examples
from iai_tasks.sampler import AbstractSampler
from iai_tasks.spec import Categorical, TaskSpec

Seeds = Int64[Tensor, " task"]
Noise = Literal["gaussian", "laplace", "cauchy"]

_GRAPH, _WEIGHT, _SIGN, _BIAS, _SCALE, _LENGTH, _GAIN, _PHASE, _WAVE, _REFERENCE = range(10)
_WAVES = 100  # random Fourier features of a mechanism
_REFERENCE_ROWS = 1024  # samples that fix mean and scale of the variables of a standardised task
_END = 2**62  # of seeds


def _is_positive_range(_: object, attribute: "attrs.Attribute[Range]", value: Range) -> None:
    if not (len(value) == 2 and 0 < value[0] <= value[1] < math.inf):
        raise ValueError(f"`{attribute.name}` must be 0 < smallest <= largest; got {value}.")


@attrs.frozen(kw_only=True)
class StructuralCausalModels(AbstractSampler):
    """Tasks that show samples of variables, and ask of each whether it has an effect.

    A variable is a function of its causes in the graph plus noise. The support holds samples, one
    number a variable, and no targets. A query is the number of a variable, and its class 1 where
    the variable is a leaf of the graph: no other depends on it. Removing leaf after leaf gives an
    order of causes before effects: `order_by_leaves`.

    A task is one int64 seed, which is its latent: graph, mechanisms and scales are functions of it
    through a counter-based hash. Seeds are drawn uniformly from `first_seed`, ...,
    `first_seed + num_tasks - 1`, so that tasks never seen with `num_tasks=n` are those with
    `first_seed=n`.

    The linear mechanism is b + w . causes. The Fourier one is a function drawn, nearly, from a
    Gaussian process: b + c sqrt(2 / 100) sum_m alpha_m cos(omega_m . causes / l + u_m), with alpha,
    omega ~ N(0, 1) and u uniform on the circle. Ranges are of uniform draws, one a variable; of
    `weight` they are sizes, and a coin gives the sign.

    Attributes:
        graphs: Where the graph of a seed comes from.
        num_nodes: Number of variables.
        mechanism: "linear" or "fourier".
        noise: "gaussian", "laplace" or "cauchy". Linear Gaussian models have one scale of noise for
            all variables: with several the order could not be told from data. Standardised, little
            tells it: the ranges of the weights.
        standardise: Whether each variable has mean 0 and deviation 1, by 1,024 samples of the
            task that are a function of its seed. Raw ones tell much of the order by their scale,
            which grows from causes to effects.
        weight: Sizes of a linear mechanism's weights.
        bias: b.
        scale: Standard deviation of the noise; of Laplace and Cauchy noise the scale.
        length: l of a Fourier mechanism, in units of the causes.
        gain: c of a Fourier mechanism.
        first_seed: The smallest seed.
        num_tasks: How many tasks there are; None: all seeds from `first_seed` on.

    Raises:
        ValueError: If a name is unknown, or a number or a range is out of range.

    Source:
        Lorenz, Rothfuss, Schölkopf, 2022, "Amortized Inference for Causal Structure Learning",
        arXiv 2205.12934, in the ranges of Scetbon et al., 2024, "A Fixed-Point Approach for Causal
        Generative Modeling", arXiv 2404.06969. Ours is the standardisation by the task rather than
        by the data.

    >>> from iai_tasks import ErdosRenyi
    >>> sampler = StructuralCausalModels(graphs=ErdosRenyi(1.0), num_nodes=6)
    >>> generator = torch.Generator().manual_seed(0)
    >>> batch = sampler.sample(4, num_support=100, num_query=6, generator=generator)
    >>> batch.support.x.shape, batch.query.y.shape
    (torch.Size([4, 100, 6]), torch.Size([4, 6]))
    >>> leaf = ~sampler.graph(batch.latent).any(2)  # of no edge a cause
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
        """Inputs of a number a variable; a query names one, and asks for one of two classes."""
        return TaskSpec(
            support_x_shape=(self.num_nodes,), query_x_shape=(1,), target=Categorical(2)
        )

    def graph(self, latent: Seeds) -> Bool[Tensor, "task node node"]:
        """The graph of each seed: True at [i, j] where i is a cause of j."""
        return self.graphs.sample(_stream(latent, _GRAPH), self.num_nodes)

    def draw_latent(self, num_tasks: int, generator: torch.Generator) -> Seeds:
        """Draws seeds, uniform from `first_seed` on."""
        end = _END if self.num_tasks is None else self.first_seed + self.num_tasks
        return torch.randint(
            self.first_seed, end, (num_tasks,), generator=generator, device=generator.device
        )

    def draw_examples(
        self, latent: Seeds, num_support: int, num_query: int, generator: torch.Generator
    ) -> tuple[Examples, Examples]:
        """Draws samples of the variables, and asks about the variables in random order.

        With more queries than variables, the same order is gone through again. Numbers have torch's
        default dtype.
        """
        graph = self.graph(latent)
        shape = (len(latent), num_support, self.num_nodes)
        x = self._solve(graph, self._noise_of(generator, shape), latent)
        keys = torch.rand(len(latent), self.num_nodes, generator=generator, device=latent.device)
        turn = torch.arange(num_query, device=latent.device).remainder(self.num_nodes)
        asked = keys.argsort(1)[:, turn]
        is_leaf = (~graph.any(2)).gather(1, asked).long()
        query_x = asked[..., None].to(torch.get_default_dtype())
        return Examples(x=x), Examples(x=query_x, y=is_leaf)

    def _solve(self, graph: Tensor, noise: Tensor, latent: Tensor) -> Float[Tensor, "task n node"]:
        """The variables that the noise makes: float32 inside, standardised if asked."""
        x = self._variables(graph, noise, latent)
        if self.standardise:
            counter = torch.arange(_REFERENCE_ROWS * self.num_nodes, device=latent.device)
            uniform = counter_random.uniform(_stream(latent, _REFERENCE), counter)
            shape = (-1, _REFERENCE_ROWS, self.num_nodes)
            reference = self._variables(graph, self._quantile(uniform.view(shape)), latent)
            x = (x - reference.mean(1, keepdim=True)) / reference.std(1, keepdim=True)
        return x.to(torch.get_default_dtype())

    def _variables(self, graph: Tensor, noise: Tensor, latent: Tensor) -> Tensor:
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
        own = _stream(_stream(latent, _WEIGHT), node)
        size = self._drawn(own, _WEIGHT, self.weight, self.num_nodes)
        coin = self._drawn(own, _SIGN, (0.0, 1.0), self.num_nodes) < 0.5
        effect: Tensor = causes @ size.where(coin, -size)[..., None]
        return effect[..., 0]

    def _fourier(self, causes: Tensor, node: Tensor, caused: Tensor, latent: Tensor) -> Tensor:
        own = _stream(_stream(latent, _WEIGHT), node)
        length = self._drawn(own, _LENGTH, self.length, 1)
        gain = self._drawn(own, _GAIN, self.gain, 1)
        phase = self._drawn(own, _PHASE, (0.0, 2 * math.pi), _WAVES)
        counter = torch.arange(_WAVES // 2 * (self.num_nodes + 1), device=latent.device)
        normal = counter_random.normal(_stream(own, _WAVE), counter).flatten(1)
        normal = normal.view(-1, self.num_nodes + 1, _WAVES)
        omega, alpha = normal[:, :-1] / length[..., None], normal[:, -1]
        waves = (causes @ omega + phase[:, None]).cos() @ alpha[..., None]
        # A variable without a cause would have a constant here, which is the bias's to give.
        effect: Tensor = waves[..., 0] * gain * math.sqrt(2 / _WAVES)
        return effect.where(caused[:, None], 0.0)

    def _drawn(self, latent: Tensor, stream: int, bounds: Range, num: int) -> Tensor:
        """Uniform numbers of each seed, `task num`."""
        counter = torch.arange(num, device=latent.device)
        low, high = bounds
        return low + (high - low) * counter_random.uniform(_stream(latent, stream), counter)

    def _noise_of(self, generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
        return self._quantile(
            torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float32)
        )

    def _quantile(self, uniform: Tensor) -> Tensor:
        """Noise of scale 1 from numbers of [0, 1), multiples of 2^-24."""
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
    """The nodes of each graph, every cause before its effects; of several, the first comes first.

    Raises:
        ValueError: If a graph has a cycle.

    >>> topological_order(torch.tensor([[[False, False], [True, False]]]))  # 1 causes 0
    tensor([[1, 0]])
    """
    left = graph.new_ones(graph.shape[:2])
    order = []
    for _ in range(graph.shape[1]):
        caused = (graph & left[:, :, None]).any(1)
        order.append((left & ~caused).to(torch.int8).argmax(1))
        left = left.scatter(1, order[-1][:, None], False)
    found = torch.stack(order, dim=1)
    if (found.sort(1).values != torch.arange(graph.shape[1], device=graph.device)).any():
        raise ValueError("`graph` must have no cycle.")
    return found


def _stream(seeds: Tensor, number: int | Tensor) -> Tensor:
    return counter_random.bits(seeds, torch.as_tensor(number, device=seeds.device))
