"""What causes what: the order of variables, from samples alone
=============================================================

A task is a table: samples of variables that cause one another along a graph that has no cycle. Of
each variable the learner says how likely it is a leaf, one that causes no other; the likeliest is
removed, and the question is asked again of those that are left, until an order of all stands. The
learner met ten variables and fewer in training, on random graphs of three families. It is tested on
unseen ones, on graphs of two other families, on two and five times the variables, on mechanisms of
another form and on heavier tails, and it reads a table minibatch by minibatch: every row once, in
memory that does not grow with them.

The error is the fraction of removals that were of no leaf. Beside the learner stand a model that
reads all rows in one pass, the mean of that model's answers to each minibatch, the order of the
variances, and the order of the smallest entries of the precision matrix. That one is right for
linear models with noise of one size, as raw linear tables here have it: with rows enough it makes
no error, and no learner can be better. Fourier mechanisms have noise of another size for each
variable.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs
import rich
import torch
from iai_encoders import AxialTransformer
from iai_iterate import Iterated
from iai_regimes import Categorical, ImplicitColumns, Unlabelled
from iai_tasks import (
    ErdosRenyi,
    Examples,
    ScaleFree,
    StochasticBlock,
    StructuralCausalModels,
    TaskBatch,
    WattsStrogatz,
    order_by_leaves,
    order_error,
    variance_order,
    without_leaves,
)
from iai_train import (
    Device,
    FitConfig,
    Row,
    RunInfo,
    SamplerSource,
    figure,
    fit,
    parse,
    process_generator,
    resolve_device,
    summarise,
    table,
    write_metrics,
)
from torch import Tensor

SEEN_TASKS = 2**20  # seeds of training tasks; all others are unseen
REFINED, ONE_PASS = "refined over minibatches", "one pass, all rows"
Score = Callable[[Tensor], Tensor]


@attrs.frozen(kw_only=True)
class Config:
    """Settings of the example."""

    out: Path = Path("runs/topological_order")
    """Folder for checkpoints, metrics.json and figure.png; a stopped run goes on from it."""
    seed: int = 0
    """Seed of weights and tasks."""
    device: Device = "auto"
    """auto is CUDA where there is one."""
    mechanism: Literal["linear", "fourier"] = "linear"
    """How a variable follows from its causes."""
    noise: Literal["gaussian", "laplace", "cauchy"] = "gaussian"
    """Law of the noise in training."""
    standardise: bool = False
    """Whether all variables have one scale. Raw ones tell much of the order by theirs."""
    num_nodes: int = 10
    """Variables of a training task, before leaves are removed."""
    minibatch: int = 32
    """Rows read at a step."""
    trained_steps: int = 4
    """Steps of a training task."""
    width: int = 64
    """Size of a cell's vector."""
    layers: int = 2
    """Layers of the table encoder, each along rows and along columns."""
    heads: int = 4
    """Attention heads."""
    num_tasks: int = 8
    """Tasks a batch."""
    fit: FitConfig
    """Training, the same for both learners."""
    test_tasks: int = 16
    """Unseen tasks of each kind; fewer of more variables, for at least as many removals."""
    steps: tuple[int, ...] = (1, 2, 4, 8)
    """Steps after which an order is made."""


PRESETS = {
    "cpu": Config(
        fit=FitConfig(
            iterations=1000, learning_rate=1e-3, warmup=50, betas=(0.9, 0.95), log_every=200
        )
    ),
    "smoke": Config(
        num_nodes=4,
        minibatch=4,
        trained_steps=2,
        width=8,
        layers=1,
        heads=2,
        num_tasks=2,
        fit=FitConfig(iterations=2, log_every=1, checkpoint_every=1),
        test_tasks=2,
        steps=(1, 2),
    ),
    "gpu": Config(
        width=128,
        layers=4,
        heads=8,
        num_tasks=32,
        trained_steps=8,
        fit=FitConfig(
            iterations=10_000, learning_rate=3e-4, warmup=500, betas=(0.9, 0.95), log_every=500
        ),
        test_tasks=64,
        steps=(1, 2, 4, 8, 16, 32),
    ),
}
NOT_OF_TRAINING = ("out", "device", "fit", "test_tasks", "steps")


