"""What causes what: the order of variables, from samples alone
=============================================================

A task is a table of samples of a structural causal model. The learner gives each variable a
probability of being a leaf, a variable that causes no other. The likeliest leaf is removed, and the
learner is asked about the remaining columns, until all variables are ordered. It is trained on
tables of up to ten variables and graphs of three families, and tested on new graphs, two other
families, two and five times the variables, other mechanisms and noise with heavier tails. It reads
each row once, minibatch by minibatch, in memory that does not grow with the rows.

The error is the fraction of removed variables that were no leaf at that moment. Baselines are a
model that reads all rows in one pass, the mean of its answers to each minibatch, and two orders: by
variance, and by the precision matrix. With enough rows the latter is exact for linear models whose
variables have noise of one variance, such as the raw linear tables here.
"""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import attrs
import iai_tasks
import torch
from iai_encoders import AxialTransformer
from iai_iterate import Iterated
from iai_regimes import Categorical, ImplicitColumns, Unlabelled
from iai_tasks import ErdosRenyi, Examples, ScaleFree, StructuralCausalModels, TaskBatch
from iai_train import Experiment, FitConfig, SamplerSource, Settings, parse
from torch import Tensor

SEEN_TASKS = 2**20  # training tasks have seeds below this, test tasks from it on
REFINED, ONE_PASS = "refined over minibatches", "one pass, all rows"


@attrs.frozen(kw_only=True)
class Train:
    """What decides the weights of a learner."""

    mechanism: Literal["linear", "fourier"] = "linear"  # the function from causes to a variable
    noise: Literal["gaussian", "laplace", "cauchy"] = "gaussian"  # its distribution in training
    standardise: bool = False  # scale all columns to variance 1; raw variances reveal the order
    num_nodes: int = 10  # variables of a training task, before leaves are removed
    minibatch: int = 32  # rows read at a step
    steps: int = 4  # steps of a training task
    width: int = 64  # size of a cell's vector
    layers: int = 2  # layers of the table encoder, each along rows and along columns
    heads: int = 4  # attention heads
    num_tasks: int = 8  # tasks of a batch


@attrs.frozen(kw_only=True)
class Config(Settings):
    """Settings of the example."""

    out: Path = Path("runs/topological_order")
    train: Train = Train()
    test_tasks: int = 16  # test tasks of each split; fewer where tables are larger
    steps: tuple[int, ...] = (1, 2, 4, 8)  # minibatches read before the variables are ordered


CPU = FitConfig(iterations=1000, learning_rate=1e-3, warmup=50, betas=(0.9, 0.95), log_every=200)
SMOKE = FitConfig(iterations=2, log_every=1, checkpoint_every=1)
GPU = attrs.evolve(CPU, iterations=10_000, learning_rate=3e-4, warmup=500, log_every=500)
TINY = Train(num_nodes=4, minibatch=4, steps=2, width=8, layers=1, heads=2, num_tasks=2)
LARGE = Train(width=128, layers=4, heads=8, num_tasks=32, steps=8)
PRESETS = {
    "cpu": Config(fit=CPU),
    "smoke": Config(fit=SMOKE, train=TINY, test_tasks=2, steps=(1, 2)),
    "gpu": Config(fit=GPU, train=LARGE, test_tasks=64, steps=(1, 2, 4, 8, 16, 32)),
}


def columns(x: Tensor) -> Tensor:
    """A query about each column of a table: its index."""
    index = torch.arange(x.shape[2], device=x.device, dtype=x.dtype)
    return index[:, None].repeat(len(x), 1, 1)


def leaf_score(learner: Iterated, x: Tensor) -> Tensor:
    """Logit that a variable is a leaf, for each variable of a table."""
    logits = learner.adapt(Examples(x=x), columns(x)).predict(columns(x))
    return logits[..., 1] - logits[..., 0]


