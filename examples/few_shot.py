"""One letter of each: every method on the same few-shot images
===============================================================

A task shows one image of each of five letters and asks which of them other images are; the scripts
of test tasks were never seen in training. MAML, first-order MAML, Reptile, Meta-SGD, ANIL, implicit
MAML, CAVIA, a neural process and the learned regimes are one loop here, and a table of choices. All
are trained on as many tasks and measured on the same ones: how often they are right, how long they
take to adapt, and what a meta-gradient costs. The nearest mean image, which learns nothing, stands
beside them.

Images are letters drawn from the fonts of this machine, Omniglot, or any folder of folders.
"""

import hashlib
import json
import time
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import attrs
import rich
import torch
from iai_encoders import DeepSet, SetTransformer
from iai_iterate import (
    ConjugateGradient,
    ImplicitGradient,
    Iterated,
    first_order,
    reptile,
    unrolled,
)
from iai_regimes import (
    Categorical,
    Conv4,
    Embedded,
    Explicit,
    GradientDescent,
    Implicit,
    LatentDecoder,
    LearnedRule,
    NewtonCG,
    Parametric,
    Predictor,
    Proximal,
)
from iai_regimes.interfaces import Regime, Rule
from iai_tasks import (
    FewShotClassification,
    ImageClasses,
    TaskBatch,
    glyphs,
    image_folder,
    omniglot,
    split_classes,
)
from iai_train import (
    Device,
    FitConfig,
    Row,
    RunInfo,
    SamplerSource,
    accuracy,
    evaluate,
    fit,
    installed_versions,
    parse,
    peak_bytes,
    process_generator,
    resolve_device,
    seconds,
    summarise,
    write_metrics,
)
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import nn

LAST_STEP = {"cnp": 1, "imaml, hessian-free": 5}  # one has no more, and one is done by then
COSTS = ("adaptation_seconds", "meta_gradient_seconds", "meta_gradient_bytes")


@attrs.frozen(kw_only=True)
class Config:
    """Settings of the example."""

    out: Path = Path("runs/few_shot")
    """Folder for checkpoints, metrics.json and figure.png; a stopped run goes on from it."""
    seed: int = 0
    """Seed of weights and tasks; the split of the classes is always the same."""
    device: Device = "auto"
    """auto is CUDA where there is one."""
    methods: tuple[str, ...] = ()
    """Which methods to train; all of them where none is named."""
    source: Literal["glyphs", "omniglot", "folder"] = "glyphs"
    """Where images come from."""
    data: Path | None = None
    """A folder of fonts for glyphs (by default those installed), else that of the images."""
    cache: Path | None = None
    """A folder that keeps what was drawn or downloaded; by default one in `out`."""
    letters: int = 60
    """Letters of a script at most, for glyphs."""
    split: Literal["test", "validation"] = "test"
    """Which classes to measure on; choices are made on validation."""
    ways: int = 5
    """Classes of a task."""
    shots: int = 1
    """Images that a task shows of each class."""
    queries: int = 3
    """Images that a task asks about, of each class."""
    rotations: bool = True
    """Train on classes turned by 90, 180 and 270 degrees too."""
    transductive: bool = False
    """Normalise over all the queries of a task at once, as several papers do."""
    width: int = 16
    """Channels of each convolution."""
    features: int = 64
    """Numbers of an image that a neural process, CAVIA and the learned regimes read."""
    inner_rate: float = 0.4
    """Rate of an inner step."""
    inner_steps: int = 1
    """Inner steps in training, where they are unrolled."""
    reptile_steps: int = 5
    """Inner steps of Reptile."""
    latent_dim: int = 64
    """Numbers that CAVIA adapts."""
    latent_rate: float = 50.0
    """Rate of CAVIA's inner steps: at first, a latent changes little in the outputs."""
    strength: float = 0.5
    """How strongly iMAML's proximal term pulls to the start."""
    proximal_rate: float = 0.05
    """Rate of iMAML's inner steps by descent."""
    proximal_steps: int = 10
    """How many there are."""
    newton_steps: int = 2
    """Inner steps of iMAML by Newton's method with conjugate gradients."""
    passes: int = 2
    """How often the learned regimes read a task's images in training."""
    num_tasks: int = 16
    """Tasks of a meta-gradient."""
    fit: FitConfig = FitConfig(
        iterations=400, learning_rate=3e-3, warmup=50, weight_decay=0, log_every=50, chunk=8
    )
    """Training, the same for every method."""
    test_tasks: int = 600
    """Unseen tasks that the methods are measured on."""
    test_chunk: int = 50
    """How many of them at a time."""
    steps: tuple[int, ...] = (0, 1, 2, 3, 5, 10)
    """Steps that are reported, beside those of training."""


