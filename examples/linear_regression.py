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
import time
from pathlib import Path

import attrs
import rich
import torch
from iai_encoders import SetTransformer
from iai_iterate import Iterated, Pool
from iai_regimes import (
    Adam,
    Explicit,
    Gaussian,
    Implicit,
    LatentDecoder,
    LearnedRule,
    Parametric,
    Predictor,
)
from iai_tasks import LinearRegression, TaskBatch
from iai_train import (
    Device,
    FitConfig,
    Row,
    RunInfo,
    SamplerSource,
    evaluate,
    figure,
    fit,
    mean_squared_error,
    parse,
    process_generator,
    resolve_device,
    summarise,
    table,
    write_metrics,
)
from torch import Tensor, nn

SPLITS = {"in": "none", "wide": "wide", "far": "far"}
ADAM_RATES = (1.0, 0.3, 0.1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5)
METRICS = {"excess_error": mean_squared_error}
MAIN = "parametric, both"
UNTRAINED = "parametric, untrained"
DEEP = (MAIN, UNTRAINED)
TUNING_SEED = 5_000  # far from the seeds of runs
NOT_OF_TRAINING = ("out", "device", "fit", "test_tasks", "steps", "deep_steps")


@attrs.frozen(kw_only=True)
class Config:
    """Settings of the example."""

    out: Path = Path("runs/linear_regression")
    """Folder for checkpoints, metrics.json and figure.png; a stopped run goes on from it."""
    seed: int = 0
    """Seed of weights and tasks."""
    device: Device = "auto"
    """auto is CUDA where there is one."""
    dim: int = 4
    """Inputs of a task, beside the constant."""
    noise_variance: float = 0.25
    """Variance of the noise of y."""
    minibatch: int = 16
    """Examples read at a step."""
    width: int = 32
    """Size of a token."""
    layers: int = 2
    """Layers of the set encoder."""
    heads: int = 4
    """Attention heads."""
    curvature: int = 5
    """Hessian-vector products of a step."""
    num_tasks: int = 256
    """Live tasks in the pool."""
    num_query: int = 32
    """Queries a task in training."""
    max_steps: int = 10
    """Longest life of a task in training, in steps."""
    fit: FitConfig = FitConfig(
        iterations=1200, learning_rate=4e-3, warmup=100, betas=(0.9, 0.95), log_every=100
    )
    """Training, the same for every learner."""
    test_tasks: int = 256
    """Tasks that the learners are measured on, for each split."""
    steps: tuple[int, ...] = (0, 1, 2, 5, 10, 20, 100)
    """Steps that are reported."""
    deep_steps: tuple[int, ...] = (1000,)
    """Further steps of the main learner, on queries drawn as in training only."""


PRESETS = {
    "cpu": Config(),
    "smoke": Config(
        width=16,
        num_tasks=16,
        num_query=8,
        max_steps=8,
        fit=FitConfig(iterations=12, learning_rate=4e-3, log_every=5, checkpoint_every=10),
        test_tasks=8,
        steps=(0, 1, 2, 5),
        deep_steps=(10,),
    ),
    "gpu": Config(
        dim=64,
        minibatch=64,
        width=256,
        layers=4,
        num_tasks=512,
        num_query=64,
        fit=FitConfig(
            iterations=20_000, learning_rate=1e-3, warmup=500, betas=(0.9, 0.95), precision="bf16"
        ),
        test_tasks=512,
    ),
}


