"""Handwritten digits, refined minibatch by minibatch
===================================================

Real images, tasks that were never seen: each task takes 5 of the 10 classes, renames them, and
looks at the 64 pixels through a random projection to 16 numbers of its own. A learner reads 16
labelled training images a step; it is asked about test images. Training of any kind on the new task
is what it replaces, so logistic regression and Adam, which do train on it, stand beside it.
"""

import time
from pathlib import Path

import attrs
import rich
import torch
from iai_encoders import SetTransformer
from iai_iterate import Iterated, Pool
from iai_regimes import (
    Adam,
    Categorical,
    Explicit,
    Implicit,
    LatentDecoder,
    LearnedRule,
    Parametric,
    Predictor,
)
from iai_tasks import ProjectedClassification, TaskBatch, digits
from iai_train import (
    Device,
    FitConfig,
    Row,
    RunInfo,
    SamplerSource,
    accuracy,
    evaluate,
    figure,
    fit,
    parse,
    process_generator,
    resolve_device,
    summarise,
    table,
    write_metrics,
)
from sklearn.linear_model import LogisticRegression
from torch import nn

SEEN_TASKS = 2**20  # seeds of training tasks; all others are unseen
ADAM_RATES = (1.0, 0.3, 0.1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5)
INVERSE_RIDGES = (0.1, 0.3, 1.0, 3.0, 10.0)  # of logistic regression: scikit-learn's C
TUNING_SEED = 5_000  # far from the seeds of runs


@attrs.frozen(kw_only=True)
class Config:
    """Settings of the example."""

    out: Path = Path("runs/digits")
    """Folder for checkpoints, metrics.json and figure.png; a stopped run goes on from it."""
    seed: int = 0
    """Seed of weights and tasks."""
    device: Device = "auto"
    """auto is CUDA where there is one."""
    learners: tuple[str, ...] = ("implicit", "parametric, both", "explicit, both")
    """Which learners to train."""
    num_classes: int = 5
    """Classes of a task."""
    dim: int = 16
    """Numbers that a task's projection leaves of an image."""
    minibatch: int = 16
    """Examples read at a step."""
    width: int = 64
    """Size of a token."""
    layers: int = 2
    """Layers of the set encoder."""
    heads: int = 4
    """Attention heads."""
    curvature: int = 6
    """Hessian-vector products of a step."""
    summary: int = 64
    """Size of the running mean of learned features."""
    num_tasks: int = 64
    """Live tasks in the pool."""
    num_query: int = 16
    """Queries a task in training."""
    max_steps: int = 10
    """Longest life of a task in training, in steps."""
    fit: FitConfig = FitConfig(
        iterations=1500, learning_rate=5e-3, warmup=100, betas=(0.9, 0.95), log_every=100
    )
    """Training, the same for every learner."""
    test_tasks: int = 256
    """Unseen tasks that the learners are measured on."""
    support: int = 640
    """Examples of an unseen task; later steps read them again."""
    steps: tuple[int, ...] = (0, 1, 2, 4, 5, 8, 10, 20, 100)
    """Steps that are reported."""


PRESETS = {
    "cpu": Config(
        learners=(
            "implicit",
            "parametric, both",
            "parametric, data",
            "parametric, gradient",
            "explicit, both",
            "implicit, one step, all examples",
        ),
    ),
    "demo": Config(
        learners=("implicit", "parametric, both"),
        fit=FitConfig(iterations=1000, learning_rate=3e-3, warmup=100, betas=(0.9, 0.95)),
        steps=(0, 1, 2, 5, 10, 20),
        test_tasks=128,
    ),
    "smoke": Config(
        width=16,
        summary=8,
        num_tasks=8,
        num_query=8,
        fit=FitConfig(iterations=8, log_every=4, checkpoint_every=6),
        test_tasks=4,
        support=80,
        steps=(0, 1, 2, 6),
        learners=(
            "implicit",
            "parametric, both",
            "explicit, both",
            "implicit, one step, all examples",
        ),
    ),
    "gpu": Config(
        width=256,
        layers=4,
        num_tasks=512,
        num_query=64,
        fit=FitConfig(
            iterations=20_000, learning_rate=5e-4, warmup=500, betas=(0.9, 0.95), precision="bf16"
        ),
        test_tasks=1024,
    ),
}
UNTRAINED = ("out", "device", "fit", "learners", "test_tasks", "support", "steps")