PRESETS = {
    "cpu": Config(),
    "smoke": Config(
        letters=10,
        queries=1,
        width=4,
        features=8,
        latent_dim=4,
        proximal_steps=2,
        newton_steps=1,
        reptile_steps=2,
        num_tasks=2,
        fit=FitConfig(iterations=2, weight_decay=0, log_every=1, checkpoint_every=1, chunk=1),
        test_tasks=4,
        steps=(0, 1, 2),
    ),
    "gpu": Config(
        source="omniglot",
        width=64,
        queries=15,
        strength=2.0,
        proximal_rate=0.1,
        proximal_steps=16,
        newton_steps=5,
        num_tasks=32,
        fit=FitConfig(iterations=20_000, weight_decay=0, log_every=200, chunk=32),
        test_tasks=1000,
        test_chunk=250,
        steps=(0, 1, 2, 3, 5, 10, 20, 50),
    ),
}
NOT_OF_TRAINING = ("out", "device", "methods", "data", "cache", "split", "fit", "steps")


def main() -> None:
    """Trains every method, measures it on unseen classes, and writes what came out."""
    preset, config = parse(PRESETS, "Meta-learn to tell images apart from one of each.")
    started = time.perf_counter()
    torch.manual_seed(config.seed)
    device = resolve_device(config.device)
    images, name_of_images = load(config)
    images = images.to(device)
    rich.print(name_of_images)
    split = split_classes(images.groups, (0.64, 0.16, 0.2))
    unseen = FewShotClassification(images, getattr(split, config.split), ways=config.ways)
    tasks = unseen.sample(
        config.test_tasks,
        num_support=config.ways * config.shots,
        num_query=config.ways * config.queries,
        generator=torch.Generator(device).manual_seed(10_000 + config.seed),
    )
    compared = {
        name: learner.to(device)
        for name, learner in learners(config, images.image_shape).items()
        if name in config.methods or not config.methods
    }
    seen = FewShotClassification(images, split.train, ways=config.ways, rotations=config.rotations)
    rows = nearest_mean(config, tasks)
    for name, learner in compared.items():
        train(config, name, learner, seen, name_of_images)
        rows += measure(config, name, learner, tasks)
        rows += costs(config, name, learner, tasks)
        rich.print(summary(rows, compared))
    run = RunInfo(
        example="few_shot",
        preset=preset,
        seed=config.seed,
        device=str(device),
        wall_seconds=time.perf_counter() - started,
        versions=installed_versions() | {"images": name_of_images},
    )
    write_metrics(config.out, run, rows)
    draw(config, rows, compared)
    rich.print(f"Wrote {config.out / 'metrics.json'} and {config.out / 'figure.png'}.")


