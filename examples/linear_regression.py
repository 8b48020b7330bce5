"""Linear regression, refined minibatch by minibatch
====================================================

A task is y = w . [x, 1] + noise with w ~ N(0, I). A learner reads 16 examples a step and keeps its
state, not the examples. The oracle is Bayesian ridge regression on all examples read so far. The
ridge memory is trained on up to 8,192 examples, all other learners on at most 10 steps, and they
are measured after more. "Untrained" is the parametric rule before training: damped Newton steps.
Queries are distributed as the support is ("in"), three times as wide ("wide"), or far from the
origin ("far"). The error is (prediction - w . [x, 1])^2.
"""

import copy
from functools import partial
from pathlib import Path
from typing import Literal

import attrs
import iai_regimes as regimes
from iai_encoders import MemoryTransformer, RunningTransformer, SetTransformer
from iai_iterate import Iterated, Pool, unrolled
from iai_tasks import LinearRegression
from iai_train import (
    AlternatingSource,
    Experiment,
    FitConfig,
    SamplerSource,
    Settings,
    mean_squared_error,
    parse,
)

RATES = (1.0, 0.3, 0.1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5)  # of Adam
RIDGE, RUNNING = "explicit, ridge memory", "implicit, running attention"
BOTH, AT_ONCE = "implicit, attention on a ridge", "implicit, one pass over all"
MEMORIES = (RIDGE, RUNNING, BOTH, AT_ONCE)
MAIN, UNTRAINED, PAPER = "parametric, both", "parametric, untrained", "parametric, the paper's form"
REFINED = (MAIN, PAPER, "parametric, data", "parametric, gradient", "explicit, latent")
REFINED += ("implicit, logits",)


@attrs.frozen(kw_only=True)
class Train:
    """What decides the weights of a learner."""

    dim: int = 4  # inputs of a task, beside the constant
    noise_variance: float = 0.25  # variance of the noise of y
    minibatch: int = 16  # examples read at a step
    width: int = 32  # size of a token
    memory_width: int = 64  # size of a token of a memory; half of it must be above `dim`
    long: tuple[int, ...] = (8, 64, 512)  # minibatches of a training task of the ridge, in turn
    latents: int = 8  # learned queries of running attention, whose answers later examples see
    layers: int = 2  # layers of a set encoder
    heads: int = 4  # attention heads
    curvature: int = 5  # Hessian-vector products of a step
    num_tasks: int = 256  # training tasks that are refined side by side
    num_query: int = 32  # queries of a training task
    max_steps: int = 10  # most steps that a training task is refined for


@attrs.frozen(kw_only=True)
class Config(Settings):
    """Settings of the example."""

    out: Path = Path("runs/linear_regression")
    train: Train = Train()
    learners: tuple[Literal[*MEMORIES, *REFINED], ...] = (*MEMORIES, *REFINED)  # to train
    test_tasks: int = 256  # test tasks of each split
    steps: tuple[int, ...] = (0, 1, 2, 5, 10, 20, 100)  # steps that are reported
    deep_steps: tuple[int, ...] = (1000,)  # more of them, of two learners on split "in"


MEAN = {"average": 0.99, "weight_decay": 0}  # the mean of the weights has less noise than the last
CPU = FitConfig(iterations=1200, learning_rate=4e-3, warmup=100, betas=(0.9, 0.95), **MEAN)
SMOKE = FitConfig(iterations=12, learning_rate=4e-3, log_every=5, checkpoint_every=10)
GPU = attrs.evolve(CPU, iterations=20_000, learning_rate=1e-3, warmup=500, precision="bf16")
TINY = Train(width=16, memory_width=16, long=(2, 4), latents=2, num_tasks=16, num_query=8)
LARGE = {"width": 256, "memory_width": 256, "layers": 4, "num_tasks": 512, "num_query": 64}
PRESETS = {
    "cpu": Config(fit=CPU, learners=(*MEMORIES, MAIN, PAPER, "implicit, logits")),
    "smoke": Config(fit=SMOKE, train=TINY, test_tasks=8, steps=(0, 1, 2, 5), deep_steps=(10,)),
    "gpu": Config(fit=GPU, train=Train(dim=64, minibatch=64, **LARGE), test_tasks=512),
}


def build(train: Train, likelihood: regimes.Gaussian, name: str) -> Iterated:
    """A learner by the name of its rows."""
    if name in MEMORIES:
        return memory(train, likelihood, name)
    dim, encoder = (
        train.dim,
        SetTransformer(train.width, train.layers, train.heads, 2 * train.width),
    )
    if name == "implicit, logits":
        regime = regimes.Implicit(encoder, likelihood, x_dim=dim)
        return Iterated(regime, steps=1, minibatch=train.minibatch)
    regime_type, model, how = regimes.Parametric, linear_model(dim), {}
    if name == "explicit, latent":
        decoder = regimes.LatentDecoder(dim, 4 * dim, 1, hidden_dim=train.width, num_layers=1)
        regime_type, model = regimes.Explicit, regimes.Predictor(decoder, adapt=["latent"])
    elif name == PAPER:  # state, signals and update of Mittal et al. (2025)
        how = {"update": "residual", "summary_dim": 0, "count": False}
    elif name != MAIN:
        how = {"signal": name.split(", ")[1]}
    if name != "parametric, data":
        how["slope"] = regimes.Gradient() if name == PAPER else regimes.Newton(train.curvature)
    rule = regimes.LearnedRule(model, likelihood, encoder, x_dim=dim, **how)
    steps = train.max_steps if name == PAPER else 1  # the paper draws new tasks at each iteration
    return Iterated(regime_type(model, likelihood, rule), steps=steps, minibatch=train.minibatch)