def main() -> None:
    """Trains each learner, measures it beside the baselines, and writes what came out."""
    preset, config = parse(Config, PRESETS, "Meta-learn linear regression over minibatches.")
    started = time.perf_counter()
    torch.manual_seed(config.seed)
    device = resolve_device(config.device)
    rows: list[Row] = []
    tests = {split: test_tasks(config, shift, device) for split, shift in SPLITS.items()}
    for split, batch in tests.items():
        rows += oracle(config, batch, split)
    for name, learner in learners(config).items():
        learner.to(device)
        if name == MAIN:
            for split, batch in tests.items():
                rows += measure(config, UNTRAINED, learner, batch, split)
        train(config, name, learner)
        for split, batch in tests.items():
            rows += measure(config, name, learner, batch, split)
        rich.print(table(rows, metric="excess_error"))
    for split, batch in tests.items():
        rows += adam(config, batch, split, device)
    rows += ratios(rows)
    run = RunInfo(
        example="linear_regression",
        preset=preset,
        seed=config.seed,
        device=str(device),
        wall_seconds=time.perf_counter() - started,
    )
    write_metrics(config.out, run, rows)
    figure(rows, config.out / "figure.png", metric="excess_error")
    for split in SPLITS:
        rich.print(table(rows, metric="excess_error", split=split))
    rich.print(table(rows, metric="excess_over_oracle"))
    rich.print(f"Wrote {config.out / 'metrics.json'} and {config.out / 'figure.png'}.")


def learners(config: Config) -> dict[str, Iterated]:
    """Every learner of the comparison, by the name of its rows."""
    likelihood = Gaussian(1, scale=math.sqrt(config.noise_variance))

    def encoder() -> SetTransformer:
        return SetTransformer(config.width, config.layers, config.heads, 2 * config.width)

    def refined(regime: Parametric | Implicit) -> Iterated:
        return Iterated(regime, steps=1, minibatch=config.minibatch)

    def parametric(**choices: object) -> Parametric:
        predictor = linear_model(config.dim)
        settings = {"curvature": config.curvature, **choices}
        rule = LearnedRule(predictor, likelihood, encoder(), x_dim=config.dim, **settings)
        return Parametric(predictor, likelihood, rule)

    decoder = Predictor(
        LatentDecoder(config.dim, 4 * config.dim, 1, hidden_dim=config.width, num_layers=1),
        adapt=["latent"],
    )
    explicit = LearnedRule(
        decoder, likelihood, encoder(), x_dim=config.dim, curvature=config.curvature
    )
    # The state, signals and update of Mittal et al. (2025), trained on new tasks as they do.
    paper = parametric(update="residual", summary_dim=0, count=False, curvature=0)
    implicit = Implicit(encoder(), likelihood, x_dim=config.dim)
    at_once = Implicit(encoder(), likelihood, x_dim=config.dim)
    return {
        MAIN: refined(parametric()),
        "parametric, data": refined(parametric(signal="data")),
        "parametric, gradient": refined(parametric(signal="gradient")),
        "parametric, the paper's form": Iterated(
            paper, steps=config.max_steps, minibatch=config.minibatch
        ),
        "explicit, both": refined(Explicit(decoder, likelihood, explicit)),
        "implicit": refined(implicit),
        "implicit, one step, all examples": Iterated(at_once, steps=1),
    }


def linear_model(dim: int) -> Predictor:
    """y = w . [x, 1], starting at the prior's mean, 0."""
    model = nn.Linear(dim, 1)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    return Predictor(model)


def train(config: Config, name: str, learner: Iterated) -> None:
    """Meta-trains a learner, or goes on where a stopped run left it."""
    rich.print(f"[bold]{name}[/bold]")
    fit(
        learner,
        source(config, learner),
        config.fit,
        out=config.out / name.replace("'", "").replace(", ", "-").replace(" ", "-"),
        device=config.device,
        weight=depth_weight,
        setup=attrs.asdict(config, filter=lambda field, _: field.name not in NOT_OF_TRAINING),
    )


def source(config: Config, learner: Iterated) -> Pool | SamplerSource[TaskBatch]:
    """Live tasks for a learner of one step at a time; else new ones, as many examples in all."""
    generator = process_generator(config.seed, config.device)
    # The mean of y as the query's target: the same minimiser as y itself, and less variance.
    sampler = LinearRegression(config.dim, noise_variance=config.noise_variance, noisy_query=False)
    if learner.minibatch and learner.steps == 1:
        return Pool(
            learner,
            sampler,
            num_tasks=config.num_tasks,
            num_query=config.num_query,
            max_steps=config.max_steps,
            generator=generator,
        )
    longest = config.max_steps * config.minibatch
    per_task = config.max_steps if learner.minibatch else (config.max_steps + 1) / 2
    return SamplerSource(
        sampler,
        num_tasks=max(1, round(config.num_tasks / per_task)),
        num_support=longest if learner.minibatch else (config.minibatch, longest),
        num_query=config.num_query,
        generator=generator,
    )