def main() -> None:
    """Trains both learners, orders the variables of unseen tables, and writes what came out."""
    preset, config = parse(PRESETS, "Meta-learn to tell causes from effects.")
    train, minibatch = config.train, config.train.minibatch
    name = f"topological_order-{train.mechanism}-{'standardised' if train.standardise else 'raw'}"
    metrics = {"order error": lambda order, query: iai_tasks.order_error(order, query.y.bool())}
    run = Experiment(name, preset, config, metrics=metrics)
    like = {"mechanism": train.mechanism, "noise": train.noise, "standardise": train.standardise}
    models = StructuralCausalModels(graphs=ErdosRenyi(2.0), num_nodes=train.num_nodes, **like)
    unseen = partial(attrs.evolve, models, first_seed=SEEN_TASKS)
    other = "fourier" if train.mechanism == "linear" else "linear"
    tests = {
        "in": unseen(),
        "scale-free": unseen(graphs=ScaleFree(2)),
        "Watts-Strogatz": unseen(graphs=iai_tasks.WattsStrogatz()),
        "blocks": unseen(graphs=iai_tasks.StochasticBlock(2.0, num_blocks=2)),
        f"{2 * train.num_nodes} variables": unseen(num_nodes=2 * train.num_nodes),
        f"{5 * train.num_nodes} variables": unseen(num_nodes=5 * train.num_nodes),
        f"{other} mechanisms": unseen(mechanism=other),
    }
    if train.noise != "cauchy":
        tests["Cauchy noise"] = unseen(noise="cauchy")
    families = [
        attrs.evolve(models, graphs=graphs, num_tasks=SEEN_TASKS)
        for edges in (1, 2, 3)  # a variable
        for graphs in (ErdosRenyi(edges), ScaleFree(edges, "in"), ScaleFree(edges, "out"))
    ]
    most, scores = train.steps * minibatch, {}
    reading = {REFINED: {"steps": train.steps, "minibatch": minibatch}, ONE_PASS: {"steps": 1}}
    for name, steps in reading.items():
        torch.manual_seed(config.seed)  # so that a learner does not depend on an earlier one
        encoder = AxialTransformer(train.width, train.layers, train.heads, 2 * train.width)
        regime = ImplicitColumns(encoder, Unlabelled(Categorical(2)))
        learner = Iterated(regime, **steps).to(run.device)
        num_support = most if name == REFINED else (minibatch, most)
        counts = {"num_tasks": train.num_tasks, "num_support": num_support, "num_query": 1}
        sampler, generator = iai_tasks.LeavesRemoved(families), run.training_generator()
        run.train(name, learner, SamplerSource(sampler, **counts, generator=generator))
        scores[name] = partial(leaf_score, learner.eval())

    def averaged(x: Tensor) -> Tensor:
        return torch.stack([scores[ONE_PASS](part) for part in x.split(minibatch, dim=1)]).mean(0)

    def by_leaves(score: Callable[[Tensor], Tensor]) -> Callable[[TaskBatch], Tensor]:
        return lambda tasks: iai_tasks.order_by_leaves(score, tasks.support.x)

    scores["one pass, averaged over minibatches"] = averaged
    scores["sorted by precision"] = iai_tasks.precision_score
    orders = {name: by_leaves(score) for name, score in scores.items()}
    orders["sorted by variance"] = lambda tasks: iai_tasks.variance_order(tasks.support.x)
    read = {step: step * minibatch for step in config.steps}
    for split, sampler in tests.items():
        num_tasks = math.ceil(config.test_tasks * train.num_nodes / sampler.num_nodes)
        [tasks] = run.draw(sampler, num_tasks, num_support=max(read.values()), num_query=0)
        graph = sampler.graph(tasks.latent).float()
        # A query about each variable, whose target is its row of the graph.
        tasks = attrs.evolve(tasks, query=Examples(x=columns(graph), y=graph))
        for name, order in orders.items():
            run.rows += run.measure(name, order, [tasks], read, split=split)
    run.finish(scale="linear")


if __name__ == "__main__":
    main()
