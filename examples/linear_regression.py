"""Linear regression, refined minibatch by minibatch
====================================================

A task is y = w . [x, 1] + noise with w ~ N(0, I). A learner reads 16 examples a step and keeps its
state, not the examples. The oracle is Bayesian ridge regression on all examples read so far. All
learners are trained on at most 10 steps and measured after many more. "Untrained" is the parametric
rule before training: damped Newton steps. Queries are distributed as the support is ("in"), three
times as wide ("wide"), or far from the origin ("far"). The error is (prediction - w . [x, 1])^2.
"""

import copy
from functools import partial
from pathlib import Path

import attrs
import iai_regimes as regimes
from iai_encoders import SetTransformer
from iai_iterate import Iterated, Pool
from iai_tasks import LinearRegression
from iai_train import Experiment, FitConfig, SamplerSource, Settings, mean_squared_error, parse

RATES = (1.0, 0.3, 0.1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5)  # of Adam
MAIN, UNTRAINED = "parametric, both", "parametric, untrained"
AT_ONCE = "implicit, one step, all examples"


@attrs.frozen(kw_only=True)
class Train:
    """What decides the weights of a learner."""

    dim: int = 4  # inputs of a task, beside the constant
    noise_variance: float = 0.25  # variance of the noise of y
    minibatch: int = 16  # examples read at a step
    width: int = 32  # size of a token
    layers: int = 2  # layers of the set encoder
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
    test_tasks: int = 256  # test tasks of each split
    steps: tuple[int, ...] = (0, 1, 2, 5, 10, 20, 100)  # steps that are reported
    deep_steps: tuple[int, ...] = (1000,)  # more of them, of the main learner on split "in"


CPU = FitConfig(iterations=1200, learning_rate=4e-3, warmup=100, betas=(0.9, 0.95), log_every=100)
SMOKE = FitConfig(iterations=12, learning_rate=4e-3, log_every=5, checkpoint_every=10)
GPU = attrs.evolve(CPU, iterations=20_000, learning_rate=1e-3, warmup=500, precision="bf16")
TINY = Train(width=16, num_tasks=16, num_query=8, max_steps=8)
LARGE = Train(dim=64, minibatch=64, width=256, layers=4, num_tasks=512, num_query=64)
PRESETS = {
    "cpu": Config(fit=CPU),
    "smoke": Config(fit=SMOKE, train=TINY, test_tasks=8, steps=(0, 1, 2, 5), deep_steps=(10,)),
    "gpu": Config(fit=GPU, train=LARGE, test_tasks=512),
}


def learners(train: Train, likelihood: regimes.Gaussian) -> dict[str, Iterated]:
    """Every learner of the comparison, by the name of its rows."""
    dim, newton = train.dim, partial(regimes.Newton, train.curvature)
    encoder = partial(SetTransformer, train.width, train.layers, train.heads, 2 * train.width)

    def learned(regime: type, model: regimes.Predictor, steps: int = 1, **how: object) -> Iterated:
        rule = regimes.LearnedRule(model, likelihood, encoder(), x_dim=dim, **how)
        return Iterated(regime(model, likelihood, rule), steps=steps, minibatch=train.minibatch)

    parametric = partial(learned, regimes.Parametric)
    decoder = regimes.LatentDecoder(dim, 4 * dim, 1, hidden_dim=train.width, num_layers=1)
    latent = regimes.Predictor(decoder, adapt=["latent"])
    explicit = learned(regimes.Explicit, latent, slope=newton())
    # State, signals and update of Mittal et al. (2025), who draw new tasks at each iteration.
    of_paper = {"update": "residual", "summary_dim": 0, "count": False, "slope": regimes.Gradient()}
    paper = parametric(linear_model(dim), train.max_steps, **of_paper)
    refined, at_once = (regimes.Implicit(encoder(), likelihood, x_dim=dim) for _ in range(2))
    return {
        MAIN: parametric(linear_model(dim), slope=newton()),
        "parametric, data": parametric(linear_model(dim), signal="data"),
        "parametric, gradient": parametric(linear_model(dim), signal="gradient", slope=newton()),
        "parametric, the paper's form": paper,
        "explicit, both": explicit,
        "implicit": Iterated(refined, steps=1, minibatch=train.minibatch),
        AT_ONCE: Iterated(at_once, steps=1),
    }


def linear_model(dim: int) -> regimes.Predictor:
    """y = w . [x, 1], starting at the prior's mean, 0."""
    return regimes.Predictor(regimes.zero_linear(dim, 1))


def source(train: Train, learner: Iterated, sampler: LinearRegression, **how: object) -> object:
    """A pool of tasks for a learner of one step; else new tasks, with as many examples in all."""
    if learner.minibatch and learner.steps == 1:
        return Pool(learner, sampler, num_tasks=train.num_tasks, max_steps=train.max_steps, **how)
    steps, examples = train.max_steps, train.max_steps * train.minibatch
    if not learner.minibatch:
        steps, examples = (steps + 1) / 2, (train.minibatch, examples)
    num_tasks = max(1, round(train.num_tasks / steps))
    return SamplerSource(sampler, num_tasks=num_tasks, num_support=examples, **how)


def main() -> None:
    """Trains each learner, measures it beside the baselines, and writes what came out."""
    preset, config = parse(PRESETS, "Meta-learn linear regression over minibatches.")
    metrics = {"excess_error": mean_squared_error}
    run, train = Experiment("linear_regression", preset, config, metrics=metrics), config.train
    likelihood = regimes.Gaussian(1, scale=train.noise_variance**0.5)
    # Queries without noise: the loss has the same minimiser, and its gradient less variance.
    sampler = LinearRegression(train.dim, noise_variance=train.noise_variance, noisy_query=False)
    trained, model = learners(train, likelihood), linear_model(train.dim).to(run.device)
    compared = {UNTRAINED: copy.deepcopy(trained[MAIN]).to(run.device), **trained}
    for name, learner in trained.items():
        how = {"num_query": train.num_query, "generator": run.training_generator()}
        tasks = source(train, learner.to(run.device), sampler, **how)
        # The oracle's error falls as 1 / n: with this weight, losses at all depths count alike.
        run.train(name, learner, tasks, weight=lambda seen: 1 + seen)

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
        at = {"oracle": read, MAIN: steps, UNTRAINED: steps}
        at[AT_ONCE] = {step: read[step] for step in config.steps if step}
        for name, method in {"oracle": shifted.oracle, **compared}.items():
            run.rows += run.measure(name, method, steps=at.get(name, config.steps), **of)
        run.rows += run.tuned("adam", adam, RATES, draw(tuning=True), steps=config.steps, **of)
    least = {(row.split, row.step): row.value for row in run.rows if row.method == "oracle"}
    for row in list(run.rows):
        over = {"metric": "excess_over_oracle", "value": row.value / least[row.split, row.step]}
        run.rows.append(attrs.evolve(row, **over, stderr=float("nan")))
    run.finish()


if __name__ == "__main__":
    main()
