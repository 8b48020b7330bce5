"""Sine waves from ten points: methods as choices of parameters, rule and meta-gradient
====================================================================================

A task shows ten points of a sine wave. MAML and its relatives learn where descent should start,
CAVIA adapts a latent alone, neural processes read all points at once, by a mean or by attention.
The rest read minibatches of five: running attention keeps what each query's attention has found,
the ridge memory regressions of learned values on learned keys. The oracle has the least error.
"""

from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Literal

import attrs
import iai_iterate as iterate
import iai_regimes as regimes
import torch
from iai_encoders import DeepSet, MemoryTransformer, RunningTransformer, SetTransformer
from iai_iterate import Iterated
from iai_tasks import Sinusoid, TaskBatch
from iai_train import Experiment, FitConfig, SamplerSource, Settings, mean_squared_error, parse
from torch import Tensor, nn

RATES = (0.1, 0.03, 0.01, 3e-3, 1e-3)  # of Adam
METHODS = ("maml", "first-order maml", "reptile", "pretrained", "meta-sgd", "anil", "cavia")
LAST_STEPS = {"cnp": 1, "attentive process": 1, "running attention": 2, "ridge memory": 2}
METHODS += ("imaml", *LAST_STEPS, "implicit, learned", "parametric, learned")
SQUARED = regimes.Gaussian(1, scale=0.5**0.5)  # its loss is the squared error and a constant


@attrs.frozen(kw_only=True)
class Train:
    """What decides the weights of a method."""

    shots: int = 10  # points that a task shows
    num_query: int = 10  # queries of a training task
    num_tasks: int = 25  # tasks of a meta-gradient
    width: int = 40  # units of both hidden layers, and size of a token
    inner_rate: float = 0.01  # rate of an inner step down the squared error
    inner_steps: int = 5  # inner steps in training
    strength: float = 0.5  # weight of iMAML's proximal term
    newton_steps: int = 3  # inner steps of iMAML in training
    latent_dim: int = 8  # numbers that CAVIA adapts
    latent_rate: float = 0.03  # rate of CAVIA's inner steps
    minibatch: int = 5  # points that memories and learned regimes read at a step


@attrs.frozen(kw_only=True)
class Config(Settings):
    """Settings of the example."""

    out: Path = Path("runs/sinusoid")
    train: Train = Train()
    methods: tuple[Literal[*METHODS], ...] = METHODS  # which to train
    test_tasks: int = 600  # test tasks
    steps: tuple[int, ...] = (0, 1, 2, 5, 10, 20, 50, 100)  # steps that are reported


CPU = FitConfig(iterations=1000, learning_rate=3e-3, warmup=100, weight_decay=0, log_every=100)
SMOKE = FitConfig(iterations=3, weight_decay=0, log_every=2, checkpoint_every=2)
GPU = FitConfig(iterations=70_000, weight_decay=0, log_every=500)
TINY = Train(num_tasks=4, width=8, newton_steps=1)
PRESETS = {
    "cpu": Config(fit=CPU),
    "smoke": Config(fit=SMOKE, train=TINY, test_tasks=8, steps=(0, 1, 2, 5)),
    "gpu": Config(fit=GPU, train=Train(inner_steps=1)),
}