def depth_weight(seen: Tensor) -> Tensor:
    """The least error that n examples allow falls as 1 / n: so weighted, all depths count."""
    return 1 + seen


def test_tasks(config: Config, shift: str, device: torch.device) -> TaskBatch:
    """Unseen tasks, with as many examples as the deepest step reads."""
    sampler = LinearRegression(
        config.dim,
        noise_variance=config.noise_variance,
        query_shift=shift,
        noisy_query=False,
    )
    return sampler.sample(
        config.test_tasks,
        num_support=config.minibatch * max(reported(config, shift)),
        num_query=64,
        generator=torch.Generator(device).manual_seed(10_000 + config.seed),
    )


def reported(config: Config, shift: str) -> tuple[int, ...]:
    """The steps that a batch of tasks has examples for."""
    return config.steps + (config.deep_steps if shift == "none" else ())


def oracle(config: Config, batch: TaskBatch, split: str) -> list[Row]:
    """The Bayesian ridge on the examples that each step has read."""
    sampler = LinearRegression(config.dim, noise_variance=config.noise_variance)
    rows = []
    for step in reported(config, SPLITS[split]):
        examples = step * config.minibatch
        answer = sampler.oracle(attrs.evolve(batch, support=batch.support[:, :examples]))
        rows.append(
            summarise(
                mean_squared_error(answer, batch.query),
                method="oracle",
                split=split,
                step=step,
                examples=examples,
                metric="excess_error",
                seed=config.seed,
            )
        )
    return rows


def measure(
    config: Config, name: str, learner: Iterated, batch: TaskBatch, split: str
) -> list[Row]:
    """Error after each reported step; a learner of one step is given all the examples at once."""
    steps = reported(config, SPLITS[split]) if name in DEEP else config.steps
    settings = {"metrics": METRICS, "method": name, "split": split, "seed": config.seed}
    if learner.minibatch:
        return evaluate(learner, [batch], steps=steps, **settings)
    rows = []
    for step in filter(None, config.steps):
        pooled = attrs.evolve(batch, support=batch.support[:, : step * config.minibatch])
        (row,) = evaluate(learner, [pooled], steps=[1], **settings)
        rows.append(attrs.evolve(row, step=step))
    return rows


def adam(config: Config, batch: TaskBatch, split: str, device: torch.device) -> list[Row]:
    """Adam on theta, a step a minibatch, with each step's best rate on other tasks."""
    shift = SPLITS[split]
    tuning = test_tasks(attrs.evolve(config, seed=TUNING_SEED + config.seed), shift, device)
    likelihood = Gaussian(1, scale=math.sqrt(config.noise_variance))
    predictor = linear_model(config.dim).to(device)
    found: dict[int, tuple[float, Row]] = {}
    for rate in ADAM_RATES:
        regime = Parametric(predictor, likelihood, Adam(rate))
        learner = Iterated(regime, steps=1, minibatch=config.minibatch)
        tuned = measure(config, "adam", learner, tuning, split)
        for other, row in zip(tuned, measure(config, "adam", learner, batch, split), strict=True):
            if row.step not in found or other.value < found[row.step][0]:
                found[row.step] = other.value, row
    return [row for _, row in found.values()]


def ratios(rows: list[Row]) -> list[Row]:
    """Excess error over the oracle's on the same tasks; the oracle's own is 1."""
    best = {(row.split, row.step): row.value for row in rows if row.method == "oracle"}
    return [
        attrs.evolve(
            row,
            metric="excess_over_oracle",
            value=row.value / best[row.split, row.step],
            stderr=math.nan,
        )
        for row in rows
    ]


if __name__ == "__main__":
    main()