def main() -> None:
    """Trains each learner, measures it beside the baselines, and writes what came out."""
    preset, config = parse(Config, PRESETS, "Meta-learn to classify handwritten digits.")
    started = time.perf_counter()
    torch.manual_seed(config.seed)
    device = resolve_device(config.device)
    batch = test_tasks(config, device, seed=config.seed)
    rows: list[Row] = []
    for name in config.learners:
        learner = build(config, name).to(device)
        train(config, name, learner)
        rows += measure(config, name, learner, batch)
        rich.print(table(rows, metric="accuracy"))
    rows += logistic_regression(config, batch, device)
    rows += adam(config, batch, device)
    run = RunInfo(
        example="digits",
        preset=preset,
        seed=config.seed,
        device=str(device),
        wall_seconds=time.perf_counter() - started,
    )
    write_metrics(config.out, run, rows)
    figure(rows, config.out / "figure.png", metric="accuracy", scale="linear")
    rich.print(table(rows, metric="accuracy"))
    rich.print(table(rows, metric="accuracy", by="examples"))
    rich.print(f"Wrote {config.out / 'metrics.json'} and {config.out / 'figure.png'}.")


def build(config: Config, name: str) -> Iterated:
    """A learner by the name of its rows."""
    likelihood = Categorical(config.num_classes)
    encoder = SetTransformer(config.width, config.layers, config.heads, 2 * config.width)
    sizes = {"x_dim": config.dim, "summary_dim": config.summary}
    kind, _, choice = name.partition(", ")
    if kind == "implicit":
        regime = Implicit(encoder, likelihood, **sizes)
        return Iterated(regime, steps=1, minibatch=None if choice else config.minibatch)
    if kind == "parametric":
        regime_type, predictor = Parametric, linear_model(config)
    else:
        decoder = LatentDecoder(config.dim, config.width, config.num_classes)
        regime_type, predictor = Explicit, Predictor(decoder, adapt=["latent"])
    rule = LearnedRule(
        predictor, likelihood, encoder, signal=choice, curvature=config.curvature, **sizes
    )
    return Iterated(regime_type(predictor, likelihood, rule), steps=1, minibatch=config.minibatch)


def linear_model(config: Config) -> Predictor:
    """A linear head that starts at even odds."""
    model = nn.Linear(config.dim, config.num_classes)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    return Predictor(model)


def train(config: Config, name: str, learner: Iterated) -> None:
    """Meta-trains a learner on training images, or goes on where a stopped run left it."""
    images = digits()
    # Training queries are training images too. In a pool a query may come up again in a later
    # minibatch of its task; holding images back to prevent that cost more than it gained.
    sampler = ProjectedClassification(
        images.train_images,
        images.train_labels,
        projection_dim=config.dim,
        num_classes=config.num_classes,
        num_tasks=SEEN_TASKS,
    )
    generator = process_generator(config.seed, config.device)
    source: Pool | SamplerSource[TaskBatch]
    if learner.minibatch:
        source = Pool(
            learner,
            sampler,
            num_tasks=config.num_tasks,
            num_query=config.num_query,
            max_steps=config.max_steps,
            generator=generator,
        )
    else:
        source = SamplerSource(
            sampler,
            num_tasks=max(1, round(2 * config.num_tasks / (config.max_steps + 1))),
            num_support=(config.minibatch, config.max_steps * config.minibatch),
            num_query=config.num_query,
            generator=generator,
        )
    rich.print(f"[bold]{name}[/bold]")
    fit(
        learner,
        source,
        config.fit,
        out=config.out / name.replace(", ", "-").replace(" ", "-"),
        device=config.device,
        setup=attrs.asdict(config, filter=lambda field, _: field.name not in UNTRAINED),
    )