def learners(config: Config, image_shape: tuple[int, int, int]) -> dict[str, Iterated]:
    """Every method by name: what is adapted, by which rule, and the gradient across its steps."""
    likelihood, features, solver = Categorical(config.ways), config.features, ConjugateGradient
    unroll = {"steps": config.inner_steps, "gradient": unrolled, "loss": "last"}
    read = {"steps": config.passes * config.shots, "minibatch": config.ways}

    def conv(num_outputs: int = config.ways) -> Conv4:
        sizes = {"width": config.width, "image_size": image_shape[1]}
        return Conv4(image_shape[0], num_outputs, **sizes, transductive=config.transductive)

    def adapting(rule: Rule, adapt: list[str] | None = None) -> Parametric:
        return Parametric(Predictor(conv(), adapt), likelihood, rule)

    def descending(rate: float | nn.Parameter, **choices: Any) -> Iterated:
        regime = adapting(GradientDescent(rate), choices.pop("adapt", None))
        return Iterated(regime, **unroll | choices)

    def solving(rule: Rule, steps: int) -> Iterated:
        regime = adapting(Proximal(rule, config.strength))
        gradient = ImplicitGradient(regime.residual, solver(steps=5), solved=attrgetter("theta"))
        return Iterated(regime, steps=steps, gradient=gradient, loss="last")

    def on_features(regime: Regime, **choices: Any) -> Iterated:
        return Iterated(Embedded(regime, conv(features)), **choices)

    def transformer() -> SetTransformer:
        return SetTransformer(features, 2, 4, 2 * features)

    rates = nn.Parameter(torch.full((Predictor(conv()).size,), config.inner_rate))
    decoder = LatentDecoder(features, config.latent_dim, config.ways, hidden_dim=features)
    latent = Predictor(decoder, adapt=["latent"])
    head = Predictor(nn.Linear(features, config.ways))
    rule = LearnedRule(head, likelihood, transformer(), x_dim=features)
    cnp = Implicit(DeepSet(features), likelihood, x_dim=features)
    return {
        "maml": descending(config.inner_rate),
        "first-order maml": descending(config.inner_rate, gradient=first_order),
        "reptile": descending(config.inner_rate, gradient=reptile, steps=config.reptile_steps),
        "meta-sgd": descending(rates),
        "anil": descending(config.inner_rate, adapt=["head"]),
        "imaml, descent": solving(GradientDescent(config.proximal_rate), config.proximal_steps),
        "imaml, hessian-free": solving(NewtonCG(solver(steps=5)), config.newton_steps),
        "cavia": on_features(
            Explicit(latent, likelihood, GradientDescent(config.latent_rate)), **unroll
        ),
        "cnp": on_features(cnp, steps=1),
        "implicit, learned": on_features(
            Implicit(transformer(), likelihood, x_dim=features), **read
        ),
        "parametric, learned": on_features(Parametric(head, likelihood, rule), **read),
    }


def load(config: Config) -> tuple[ImageClasses, str]:
    """The images, and a line that says which they are."""
    cache = config.cache or config.out / "images"
    if config.source == "glyphs":
        fonts = None if config.data is None else sorted(config.data.rglob("*.ttf"))
        images = glyphs(fonts, max_letters=config.letters, cache=cache)
    elif config.source == "omniglot":
        images = omniglot(config.data or cache, download=True)
    else:
        images = image_folder(config.data or cache, size=28)
    digest = hashlib.sha256(images.images.numpy().tobytes()).hexdigest()[:12]
    return images, (
        f"{config.source}: {len(images.images)} images of {images.num_classes} classes in "
        f"{len(set(images.groups))} groups, sha256 {digest}"
    )


def folder(config: Config, name: str) -> Path:
    """Where a method keeps what it has done."""
    return config.out / name.replace(", ", "-").replace(" ", "-")


def train(
    config: Config, name: str, learner: Iterated, sampler: FewShotClassification, images: str
) -> None:
    """Meta-trains a method, or goes on where a stopped run left it."""
    support, query = config.ways * config.shots, config.ways * config.queries
    source = SamplerSource(
        sampler,
        num_tasks=config.num_tasks,
        num_support=support + query if name == "reptile" else support,  # Reptile asks nothing
        num_query=query,
        generator=process_generator(config.seed, config.device),
    )
    setup = attrs.asdict(config, filter=lambda field, _: field.name not in NOT_OF_TRAINING)
    rich.print(f"[bold]{name}[/bold]")
    fit(
        learner,
        source,
        config.fit,
        out=folder(config, name),
        device=config.device,
        setup=setup | {"images": images},
    )


def measure(config: Config, name: str, learner: Iterated, tasks: TaskBatch) -> list[Row]:
    """Accuracy after each reported step, as far as the method goes."""
    parts = range(0, tasks.num_tasks, config.test_chunk)
    steps = {*config.steps, learner.steps}
    return evaluate(
        learner,
        [tasks[start : start + config.test_chunk] for start in parts],
        steps={step for step in steps if step <= LAST_STEP.get(name, step)},
        metrics={"accuracy": accuracy},
        method=name,
        split="in",
        seed=config.seed,
    )


def nearest_mean(config: Config, tasks: TaskBatch) -> list[Row]:
    """The class whose mean image is nearest, pixel by pixel."""
    support, query = tasks.support, tasks.query
    of_class = nn.functional.one_hot(support.y, config.ways).to(support.x.dtype)
    means = of_class.mT @ support.x.flatten(2) / config.shots
    row = summarise(
        accuracy(-torch.cdist(query.x.flatten(2), means), query),
        method="nearest mean image",
        split="in",
        step=1,
        examples=config.ways * config.shots,
        metric="accuracy",
        seed=config.seed,
    )
    return [row]