def main() -> None:
    """Trains the learner and the model of one pass, and orders the variables of unseen tables."""
    preset, config = parse(PRESETS, "Meta-learn to tell causes from effects.")
    started = time.perf_counter()
    device = resolve_device(config.device)
    learners = {}
    for name in (REFINED, ONE_PASS):
        torch.manual_seed(config.seed)  # so that a learner is the same whatever came before it
        learners[name] = build(config, name).to(device)
        train(config, name, learners[name])
        learners[name].eval()
    rows: list[Row] = []
    for split, sampler in tests(config).items():
        rows += measure(config, split, sampler, learners, device)
    kind = "standardised" if config.standardise else "raw"
    run = RunInfo(
        example=f"topological_order-{config.mechanism}-{kind}",
        preset=preset,
        seed=config.seed,
        device=str(device),
        wall_seconds=time.perf_counter() - started,
    )
    write_metrics(config.out, run, rows)
    figure(rows, config.out / "figure.png", metric="order error", scale="linear")
    rich.print(table(rows, metric="order error", by="examples"))
    rich.print(f"Wrote {config.out / 'metrics.json'} and {config.out / 'figure.png'}.")


def models(config: Config, graphs: Any, **changes: Any) -> StructuralCausalModels:
    """Tasks as the settings say, but for the changes."""
    options = {
        "num_nodes": config.num_nodes,
        "mechanism": config.mechanism,
        "noise": config.noise,
        "standardise": config.standardise,
    }
    return StructuralCausalModels(graphs=graphs, **(options | changes))


def tests(config: Config) -> dict[str, StructuralCausalModels]:
    """Kinds of unseen tasks: like those of training, and otherwise."""
    unseen = {"first_seed": SEEN_TASKS}
    twice, many = 2 * config.num_nodes, 5 * config.num_nodes
    other = "fourier" if config.mechanism == "linear" else "linear"
    found = {
        "in": models(config, ErdosRenyi(2.0), **unseen),
        "scale-free": models(config, ScaleFree(2), **unseen),
        "Watts-Strogatz": models(config, WattsStrogatz(), **unseen),
        "blocks": models(config, StochasticBlock(2.0, num_blocks=2), **unseen),
        f"{twice} variables": models(config, ErdosRenyi(2.0), num_nodes=twice, **unseen),
        f"{many} variables": models(config, ErdosRenyi(2.0), num_nodes=many, **unseen),
        f"{other} mechanisms": models(config, ErdosRenyi(2.0), mechanism=other, **unseen),
    }
    if config.noise != "cauchy":
        found["Cauchy noise"] = models(config, ErdosRenyi(2.0), noise="cauchy", **unseen)
    return found


@attrs.frozen
class SomeRemoved:
    """Training tasks: a family of graphs for each batch, with 1, 2 or 3 edges a variable, and some
    of the leaves removed, as many as the draw says.
    """

    families: Sequence[StructuralCausalModels]

    def sample(
        self, num_tasks: int, *, num_support: int, num_query: int, generator: torch.Generator
    ) -> TaskBatch:
        """Draws tasks; every variable that is left is asked about."""
        family = self.families[one_of(len(self.families), generator)]
        drawn = family.sample(num_tasks, num_support=num_support, num_query=0, generator=generator)
        removed = one_of(family.num_nodes - 1, generator)  # two are left at least
        return without_leaves(drawn, family.graph(drawn.latent), removed, generator)


def one_of(count: int, generator: torch.Generator) -> int:
    """A number from 0 to `count - 1`."""
    return int(torch.randint(count, (), generator=generator, device=generator.device))


def build(config: Config, name: str) -> Iterated:
    """A learner as it is trained."""
    encoder = AxialTransformer(config.width, config.layers, config.heads, 2 * config.width)
    regime = ImplicitColumns(encoder, Unlabelled(Categorical(2)))
    if name == ONE_PASS:
        return Iterated(regime, steps=1)
    return Iterated(regime, steps=config.trained_steps, minibatch=config.minibatch)