def test_tasks(config: Config, device: torch.device, *, seed: int) -> TaskBatch:
    """Tasks never trained on; support from training images, queries from test images."""
    images = digits()
    sampler = ProjectedClassification(
        images.train_images,
        images.train_labels,
        query_images=images.test_images,
        query_labels=images.test_labels,
        projection_dim=config.dim,
        num_classes=config.num_classes,
        first_seed=SEEN_TASKS,
    )
    return sampler.sample(
        config.test_tasks,
        num_support=config.support,
        num_query=64,
        generator=torch.Generator(device).manual_seed(10_000 + seed),
    )


def measure(config: Config, name: str, learner: Iterated, batch: TaskBatch) -> list[Row]:
    """Accuracy after each reported step; a learner of one step gets all the examples at once."""
    settings = {
        "metrics": {"accuracy": accuracy},
        "method": name,
        "split": "in",
        "seed": config.seed,
    }
    if learner.minibatch:
        return evaluate(learner, [batch], steps=config.steps, **settings)
    rows = []
    for step in first_pass(config):
        pooled = attrs.evolve(batch, support=batch.support[:, : step * config.minibatch])
        (row,) = evaluate(learner, [pooled], steps=[1], **settings)
        rows.append(attrs.evolve(row, step=step))
    return rows


def first_pass(config: Config) -> list[int]:
    """The reported steps up to the one that has read all the examples."""
    return [step for step in config.steps if 0 < step * config.minibatch <= config.support]


def logistic_regression(config: Config, batch: TaskBatch, device: torch.device) -> list[Row]:
    """scikit-learn on the examples that each step has read, with the C best on other tasks."""
    fewer = attrs.evolve(config, test_tasks=max(4, config.test_tasks // 8))
    tuning = test_tasks(fewer, device, seed=TUNING_SEED + config.seed)
    rows = []
    for step in first_pass(config):
        examples = step * config.minibatch
        best = max(INVERSE_RIDGES, key=lambda c: fit_and_score(tuning, examples, c).mean().item())
        rows.append(
            summarise(
                fit_and_score(batch, examples, best),
                method="logistic regression",
                split="in",
                step=step,
                examples=examples,
                metric="accuracy",
                seed=config.seed,
            )
        )
    return rows


def fit_and_score(batch: TaskBatch, examples: int, c: float) -> torch.Tensor:
    """Accuracy of logistic regression on each task's queries."""
    support, query = batch.support[:, :examples].to(device="cpu"), batch.query.to(device="cpu")
    scores = []
    for x, y, query_x, query_y in zip(support.x, support.y, query.x, query.y, strict=True):
        if len(y.unique()) == 1:
            scores.append((query_y == y[0]).double().mean())
            continue
        model = LogisticRegression(C=c, max_iter=1000).fit(x.numpy(), y.numpy())
        scores.append(torch.tensor(model.score(query_x.numpy(), query_y.numpy())))
    return torch.stack(scores)


def adam(config: Config, batch: TaskBatch, device: torch.device) -> list[Row]:
    """Adam on the linear head, a step a minibatch, with each step's best rate on other tasks."""
    tuning = test_tasks(config, device, seed=TUNING_SEED + config.seed)
    predictor = linear_model(config).to(device)
    found: dict[int, tuple[float, Row]] = {}
    for rate in ADAM_RATES:
        regime = Parametric(predictor, Categorical(config.num_classes), Adam(rate))
        learner = Iterated(regime, steps=1, minibatch=config.minibatch)
        tuned = measure(config, "adam", learner, tuning)
        for other, row in zip(tuned, measure(config, "adam", learner, batch), strict=True):
            if row.step not in found or other.value > found[row.step][0]:
                found[row.step] = other.value, row
    return [row for _, row in found.values()]


if __name__ == "__main__":
    main()
