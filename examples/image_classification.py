"""Images, classified by learners that read them minibatch by minibatch
====================================================================

MNIST or Fashion-MNIST, whole: a task renames the classes and looks at the images through a random
projection of its own, and each learner meets such tasks of one of the two in training. It is tested
on unseen tasks of that one, and of the other one, of which it has seen nothing. It reads a task's
examples once, in minibatches that grow from 10 to 160: as far as 10,240 examples, where training
went to the thousand or so that a task of it lives to see. Two learners are also measured when they
have then read all of it twice more, at once.

Beside the learners stand what they replace: logistic regression with a tuned C, Adam on the same
model with the best rate, nearest neighbours, and a model that reads all examples at once.
"""

import json
import math
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from itertools import accumulate, chain, islice, repeat
from pathlib import Path
from typing import Literal, NamedTuple

import attrs
import rich
import torch
from iai_encoders import SetTransformer
from iai_iterate import Adapted, Iterated, Pool
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
from iai_tasks import (
    Examples,
    LabelledImages,
    ProjectedClassification,
    TaskBatch,
    digits,
    fashion_mnist,
    mnist,
)
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
    peak_bytes,
    process_generator,
    resolve_device,
    seconds,
    summarise,
    table,
    write_metrics,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

SEEN_TASKS = 2**20  # seeds of training tasks; all others are unseen
TUNING_TASKS = 2**21  # the first seed of the tasks that baselines are tuned on
ADAM_RATES = (0.3, 0.1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4)
INVERSE_RIDGES = (1e-3, 1e-2, 0.1, 1.0, 10.0)  # of logistic regression: scikit-learn's C
NEIGHBOURS = (1, 3, 5, 10)
ONE_STEP = "implicit, one step, all examples"
READ_AGAIN = ("parametric linear, gradient", "parametric mlp, both")  # measured so as well
TIMES_AGAIN = 2

Images = Literal["mnist", "fashion", "digits"]


@attrs.frozen(kw_only=True)
class Settings:
    """What to train, how, and what to measure."""

    out: Path
    """Folder for checkpoints, metrics.json and figure.png; a stopped run goes on from it."""
    seed: int = 0
    """Seed of weights and tasks."""
    device: Device = "auto"
    """auto is CUDA where there is one."""
    learners: tuple[str, ...] = (
        "parametric linear, both",
        "parametric linear, gradient",
        "parametric linear, data",
        "parametric mlp, both",
        "explicit, both",
        "implicit",
        ONE_STEP,
    )
    """Which learners to train: a regime, what is adapted, and the signal that it is adapted by."""
    num_classes: int = 10
    """The most classes that a learner holds."""
    dim: int = 100
    """Numbers that a task's projection leaves of an image."""
    hidden: int = 64
    """Hidden units of the MLP, all of whose parameters a task adapts."""
    minibatch: tuple[int, ...] = (10, 10, 20, 40, 80, 160)
    """Examples read at each step of a test; the last goes on."""
    trained_minibatches: tuple[int, ...] = (10, 20, 40, 80, 160)
    """Of these, a step of training reads one."""
    max_steps: int = 100
    """Longest life of a task in training, in steps."""
    at_once: int = 640
    """The most examples that the model of one step reads in training."""
    width: int = 64
    """Size of a token of a parametric or explicit learner."""
    wide: int = 128
    """Size of a token of an implicit one, whose attention compares the images themselves."""
    layers: int = 2
    """Layers of the set encoder."""
    heads: int = 2
    """Attention heads."""
    summary: int = 64
    """Size of the running mean of learned features."""
    num_tasks: int = 32
    """Live tasks in the pool."""
    num_query: int = 32
    """Queries a task in training."""
    fit: FitConfig
    """Training, the same for every learner."""
    test_tasks: int = 24
    """Unseen tasks that the learners are measured on."""
    tuning_tasks: int = 4
    """Other unseen tasks, on which the baselines' settings are chosen."""
    test_query: int = 256
    """Queries of each."""
    test_chunk: int = 8
    """How many tasks at a time; times are those of so many, side by side."""
    examples: tuple[int, ...] = (10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5120, 10_240)
    """Numbers of examples after which the answers are measured."""