def train(config: Config, name: str, learner: Iterated) -> None:
    """Meta-trains a learner, or goes on where a stopped run left it."""
    graphs = [
        family
        for edges in (1, 2, 3)
        for family in (ErdosRenyi(edges), ScaleFree(edges, "in"), ScaleFree(edges, "out"))
    ]
    most = config.trained_steps * config.minibatch
    source = SamplerSource(
        SomeRemoved([models(config, family, num_tasks=SEEN_TASKS) for family in graphs]),
        num_tasks=config.num_tasks,
        num_support=most if name == REFINED else (config.minibatch, most),
        num_query=1,
        generator=process_generator(config.seed, config.device),
    )
    setup = attrs.asdict(config, filter=lambda field, _: field.name not in NOT_OF_TRAINING)
    rich.print(f"[bold]{name}[/bold]")
    out = config.out / name.replace(", ", "-").replace(" ", "-")
    fit(learner, source, config.fit, out=out, device=config.device, setup=setup)


def measure(
    config: Config,
    split: str,
    sampler: StructuralCausalModels,
    learners: Mapping[str, Iterated],
    device: torch.device,
) -> list[Row]:
    """Errors of every method's orders, after each number of minibatches."""
    generator = torch.Generator(device).manual_seed(10_000 + config.seed)
    most = max(config.steps) * config.minibatch
    num_tasks = math.ceil(config.test_tasks * config.num_nodes / sampler.num_nodes)
    tasks = sampler.sample(num_tasks, num_support=most, num_query=0, generator=generator)
    graph = sampler.graph(tasks.latent)
    refined, one_pass = (leaf_score(learners[name]) for name in (REFINED, ONE_PASS))

    def averaged(x: Tensor) -> Tensor:
        return torch.stack([one_pass(part) for part in x.split(config.minibatch, dim=1)]).mean(0)

    rows = []
    for step in config.steps:
        x = tasks.support.x[:, : step * config.minibatch]
        orders = {
            REFINED: order_by_leaves(refined, x),
            ONE_PASS: order_by_leaves(one_pass, x),
            "one pass, averaged over minibatches": order_by_leaves(averaged, x),
            "sorted by precision": order_by_leaves(imprecision, x),
            "sorted by variance": variance_order(x),
        }
        rows += [
            summarise(
                order_error(order, graph),
                method=method,
                split=split,
                step=step,
                examples=x.shape[1],
                metric="order error",
                seed=config.seed,
            )
            for method, order in orders.items()
        ]
    return rows


def leaf_score(learner: Iterated) -> Score:
    """How much likelier than not each variable of a table is a leaf, by a learner."""

    def score(x: Tensor) -> Tensor:
        place = torch.arange(x.shape[2], device=x.device, dtype=x.dtype)[:, None]
        place = place.repeat(len(x), 1, 1)
        logits = learner.adapt(Examples(x=x), place).predict(place)
        return logits[..., 1] - logits[..., 0]

    return score


def imprecision(x: Tensor) -> Tensor:
    """The less the entry of the precision matrix, the likelier a leaf, with noise of one size.

    Chen, Drton, Wang, 2019, "On causal discovery with an equal-variance assumption"; with no more
    rows than variables, of the covariance and a ridge.
    """
    centred = (x - x.mean(1, keepdim=True)).double()
    covariance = centred.mT @ centred / x.shape[1]
    variances = covariance.diagonal(dim1=1, dim2=2)
    jitter = 1e-9 * variances.mean(1).clamp(min=1e-30)
    if x.shape[1] <= x.shape[2]:  # the covariance has no inverse
        jitter = jitter + variances.amin(1) * x.shape[2] / x.shape[1]
    eye = torch.eye(x.shape[2], dtype=covariance.dtype, device=x.device)
    return -torch.linalg.inv(covariance + jitter[:, None, None] * eye).diagonal(dim1=1, dim2=2)


if __name__ == "__main__":
    main()