def network(width: int, adapt: list[str] | None = None) -> regimes.Predictor:
    """The network of MAML's paper; a task adapts the named part, or all of it."""
    model = nn.Sequential(nn.Linear(1, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
    model.add_module("head", nn.Linear(width, 1))
    return regimes.Predictor(model, adapt)


def learners(train: Train) -> dict[str, Iterated]:
    """Every method by name: what is adapted, by which rule, and the gradient across its steps."""
    width, steps = train.width, train.inner_steps
    descent, inner = regimes.GradientDescent, regimes.GradientDescent(train.inner_rate)
    solver, theta = iterate.ConjugateGradient(steps=5), attrgetter("theta")

    def descending(rule=inner, steps=steps, gradient=iterate.unrolled, adapt=None) -> Iterated:
        regime = regimes.Parametric(network(width, adapt), SQUARED, rule)  # all points at once
        return Iterated(regime, steps=steps, gradient=gradient, loss="last")

    encoder = partial(SetTransformer, width, num_heads=4, ff_dim=2 * width)
    decoder = regimes.LatentDecoder(1, train.latent_dim, 1, hidden_dim=width, num_layers=1)
    latent = regimes.Predictor(decoder, adapt=["latent"])
    cavia = regimes.Explicit(latent, SQUARED, descent(train.latent_rate))
    proximal = regimes.Proximal(regimes.NewtonCG(solver), train.strength)
    imaml = descending(proximal, train.newton_steps)
    imaml.gradient = iterate.ImplicitGradient(imaml.regime.residual, solver, solved=theta)
    head, of = network(width, ["head"]), {"likelihood": SQUARED, "x_dim": 1}
    rule = regimes.LearnedRule(head, encoder=encoder(num_layers=2), **of)
    running = regimes.RunningAttention(RunningTransformer(encoder(num_layers=2)), **of)
    ridge = regimes.ExplicitMemory(MemoryTransformer(width, 2, num_heads=4), **of)
    once, twice = ({"steps": steps, "minibatch": train.minibatch} for steps in (2, 4))  # passes
    return {
        "maml": descending(),
        "first-order maml": descending(gradient=iterate.first_order),
        "reptile": descending(gradient=iterate.reptile, steps=2 * steps),
        "pretrained": descending(gradient=iterate.reptile, steps=1),
        "meta-sgd": descending(descent(network(width).full(train.inner_rate)), steps=1),
        "anil": descending(adapt=["head"]),
        "cavia": Iterated(cavia, steps=steps, gradient=iterate.unrolled, loss="last"),
        "imaml": imaml,
        "cnp": Iterated(regimes.Implicit(DeepSet(2 * width), **of), steps=1),
        "attentive process": Iterated(regimes.Implicit(encoder(num_layers=1), **of), steps=1),
        "running attention": Iterated(running, gradient=iterate.unrolled, **once),
        "ridge memory": Iterated(ridge, gradient=iterate.unrolled, **once),
        "implicit, learned": Iterated(regimes.Implicit(encoder(num_layers=2), **of), **twice),
        "parametric, learned": Iterated(regimes.Parametric(head, SQUARED, rule), **twice),
    }


def main() -> None:
    """Trains every method, measures it beside the baselines, and writes what came out."""
    preset, config = parse(PRESETS, "Meta-learn to fit sine waves.")
    run = Experiment("sinusoid", preset, config, metrics={"excess_error": mean_squared_error})
    train, steps, waves = config.train, config.steps, Sinusoid()
    counts = {"num_tasks": config.test_tasks, "num_support": train.shots, "num_query": 100}
    tasks, tuning = run.draw(waves, **counts), run.draw(waves, **counts, tuning=True)
    scratch = network(train.width).to(run.device)

    def oracle(tasks: TaskBatch) -> Tensor:
        """Before any point the mean of all waves, of amplitudes 0.1 to 5 and phases 0 to pi."""
        mean = -2.55 * (2 / torch.pi) * tasks.query.x.cos()
        return waves.oracle(tasks) if tasks.support.num_examples else mean

    def adam(rate: float) -> Iterated:
        return Iterated(regimes.Parametric(scratch, SQUARED, regimes.Adam(rate)), steps=1)

    built = learners(train)
    for name in config.methods:
        # Reptile and pretraining read as many points as the others have in support and queries.
        shots = train.shots + train.num_query * (name in ("reptile", "pretrained"))
        counts = {"num_tasks": train.num_tasks, "num_support": shots, "num_query": train.num_query}
        source = SamplerSource(waves, **counts, generator=run.training_generator())
        run.train(name, built[name].to(run.device), source)
        reported = [step for step in steps if step <= LAST_STEPS.get(name, step)]
        run.rows += run.measure(name, built[name], tasks, reported)
    run.rows += run.tuned("from scratch", adam, RATES, tuning, tasks, steps)
    run.rows += run.measure("oracle", oracle, tasks, {0: 0, 1: train.shots})
    run.finish(by="step")


if __name__ == "__main__":
    main()