@attrs.frozen(kw_only=True)
class Config(Settings):
    """Settings of the example."""

    out: Path = Path("runs/image_classification")
    """Folder for checkpoints, metrics.json and figure.png; a stopped run goes on from it."""
    data: Path | None = None
    """Folder that holds the images, or gets them; by default one in `out`."""
    train_on: Images = "mnist"
    """What the training tasks are made of."""
    test_on: tuple[Images, ...] = ("mnist", "fashion")
    """What the tests are made of."""


PRESETS = {
    "cpu": Config(
        fit=FitConfig(
            iterations=600, learning_rate=2e-3, warmup=50, betas=(0.9, 0.95), log_every=100
        )
    ),
    "smoke": Config(
        train_on="digits",
        test_on=("digits",),
        dim=12,
        hidden=6,
        minibatch=(10, 10, 20),
        trained_minibatches=(10, 20),
        max_steps=3,
        at_once=40,
        width=8,
        wide=16,
        layers=1,
        summary=8,
        num_tasks=4,
        num_query=4,
        fit=FitConfig(iterations=2, log_every=1, checkpoint_every=1),
        test_tasks=3,
        tuning_tasks=2,
        test_query=8,
        test_chunk=2,
        examples=(10, 20, 60),
        learners=(
            "parametric linear, both",
            "parametric mlp, both",
            "explicit, both",
            "implicit",
            ONE_STEP,
        ),
    ),
    "gpu": Config(
        width=128,
        wide=256,
        layers=4,
        heads=4,
        num_tasks=128,
        num_query=64,
        at_once=1280,
        fit=FitConfig(
            iterations=3000, learning_rate=1e-3, warmup=200, betas=(0.9, 0.95), log_every=200
        ),
        test_tasks=64,
        test_chunk=16,
    ),
}
NOT_OF_TRAINING = {
    *("out", "data", "device", "fit", "learners", "test_on", "test_tasks", "tuning_tasks"),
    *("test_query", "test_chunk", "examples", "minibatch", "stores", "images", "unreadable"),
}


def main() -> None:
    """Trains each learner on one set of images, and tests it on that one and on others."""
    preset, config = parse(PRESETS, "Meta-learn to classify images, raw ones.")
    if config.train_on not in config.test_on:
        raise SystemExit(
            f"`test_on` must have {config.train_on}, which is trained on, among others; got "
            f"{', '.join(config.test_on)}."
        )
    images = {name: load(config, name) for name in {config.train_on, *config.test_on}}
    seen = images[config.train_on]
    training = ProjectedClassification(
        seen.train_images, seen.train_labels, projection_dim=config.dim, num_tasks=SEEN_TASKS
    )
    tests = {
        "in" if name == config.train_on else name: held_out(config, images[name])
        for name in config.test_on
    }
    compare(config, f"image_classification-{config.train_on}", preset, training, tests)


def load(config: Config, name: Images) -> LabelledImages:
    """Images less their mean image, so that tokens differ by what tells images apart."""
    data = config.data or config.out / "images"
    if name == "digits":
        images = digits()
    elif name == "mnist":
        images = mnist(data, download=True)
    else:
        images = fashion_mnist(data, download=True)
    mean = images.train_images.mean(0)
    return attrs.evolve(
        images,
        train_images=images.train_images - mean,
        test_images=images.test_images - mean,
    )


class Unseen(NamedTuple):
    """Tasks that nothing was trained on, of one set of images."""

    test: ProjectedClassification
    tuning: ProjectedClassification  # of the baselines
    settings: "Settings"  # how much to draw and to measure


def held_out(config: Config, images: LabelledImages) -> Unseen:
    """Support from training images, queries from test images."""
    samplers = (
        ProjectedClassification(
            images.train_images,
            images.train_labels,
            query_images=images.test_images,
            query_labels=images.test_labels,
            projection_dim=config.dim,
            first_seed=seed,
        )
        for seed in (SEEN_TASKS, TUNING_TASKS)
    )
    return Unseen(*samplers, config)