def costs(config: Config, name: str, learner: Iterated, tasks: TaskBatch) -> list[Row]:
    """What adapting takes, and a meta-gradient: measured once, and kept for a run that goes on."""
    path = folder(config, name) / "costs.json"
    if not path.exists():
        path.write_text(json.dumps(measure_costs(config, learner, tasks)))
    return [
        Row(
            method=name,
            split="in",
            step=learner.steps,
            examples=config.ways * config.shots,
            metric=metric,
            value=value,
            stderr=0.0,
            seed=config.seed,
        )
        for metric, value in zip(COSTS, json.loads(path.read_text()), strict=True)
    ]


def measure_costs(config: Config, learner: Iterated, tasks: TaskBatch) -> tuple[float, ...]:
    """Seconds a task to adapt and answer; seconds and peak memory of a meta-gradient, by chunks."""
    few, batch = tasks[: config.test_chunk], tasks[: config.num_tasks]
    chunk = config.fit.chunk or config.num_tasks

    def adapt() -> None:
        adapted = learner.adapt(few.support, few.query.x, steps=learner.steps)
        adapted.predict(few.query.x)

    def meta_gradient() -> None:
        for start in range(0, batch.num_tasks, chunk):
            learner(batch[start : start + chunk]).losses.mean().backward()
        learner.zero_grad()

    device = tasks.query.x.device
    return (
        seconds(adapt, device) / few.num_tasks,
        seconds(meta_gradient, device),
        peak_bytes(meta_gradient, device),
    )


def summary(rows: list[Row], learners: dict[str, Iterated]) -> Table:
    """One line a method: accuracy after the steps of training and after 10, and what it costs."""
    found = {(row.method, row.metric, row.step): row for row in rows}
    result = Table(box=SIMPLE_HEAD, title="± 95%; to adapt to a task; a meta-gradient, its peak")
    for heading in ("method", "steps", "accuracy", "after 10", "ms", "ms", "MB"):
        result.add_column(heading, justify="left" if heading == "method" else "right", no_wrap=True)
    for method in dict.fromkeys(row.method for row in rows):
        steps = learners[method].steps if method in learners else 1
        shown = [found.get((method, "accuracy", step)) for step in (steps, 10)]
        spent = [found.get((method, metric, steps)) for metric in COSTS]
        cells = [f"{100 * row.value:.1f} ± {196 * row.stderr:.1f}" if row else "" for row in shown]
        for row, scale in zip(spent, (1e3, 1e3, 1e-6), strict=True):
            cells.append(f"{scale * row.value:.3g}" if row else "")
        result.add_row(method, str(steps), *cells)
    return result


def draw(config: Config, rows: list[Row], learners: dict[str, Iterated]) -> None:
    """Accuracy against inner steps, also beyond training's, and against what training cost."""
    canvas = Figure(figsize=(11, 4.2), layout="constrained")
    curves, spent = canvas.subplots(1, 2, sharey=True, width_ratios=(1.5, 1))
    for index, (name, learner) in enumerate(learners.items()):
        own = {(row.metric, row.step): row for row in rows if row.method == name}
        curve = [row for (metric, _), row in own.items() if metric == "accuracy"]
        style = {"color": f"C{index % 10}", "marker": "os^Dv<>"[index % 7]}
        half = [1.96 * row.stderr for row in curve]
        x, y = [row.step for row in curve], [row.value for row in curve]
        curves.errorbar(x, y, half, ms=4, lw=1.2, ls=("-", "-.")[index > 9], label=name, **style)
        cost = 1e3 * own["meta_gradient_seconds", learner.steps].value
        spent.plot(cost, own["accuracy", learner.steps].value, ms=7, ls="", **style)
    for panel in (curves, spent):
        panel.axhline(rows[0].value, color="black", ls="--", lw=1, label=rows[0].method)
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    curves.set(xscale="symlog", xlabel="inner steps", ylabel="accuracy on unseen classes")
    curves.set_xticks(config.steps, map(str, config.steps))
    curves.xaxis.minorticks_off()
    spent.set(xscale="log", xlabel="ms of a meta-gradient")
    canvas.legend(*curves.get_legend_handles_labels(), loc="outside right center", frameon=False)
    canvas.savefig(config.out / "figure.png", dpi=200)


if __name__ == "__main__":
    main()