def memory(train: Train, likelihood: regimes.Gaussian, name: str) -> Iterated:
    """A learner whose state is what it has read, in sums over examples."""
    width, ridge = train.memory_width, MemoryTransformer(train.memory_width, 1, 2, products=False)
    if name == RIDGE:
        regime = regimes.ExplicitMemory(ridge, likelihood, x_dim=train.dim)
        # With one layer, how a task is cut changes nothing. Where minibatches double what was read,
        # a long task, which teaches what far steps need, takes few steps.
        sizes = [train.minibatch * 2**k for k in range((max(train.long) - 1).bit_length())]
        sizes.insert(0, train.minibatch)
        return Iterated(regime, steps=None, minibatch=sizes, gradient=unrolled)
    layers = SetTransformer(width, train.layers, train.heads, 2 * width)
    choices = {RUNNING: {"num_latents": train.latents}, BOTH: {"memory": ridge}}
    encoder = RunningTransformer(layers, **choices.get(name, {}))
    regime = regimes.RunningAttention(encoder, likelihood, x_dim=train.dim)
    if name == AT_ONCE:
        return Iterated(regime, steps=1)
    return Iterated(regime, steps=None, minibatch=train.minibatch, gradient=unrolled)


def linear_model(dim: int) -> regimes.Predictor:
    """y = w . [x, 1], starting at the prior's mean, 0."""
    return regimes.Predictor(regimes.zero_linear(dim, 1))


def source(train: Train, name: str, learner: Iterated, sampler: LinearRegression, **how) -> object:
    """Training tasks, with as many examples and queries at an iteration for each learner."""
    most = train.max_steps * train.minibatch
    num_tasks = max(1, train.num_tasks // train.max_steps)
    if name == RIDGE:
        sizes = [steps * train.minibatch for steps in train.long]
        return AlternatingSource.of_sizes(sampler, sizes, num_tasks=1, **how)
    if learner.steps == 1 and learner.minibatch:
        return Pool(learner, sampler, num_tasks=train.num_tasks, max_steps=train.max_steps, **how)
    size = most if learner.minibatch else (train.minibatch, most)
    return SamplerSource(sampler, num_tasks=num_tasks, num_support=size, **how)


def main() -> None:
    """Trains each learner, measures it beside the baselines, and writes what came out."""
    preset, config = parse(PRESETS, "Meta-learn linear regression over minibatches.")
    metrics = {"excess_error": mean_squared_error}
    run, train = Experiment("linear_regression", preset, config, metrics=metrics), config.train
    likelihood = regimes.Gaussian(1, scale=train.noise_variance**0.5)
    # Queries without noise: the loss has the same minimiser, and its gradient less variance.
    sampler = LinearRegression(train.dim, noise_variance=train.noise_variance, noisy_query=False)
    model, compared = linear_model(train.dim).to(run.device), {}
    for name in config.learners:
        learner = run.build(build, train, likelihood, name)
        if name == MAIN:
            compared[UNTRAINED] = copy.deepcopy(learner)
        how = {"num_query": train.num_query, "generator": run.training_generator()}
        # The oracle's error falls as 1 / n: with this weight, losses at all depths count alike.
        tasks = source(train, name, learner, sampler, **how)
        run.train(name, learner, tasks, weight=lambda seen: 1 + seen)
        learner.minibatch = learner.minibatch and train.minibatch
        compared[name] = learner

    def adam(rate: float) -> Iterated:
        regime = regimes.Parametric(model, likelihood, regimes.Adam(rate))
        return Iterated(regime, steps=1, minibatch=train.minibatch)

    for split, shift in {"in": "none", "wide": "wide", "far": "far"}.items():
        steps = config.steps + config.deep_steps * (split == "in")
        read = {step: step * train.minibatch for step in steps}
        shifted = attrs.evolve(sampler, query_shift=shift)
        counts = {"num_support": max(read.values()), "num_query": 64}
        draw = partial(run.draw, shifted, config.test_tasks, **counts)
        of = {"batches": draw(), "split": split}
        at = {"oracle": read, RIDGE: steps, MAIN: steps}
        at[AT_ONCE] = {step: read[step] for step in config.steps if step}
        for name, method in {"oracle": shifted.oracle, **compared}.items():
            run.rows += run.measure(name, method, steps=at.get(name, config.steps), **of)
        run.rows += run.tuned("adam", adam, RATES, draw(tuning=True), steps=config.steps, **of)
    least = {(row.split, row.step): row.value for row in run.rows if row.method == "oracle"}
    for row in list(run.rows):
        over = {"metric": "excess_over_oracle", "value": row.value / least[row.split, row.step]}
        run.rows.append(attrs.evolve(row, **over, stderr=float("nan")))
    run.finish(title="Excess error of linear regression on unseen tasks")


if __name__ == "__main__":
    main()