def compare(
    config: Settings,
    example: str,
    preset: str,
    training: ProjectedClassification,
    tests: Mapping[str, Unseen],
) -> None:
    """Trains the learners, measures them beside the baselines, and writes what came out."""
    started = time.perf_counter()
    check(config, tests)
    config.out.mkdir(parents=True, exist_ok=True)
    device = resolve_device(config.device)
    drawn = {
        split: (
            settings,
            draw(settings, test, config.test_tasks, device),
            draw(settings, tuning, config.tuning_tasks, device),
        )
        for split, (test, tuning, settings) in tests.items()
    }
    rows: list[Row] = []
    for name in config.learners:
        torch.manual_seed(config.seed)  # so that a learner is the same whatever came before it
        learner = build(config, name).to(device)
        train(config, name, learner, training)
        for split, (settings, batches, _) in drawn.items():
            rows += measure(settings, name, learner, split, batches)
    for split, (settings, batches, tuning) in drawn.items():
        for name, choices in (
            ("logistic regression", INVERSE_RIDGES),
            ("nearest neighbours", NEIGHBOURS),
        ):
            rows += trained_anew(settings, split, batches, tuning, name, choices)
        for kind in ("linear", "mlp"):
            rows += adam(settings, split, batches, tuning, kind)
    run = RunInfo(
        example=example,
        preset=preset,
        seed=config.seed,
        device=str(device),
        wall_seconds=time.perf_counter() - started,
    )
    write_metrics(config.out, run, rows)
    accuracies = [row for row in rows if row.metric == "accuracy"]
    figure(accuracies, config.out / "figure.png", metric="accuracy", scale="linear")
    rich.print(table(rows, metric="accuracy", by="examples"))
    rich.print(table(rows, metric="seconds", by="examples"))
    rich.print(f"Wrote {config.out / 'metrics.json'} and {config.out / 'figure.png'}.")


def check(config: Settings, tests: Mapping[str, Unseen]) -> None:
    """Refuses, before anything is trained, what would be found out afterwards."""
    models = ("parametric linear", "parametric mlp", "explicit")
    known = [f"{model}, {signal}" for model in models for signal in ("both", "gradient", "data")]
    for name in config.learners:
        if name not in (*known, "implicit", ONE_STEP):
            names = "; ".join((*known, "implicit", ONE_STEP))
            raise SystemExit(f"`learners` must be among these: {names}. Got {name!r}.")
    steps_by_examples(config)
    for split, unseen in tests.items():
        number = unseen.test.spec.target.num_classes
        if number > config.num_classes:
            raise SystemExit(
                f"`num_classes` must be at least {number}, the classes of the test {split!r}; got "
                f"{config.num_classes}."
            )


def build(config: Settings, name: str) -> Iterated:
    """A learner by the name of its rows, as it is trained: a step reads all that it is given."""
    likelihood = Categorical(config.num_classes)
    kind, _, signal = name.partition(", ")
    width = config.wide if kind == "implicit" else config.width
    encoder = SetTransformer(width, config.layers, config.heads, 2 * width)
    sizes = {"x_dim": config.dim, "summary_dim": config.summary}
    if kind == "implicit":
        return Iterated(Implicit(encoder, likelihood, **sizes), steps=1)
    if kind == "explicit":
        decoder = LatentDecoder(config.dim, config.width, config.num_classes)
        latent = Predictor(decoder, adapt=["latent"])
        rule = LearnedRule(latent, likelihood, encoder, signal=signal, **sizes)
        return Iterated(Explicit(latent, likelihood, rule), steps=1)
    predictor = model(config, kind.removeprefix("parametric "))
    rule = LearnedRule(
        predictor,
        likelihood,
        encoder,
        signal=signal,
        whiten=signal != "data",
        curvature=1,
        chunk=config.dim + 1,  # a token holds what one unit reads by, and its bias
        **sizes,
    )
    return Iterated(Parametric(predictor, likelihood, rule), steps=1)


