"""Linear regression, refined minibatch by minibatch
====================================================

Tasks y = w . [x, 1] + noise with w ~ N(0, I). A learner reads 16 examples a step and never holds
more than its state; the best answer that the examples read so far allow, the Bayesian ridge, is
known in closed form. All learners are trained on at most 10 steps, for as many iterations on as
many examples, and measured far beyond. "Untrained" is the parametric rule before training: damped
Newton steps.

Queries are drawn as the support is ("in"), three times as wide ("wide"), or far from the origin
("far"). The error is the squared distance to the noiseless answer, so 0 is the floor.
"""

import math
from pathlib import Path

import attrs
import iai_regimes as regimes
from iai_encoders import SetTransformer
from iai_iterate import Iterated, Pool
from iai_tasks import LinearRegression, TaskBatch
from iai_train import Experiment, FitConfig, Row, SamplerSource, Settings, mean_squared_error, parse
from torch import nn

SHIFTS = {"in": "none", "wide": "wide", "far": "far"}
RATES = (1.0, 0.3, 0.1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5)  # of Adam
MAIN, UNTRAINED = "parametric, both", "parametric, untrained"


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
    num_tasks: int = 256  # live tasks in the pool
    num_query: int = 32  # queries a task in training
    max_steps: int = 10  # longest life of a task in training, in steps


@attrs.frozen(kw_only=True)
class Config(Settings):
    """Settings of the example."""

    out: Path = Path("runs/linear_regression")
    train: Train = Train()
    test_tasks: int = 256  # tasks that the learners are measured on, for each split
    steps: tuple[int, ...] = (0, 1, 2, 5, 10, 20, 100)  # steps that are reported
    deep_steps: tuple[int, ...] = (1000,)  # further steps of the main learner, on split "in" alone


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

    def encoder() -> SetTransformer:
        return SetTransformer(train.width, train.layers, train.heads, 2 * train.width)

    def refined(regime: nn.Module, steps: int = 1) -> Iterated:
        return Iterated(regime, steps=steps, minibatch=train.minibatch)

    def parametric(**choices: object) -> regimes.Parametric:
        model = linear_model(train)
        choices = {"x_dim": train.dim, "curvature": train.curvature, **choices}
        rule = regimes.LearnedRule(model, likelihood, encoder(), **choices)
        return regimes.Parametric(model, likelihood, rule)

    sizes = {"hidden_dim": train.width, "num_layers": 1}
    decoder = regimes.LatentDecoder(train.dim, 4 * train.dim, 1, **sizes)
    latent, choices = regimes.Predictor(decoder, adapt=["latent"]), {"curvature": train.curvature}
    rule = regimes.LearnedRule(latent, likelihood, encoder(), x_dim=train.dim, **choices)
    # The state, signals and update of Mittal et al. (2025), trained on new tasks as they do.
    of_paper = {"update": "residual", "summary_dim": 0, "count": False, "curvature": 0}
    paper = refined(parametric(**of_paper), steps=train.max_steps)
    implicit, at_once = (
        regimes.Implicit(encoder(), likelihood, x_dim=train.dim) for _ in ("refined", "at once")
    )
    return {
        MAIN: refined(parametric()),
        "parametric, data": refined(parametric(signal="data")),
        "parametric, gradient": refined(parametric(signal="gradient")),
        "parametric, the paper's form": paper,
        "explicit, both": refined(regimes.Explicit(latent, likelihood, rule)),
        "implicit": refined(implicit),
        "implicit, one step, all examples": Iterated(at_once, steps=1),
    }


def linear_model(train: Train) -> regimes.Predictor:
    """y = w . [x, 1], starting at the prior's mean, 0."""
    model = nn.Linear(train.dim, 1)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    return regimes.Predictor(model)


def main() -> None:
    """Trains each learner, measures it beside the baselines, and writes what came out."""
    preset, config = parse(PRESETS, "Meta-learn linear regression over minibatches.")
    metrics = {"excess_error": mean_squared_error}
    run, train = Experiment("linear_regression", preset, config, metrics=metrics), config.train
    likelihood = regimes.Gaussian(1, scale=math.sqrt(train.noise_variance))
    # The mean of y as the query's target: the same minimiser as y itself, and less variance.
    noise = {"noise_variance": train.noise_variance, "noisy_query": False}
    sampler = LinearRegression(train.dim, **noise)
    steps = {split: config.steps + config.deep_steps * (split == "in") for split in SHIFTS}

    def draw(split: str, offset: int) -> list[TaskBatch]:
        num_support = train.minibatch * max(steps[split])
        counts = {"num_support": num_support, "num_query": 64, "generator": run.generator(offset)}
        shifted = attrs.evolve(sampler, query_shift=SHIFTS[split])
        return [shifted.sample(config.test_tasks, **counts)]

    def source(learner: Iterated) -> Pool | SamplerSource:
        """Live tasks for a learner of one step; else new ones, as many examples in all."""
        counts = {"num_query": train.num_query, "generator": run.training_generator()}
        if learner.minibatch and learner.steps == 1:
            counts |= {"num_tasks": train.num_tasks, "max_steps": train.max_steps}
            return Pool(learner, sampler, **counts)
        longest = train.max_steps * train.minibatch
        per_task = train.max_steps if learner.minibatch else (train.max_steps + 1) / 2
        counts["num_tasks"] = max(1, round(train.num_tasks / per_task))
        num_support = longest if learner.minibatch else (train.minibatch, longest)
        return SamplerSource(sampler, num_support=num_support, **counts)

    def measure(name: str, learner: Iterated) -> None:
        for split, tasks in tests.items():
            at = steps[split] if name in (MAIN, UNTRAINED) else config.steps
            if not learner.minibatch:
                at = {step: step * train.minibatch for step in at if step}
            run.rows += run.measure(name, learner, tasks, at, split=split)

    tests = {split: draw(split, 10_000) for split in SHIFTS}
    for split, tasks in tests.items():
        read = {step: step * train.minibatch for step in steps[split]}
        run.rows += run.measure("oracle", sampler.oracle, tasks, read, split=split)
    for name, learner in learners(train, likelihood).items():
        learner.to(run.device)
        if name == MAIN:
            measure(UNTRAINED, learner)
        # The least error that n examples allow falls as 1 / n: so weighted, all depths count.
        run.train(name, learner, source(learner), weight=lambda seen: 1 + seen)
        measure(name, learner)

    def adam(rate: float) -> Iterated:
        regime = regimes.Parametric(model, likelihood, regimes.Adam(rate))
        return Iterated(regime, steps=1, minibatch=train.minibatch)

    model = linear_model(train).to(run.device)
    for split, tasks in tests.items():
        of = {"best": "smallest", "split": split}
        tuning = draw(split, 15_000)
        run.rows += run.tuned("adam", adam, RATES, tuning, tasks, config.steps, **of)
    run.rows += over_oracle(run.rows)
    run.finish()


def over_oracle(rows: list[Row]) -> list[Row]:
    """Excess error over the oracle's on the same tasks; the oracle's own is 1."""
    least = {(row.split, row.step): row.value for row in rows if row.method == "oracle"}
    of = {"metric": "excess_over_oracle", "stderr": math.nan}
    return [attrs.evolve(row, value=row.value / least[row.split, row.step], **of) for row in rows]


if __name__ == "__main__":
    main()