def model(config: Settings, kind: str) -> Predictor:
    """A linear head that starts at even odds, or an MLP that starts at random."""
    if kind == "mlp":
        first, last = (
            nn.Linear(config.dim, config.hidden),
            nn.Linear(config.hidden, config.num_classes),
        )
        return Predictor(nn.Sequential(first, nn.ReLU(), last))
    head = nn.Linear(config.dim, config.num_classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return Predictor(head)


def train(config: Settings, name: str, learner: Iterated, sampler: ProjectedClassification) -> None:
    """Meta-trains a learner on training images, or goes on where a stopped run left it."""
    generator = process_generator(config.seed, config.device)
    source: Pool | SamplerSource[TaskBatch]
    if name == ONE_STEP:
        fewest = config.trained_minibatches[0]
        source = SamplerSource(
            sampler,
            num_tasks=max(1, config.num_tasks // 4),
            num_support=(fewest, config.at_once),
            num_query=config.num_query,
            generator=generator,
        )
    else:
        source = Pool(
            learner,
            sampler,
            num_tasks=config.num_tasks,
            num_query=config.num_query,
            max_steps=config.max_steps,
            num_support=config.trained_minibatches,
            generator=generator,
        )
    setup = {
        field: str(value) if isinstance(value, Path) else value
        for field, value in attrs.asdict(config).items()
        if field not in NOT_OF_TRAINING
    }
    rich.print(f"[bold]{name}[/bold]")
    out = config.out / name.replace(", ", "-").replace(" ", "-")
    fit(learner, source, config.fit, out=out, device=config.device, setup=setup)


def draw(
    config: Settings, sampler: ProjectedClassification, num_tasks: int, device: torch.device
) -> list[TaskBatch]:
    """Tasks with as many examples as any measurement needs, a few at a time."""
    generator = torch.Generator(device).manual_seed(10_000 + config.seed)
    return [
        sampler.sample(
            min(config.test_chunk, num_tasks - start),
            num_support=max(config.examples),
            num_query=config.test_query,
            generator=generator,
        )
        for start in range(0, num_tasks, config.test_chunk)
    ]


def steps_by_examples(config: Settings) -> dict[int, int]:
    """The step after which so many examples are read, for each number that is asked for."""
    sizes = chain(config.minibatch, repeat(config.minibatch[-1]))
    seen = accumulate(islice(sizes, max(config.examples)))
    step = {examples: number for number, examples in enumerate(seen, start=1)}
    for examples in config.examples:
        if examples not in step:
            raise SystemExit(
                f"`examples` must be what whole minibatches of {config.minibatch} sum up to; "
                f"got {examples}."
            )
    return {examples: step[examples] for examples in config.examples}


def measure(
    config: Settings, name: str, learner: Iterated, split: str, batches: list[TaskBatch]
) -> list[Row]:
    """Accuracy, seconds and memory by examples seen."""
    steps = steps_by_examples(config)
    settings = {
        "metrics": {"accuracy": accuracy},
        "method": name,
        "split": split,
        "seed": config.seed,
    }
    if name == ONE_STEP:
        rows = [
            attrs.evolve(evaluate(learner, first(batches, n), steps=[1], **settings)[0], step=step)
            for n, step in steps.items()
        ]
    else:
        learner = Iterated(learner.regime, steps=1, minibatch=config.minibatch)
        rows = evaluate(learner, batches, steps=steps.values(), **settings)
    learner.eval()
    if split == "in":
        rows += costs(config, name, learner.adapt, batches[0])
    if name in READ_AGAIN:
        rows += measure_again(config, f"{name}, read again", learner, split, batches)
    return rows


def measure_again(
    config: Settings, name: str, learner: Iterated, split: str, batches: list[TaskBatch]
) -> list[Row]:
    """The same after all that was read in minibatches has been read again at once, twice."""

    def adapt(support: Examples, query_x: Tensor) -> Adapted:
        adapted = learner.adapt(support, query_x)
        for _ in range(TIMES_AGAIN):
            adapted = adapted.update(support, fresh=False)
        return adapted

    rows = [
        summarise(
            torch.cat(
                [
                    accuracy(
                        adapt(batch.support, batch.query.x).predict(batch.query.x), batch.query
                    )
                    for batch in first(batches, examples)
                ]
            ),
            method=name,
            split=split,
            step=step,
            examples=examples,
            metric="accuracy",
            seed=config.seed,
        )
        for examples, step in steps_by_examples(config).items()
    ]
    return rows + (costs(config, name, adapt, batches[0]) if split == "in" else [])


def first(batches: list[TaskBatch], examples: int) -> list[TaskBatch]:
    """The same tasks with their first examples alone."""
    return [attrs.evolve(batch, support=batch.support[:, :examples]) for batch in batches]


def costs(
    config: Settings, name: str, adapt: Callable[[Examples, Tensor], Adapted], batch: TaskBatch
) -> list[Row]:
    """Seconds a task to read so many examples and answer the queries; peak memory at the end."""
    device, rows = batch.query.x.device, []
    for examples, step in steps_by_examples(config).items():
        (part,) = first([batch], examples)

        def answer(part: TaskBatch = part) -> Tensor:
            return adapt(part.support, part.query.x).predict(part.query.x)

        def spent(answer: Callable[[], Tensor] = answer) -> float:
            return seconds(answer, device, repeats=2) / batch.num_tasks

        rows.append(once(config, name, step, examples, "seconds", spent))
    peak = once(
        config,
        name,
        step,
        examples,
        "bytes",
        lambda: peak_bytes(answer, device) / batch.num_tasks,
    )
    return [*rows, peak]


def once(
    config: Settings,
    name: str,
    step: int,
    examples: int,
    metric: str,
    measure: Callable[[], float],
) -> Row:
    """A cost: measured once, and kept for a run that goes on."""
    path = config.out / "costs.json"
    where = f"{resolve_device(config.device)}, {config.test_chunk} tasks"
    sizes = f"{config.test_query} queries, minibatches {config.minibatch}, {config.hidden} hidden"
    key = f"{name}, {examples} examples, {metric}: {where}, {sizes}"
    kept = json.loads(path.read_text()) if path.exists() else {}
    if key not in kept:
        kept[key] = measure()
        whole = path.with_suffix(".part")
        whole.write_text(json.dumps(kept, indent=1))
        whole.replace(path)
    sizes = {"step": step, "examples": float(examples), "seed": config.seed}
    return Row(method=name, split="in", metric=metric, value=kept[key], stderr=math.nan, **sizes)


def trained_anew(
    config: Settings,
    split: str,
    batches: list[TaskBatch],
    tuning: list[TaskBatch],
    name: str,
    choices: tuple[float, ...],
) -> list[Row]:
    """scikit-learn on the examples that each step has read, with what is best on other tasks."""
    rows = []
    for examples, step in steps_by_examples(config).items():
        best = max(
            choices,
            key=lambda choice: anew(first(tuning, examples), name, choice).mean().item(),
        )
        rows.append(
            summarise(
                anew(first(batches, examples), name, best),
                method=name,
                split=split,
                step=step,
                examples=examples,
                metric="accuracy",
                seed=config.seed,
            )
        )
        if split == "in":
            part = first(batches[:1], examples)

            def spent(part: list[TaskBatch] = part, best: float = best) -> float:
                work = partial(anew, part, name, best)
                return seconds(work, torch.device("cpu"), repeats=2) / part[0].num_tasks

            rows.append(once(config, name, step, examples, "seconds", spent))
    return rows


def anew(batches: list[TaskBatch], name: str, choice: float) -> Tensor:
    """Accuracy on each task's queries after training on its support."""
    scores = []
    for batch in (batch.to(device="cpu") for batch in batches):
        for task in range(batch.num_tasks):
            x, y = batch.support.x[task].numpy(), batch.support.y[task].numpy()
            query, truth = batch.query.x[task].numpy(), batch.query.y[task].numpy()
            if name == "logistic regression" and len(set(y)) > 1:
                classifier = LogisticRegression(C=choice, max_iter=200)
            else:
                classifier = KNeighborsClassifier(min(int(max(choice, 1)), len(y)))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # 200 iterations are its share
                scores.append(float(classifier.fit(x, y).score(query, truth)))
    return torch.tensor(scores)


def adam(
    config: Settings, split: str, batches: list[TaskBatch], tuning: list[TaskBatch], kind: str
) -> list[Row]:
    """Adam on the parametric model, a step a minibatch, with each step's best rate elsewhere."""
    device, name = batches[0].query.x.device, f"adam, {kind}"
    torch.manual_seed(config.seed)  # of the MLP's start
    predictor = model(config, kind).to(device)
    found: dict[int, tuple[float, float]] = {}

    def learner(rate: float) -> Iterated:
        regime = Parametric(predictor, Categorical(config.num_classes), Adam(rate))
        return Iterated(regime, steps=1, minibatch=config.minibatch)

    settings = {
        "steps": steps_by_examples(config).values(),
        "metrics": {"accuracy": accuracy},
        "method": name,
        "split": split,
        "seed": config.seed,
    }
    for rate in ADAM_RATES:
        for row in evaluate(learner(rate), tuning, **settings):
            found[row.step] = max(found.get(row.step, (0.0, 0.0)), (row.value, rate))
    rows = [
        row
        for rate in sorted({rate for _, rate in found.values()})
        for row in evaluate(learner(rate), batches, **settings)
        if found[row.step][1] == rate
    ]
    if split == "in":
        rows += costs(config, name, learner(ADAM_RATES[0]).eval().adapt, batches[0])
    return sorted(rows, key=lambda row: row.step)


if __name__ == "__main__":
    main()
