"""Samples of a distribution never seen, and new ones like them
============================================================

A task is a distribution in the plane, a mixture of 2 to 5 Gaussians, and shows samples of it. The
learners predict the velocity that carries noise to such samples, trained by flow matching on many
mixtures; for a new one there is no training run: samples are read minibatch by minibatch, each
sharpens the field, and after any number of them a solver follows the field from noise to new
samples. These are compared with samples that were held back, by exact transport distances, here and
on mixtures of other numbers of components.

Beside the learners stand a model that reads all samples in one pass, a mixture fitted by EM, a
flow that is trained on the one task for as long as the learner takes, the samples read so far,
drawn again, as many true samples, and the true field.
"""

import json
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import rich
import torch
from iai_encoders import SetTransformer
from iai_iterate import Iterated, Pool
from iai_regimes import (
    Explicit,
    Gaussian,
    Implicit,
    LatentDecoder,
    LearnedRule,
    Predictor,
    Unlabelled,
    flow,
)
from iai_tasks import Examples, MixtureOfGaussians, TaskBatch, straight_path
from iai_tasks.interfaces import Sampler
from iai_train import (
    Device,
    FitConfig,
    Row,
    RunInfo,
    SamplerSource,
    figure,
    fit,
    maximum_mean_discrepancy,
    parse,
    process_generator,
    resolve_device,
    seconds,
    summarise,
    table,
    wasserstein,
    write_metrics,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn

ONE_PASS = "implicit, one pass, all samples"
TRAINED = "flow trained on the task"
DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "w1": lambda x, y: wasserstein(x, y, order=1),
    "w2": lambda x, y: wasserstein(x, y, order=2),
    "mmd": maximum_mean_discrepancy,
}
Predict = Callable[[Tensor], Tensor]


@attrs.frozen(kw_only=True)
class Settings:
    """What to train, how, and what to measure."""

    out: Path
    """Folder for checkpoints, metrics.json and the figures; a stopped run goes on from it."""
    seed: int = 0
    """Seed of weights and tasks."""
    device: Device = "auto"
    """auto is CUDA where there is one."""
    learners: tuple[str, ...] = ("implicit", "explicit", ONE_PASS)
    """Which learners to train."""
    minibatch: int = 32
    """Samples that a learner reads at a step."""
    max_steps: int = 30
    """Longest life of a task in training, in steps."""
    at_once: int = 512
    """The most samples that the model of one pass reads in training."""
    width: int = 64
    """Size of a token, and of the explicit decoder's latent."""
    layers: int = 2
    """Layers of the set encoder."""
    heads: int = 4
    """Attention heads."""
    summary: int = 128
    """Size of the running mean of learned features of the samples."""
    num_tasks: int = 32
    """Live tasks in the pool."""
    num_query: int = 64
    """Points of the field that each is asked about in training."""
    fit: FitConfig
    """Training, the same for every learner."""
    test_tasks: int = 8
    """Unseen tasks of each kind that the learners are measured on."""
    points: int = 256
    """Samples that are drawn, and compared with as many that were held back."""
    tolerance: float = 1e-3
    """Of the solver that follows the field."""
    steps: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Steps after which samples are drawn."""


@attrs.frozen(kw_only=True)
class Config(Settings):
    """Settings of the example."""

    out: Path = Path("runs/mixture_of_gaussians")
    """Folder for checkpoints, metrics.json and the figures; a stopped run goes on from it."""
    components: tuple[int, int] = (2, 5)
    """Fewest and most components of a training task."""
    unseen_components: tuple[int, ...] = (1, 8)
    """Numbers of components of other tests."""


PRESETS = {
    "cpu": Config(
        fit=FitConfig(
            iterations=3000, learning_rate=1e-3, warmup=100, betas=(0.9, 0.95), log_every=500
        )
    ),
    "smoke": Config(
        minibatch=4,
        max_steps=3,
        at_once=12,
        width=8,
        layers=1,
        heads=2,
        summary=8,
        num_tasks=4,
        num_query=4,
        unseen_components=(8,),
        fit=FitConfig(iterations=2, log_every=1, checkpoint_every=1),
        test_tasks=2,
        points=8,
        steps=(1, 2),
    ),
    "gpu": Config(
        width=256,
        layers=4,
        num_tasks=128,
        num_query=256,
        at_once=1024,
        fit=FitConfig(
            iterations=20_000, learning_rate=3e-4, warmup=500, betas=(0.9, 0.95), log_every=1000
        ),
        test_tasks=32,
        points=700,
        tolerance=1e-4,
        steps=(1, 2, 4, 8, 16, 32),
    ),
}
NOT_OF_TRAINING = {
    *("out", "device", "fit", "learners", "test_tasks", "points", "tolerance", "steps"),
    *("unseen_components", "unseen_fonts", "unseen_letters"),
}


def main() -> None:
    """Trains each learner on mixtures, and draws samples of others."""
    preset, config = parse(PRESETS, "Meta-learn to sample from distributions.")
    tests = {"in": MixtureOfGaussians(num_components=config.components)}
    for number in config.unseen_components:
        plural = "s" if number > 1 else ""
        tests[f"{number} component{plural}"] = MixtureOfGaussians(num_components=number)
    compare(config, "mixture_of_gaussians", preset, tests["in"], tests)


def compare(
    config: Settings, example: str, preset: str, training: Sampler, tests: Mapping[str, Sampler]
) -> None:
    """Trains the learners, measures them beside the baselines, and writes what came out."""
    started = time.perf_counter()
    for name in config.learners:
        if name not in ("implicit", "explicit", ONE_PASS):
            raise SystemExit(
                f"`learners` must be among 'implicit', 'explicit' and {ONE_PASS!r}; got {name!r}."
            )
    device = resolve_device(config.device)
    drawn = {split: draw(config, sampler, device) for split, sampler in tests.items()}
    rows: list[Row] = []
    shown: dict[str, list[Tensor]] = {}
    spent: dict[tuple[str, int], float] = {}
    for name in config.learners:
        torch.manual_seed(config.seed)  # so that a learner is the same whatever came before it
        learner = build(config, name).to(device)
        train(config, name, learner, training)
        learner.eval()
        for split, tasks in drawn.items():
            for step in config.steps:
                support = tasks.support[:, : step * config.minibatch]
                began = time.perf_counter()
                found = flow(
                    learner.adapt(support).predict, noise(config, tasks), tolerance=config.tolerance
                )
                spent[split, step] = max(spent.get((split, step), 0), time.perf_counter() - began)
                rows += judged(config, tasks, found, name, split, step)
                if name == config.learners[0]:
                    shown.setdefault(split, []).append(found)
    for split, tasks in drawn.items():
        for step in config.steps:
            support = tasks.support[:, : step * config.minibatch].x
            num_iterations = affordable(config, split, support, spent.get((split, step), 1.0))
            for name, found in {
                "EM": by_em(config, support),
                TRAINED: trained(config, support, noise(config, tasks), num_iterations),
                "samples read, drawn again": subsample(config, support),
                "as many true samples": others(config, tests[split], tasks),
            }.items():
                rows += judged(config, tasks, found, name, split, step)
            oracle = getattr(tests[split], "oracle", None)
            if oracle is not None:
                found = flow(field(oracle, tasks), noise(config, tasks), tolerance=config.tolerance)
                rows += judged(config, tasks, found, "oracle", split, step)
    run = RunInfo(
        example=example,
        preset=preset,
        seed=config.seed,
        device=str(device),
        wall_seconds=time.perf_counter() - started,
    )
    write_metrics(config.out, run, rows)
    figure(rows, config.out / "figure.png", metric="w2")
    if shown:
        draw_samples(config, drawn, shown)
    rich.print(table(rows, metric="w2", by="examples"))
    rich.print(f"Wrote {config.out / 'metrics.json'}, and figure.png and samples.png beside it.")


def build(config: Settings, name: str) -> Iterated:
    """A learner by the name of its rows, as it is trained."""
    likelihood = Unlabelled(Gaussian(2, scale=1.0))
    encoder = SetTransformer(config.width, config.layers, config.heads, 2 * config.width)
    sizes = {"x_dim": 2, "summary_dim": config.summary}
    if name == ONE_PASS:
        return Iterated(Implicit(encoder, likelihood, query_dim=3, **sizes), steps=1)
    if name == "implicit":
        regime: nn.Module = Implicit(encoder, likelihood, query_dim=3, **sizes)
    else:
        decoder = LatentDecoder(
            3, config.width, 2, hidden_dim=2 * config.width, num_layers=config.layers
        )
        latent = Predictor(decoder, adapt=["latent"])
        rule = LearnedRule(latent, likelihood, encoder, signal="data", chunk=16, **sizes)
        regime = Explicit(latent, likelihood, rule)
    return Iterated(regime, steps=1, minibatch=config.minibatch)


def train(config: Settings, name: str, learner: Iterated, sampler: Sampler) -> None:
    """Meta-trains a learner by flow matching, or goes on where a stopped run left it.

    The model of one pass reads half as many tasks a step, each of more samples.
    """
    generator = process_generator(config.seed, config.device)
    source: Pool | SamplerSource[Any]
    if name == ONE_PASS:
        source = SamplerSource(
            sampler,
            num_tasks=config.num_tasks // 2,
            num_support=(config.minibatch, config.at_once),
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
            generator=generator,
        )
    setup = attrs.asdict(
        config,
        filter=lambda field, _: field.name not in NOT_OF_TRAINING,
        value_serializer=lambda _, __, value: str(value) if isinstance(value, Path) else value,
    )
    rich.print(f"[bold]{name}[/bold]")
    out = config.out / name.replace(", ", "-").replace(" ", "-")
    fit(learner, source, config.fit, out=out, device=config.device, setup=setup)


def draw(config: Settings, sampler: Sampler, device: torch.device) -> TaskBatch:
    """Unseen tasks: samples to read, and others, held back, in the place of the queries."""
    generator = torch.Generator(device).manual_seed(10_000 + config.seed)
    most = max(config.steps) * config.minibatch
    tasks = sampler.sample(
        config.test_tasks, num_support=most + config.points, num_query=0, generator=generator
    )
    support = tasks.support[:, :most]
    return attrs.evolve(tasks, support=support, query=tasks.support[:, most:])


def noise(config: Settings, tasks: TaskBatch) -> Tensor:
    """Where the samples start, the same for every method."""
    generator = torch.Generator(tasks.query.x.device).manual_seed(20_000 + config.seed)
    return torch.randn(tasks.query.x.shape, generator=generator, device=generator.device)


def judged(
    config: Settings, tasks: TaskBatch, found: Tensor, name: str, split: str, step: int
) -> list[Row]:
    """Distances between samples and those that were held back."""
    return [
        summarise(
            distance(found, tasks.query.x),
            method=name,
            split=split,
            step=step,
            examples=step * config.minibatch,
            metric=metric,
            seed=config.seed,
        )
        for metric, distance in DISTANCES.items()
    ]


def field(oracle: Callable[[TaskBatch], Tensor], tasks: TaskBatch) -> Predict:
    """The true velocity field of tasks."""
    query = tasks.query
    return lambda x: oracle(attrs.evolve(tasks, query=attrs.evolve(query, x=x)))


def by_em(config: Settings, support: Tensor) -> Tensor:
    """Samples of a mixture fitted to what is read, of as many components as BIC likes best."""
    found = []
    for samples in support.double().cpu().numpy():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fits = [
                GaussianMixture(number, n_init=2, reg_covar=1e-3, random_state=config.seed).fit(
                    samples
                )
                for number in range(1, min(10, len(samples)))
            ]
        best = min(fits, key=lambda fit: fit.bic(samples))
        found.append(torch.from_numpy(best.sample(config.points)[0]))
    return torch.stack(found).to(support)


def affordable(config: Settings, split: str, support: Tensor, budget: float) -> int:
    """Iterations of a task's own training in so many seconds: counted once, and kept."""
    sizes = f"{tuple(support.shape)}, {config.points} points, tolerance {config.tolerance}"
    learners = f"{', '.join(config.learners)}, width {config.width}, {config.layers} layers"
    path, key = config.out / "iterations.json", f"{split}: {sizes}; {learners}"
    kept = json.loads(path.read_text()) if path.exists() else {}
    if key not in kept:
        each = seconds(lambda: velocity_of(config, support, 20), support.device, repeats=1) / 20
        kept[key] = max(1, round(budget / each))
        path.write_text(json.dumps(kept, indent=1))
    return kept[key]


def trained(config: Settings, support: Tensor, start: Tensor, num_iterations: int) -> Tensor:
    """Samples of a flow that is trained on each task alone, all side by side."""
    velocity = velocity_of(config, support, num_iterations)
    return flow(velocity, start, tolerance=config.tolerance)


def velocity_of(config: Settings, support: Tensor, num_iterations: int) -> Predict:
    """A network for each task, trained by flow matching on what was read of it.

    Like a learner it is asked about `num_query` points of the field at a time.
    """
    torch.manual_seed(config.seed)
    layers = (nn.Linear(3, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 2))
    predictor = Predictor(nn.Sequential(*layers)).to(support.device)
    theta = predictor.start(len(support)).detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([theta], lr=3e-3)
    generator = torch.Generator(support.device).manual_seed(config.seed)
    for _ in range(num_iterations):
        some = Examples(x=drawn_again(support, config.num_query, generator))
        path = straight_path(some, generator)
        loss = (predictor(theta, path.x) - path.y).square().mean((1, 2)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return lambda x: predictor(theta, x)


def drawn_again(samples: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """Samples drawn with replacement."""
    size, device = samples.shape[1], samples.device
    return samples[:, torch.randint(size, (number,), generator=generator, device=device)]


def subsample(config: Settings, support: Tensor) -> Tensor:
    """As many of the samples that were read as are compared, none twice where there are enough."""
    generator = torch.Generator(support.device).manual_seed(config.seed)
    if support.shape[1] < config.points:
        return drawn_again(support, config.points, generator)
    order = torch.randperm(support.shape[1], generator=generator, device=support.device)
    return support[:, order[: config.points]]


def others(config: Settings, sampler: Sampler, tasks: TaskBatch) -> Tensor:
    """True samples, neither read nor held back: what the distances are of two draws."""
    generator = torch.Generator(tasks.query.x.device).manual_seed(30_000 + config.seed)
    counts = {"num_support": config.points, "num_query": 0}
    drawn = sampler.sample(tasks.num_tasks, **counts, generator=generator, latent=tasks.latent)
    return drawn.support.x


def draw_samples(
    config: Settings, drawn: Mapping[str, TaskBatch], shown: Mapping[str, list[Tensor]]
) -> None:
    """The first two tasks of each kind: samples after each step, and those that were held back."""
    from matplotlib.figure import Figure

    lines = [(split, task) for split in drawn for task in range(min(2, config.test_tasks))]
    canvas = Figure(figsize=(1.6 * (len(config.steps) + 1), 1.6 * len(lines)), layout="constrained")
    panels = canvas.subplots(len(lines), len(config.steps) + 1, squeeze=False)
    for line, (split, task) in zip(panels, lines, strict=True):
        truth = drawn[split].query.x[task].cpu()
        limit = 1.2 * truth.abs().max().item()
        for panel, points in zip(
            line, [*(one[task].cpu() for one in shown[split]), truth], strict=True
        ):
            panel.scatter(*points.T, s=2, alpha=0.5, linewidths=0, color="#0072B2")
            panel.set(
                xlim=(-limit, limit), ylim=(-limit, limit), xticks=[], yticks=[], aspect="equal"
            )
        line[-1].collections[0].set_color("black")
        line[0].set_ylabel(split)
    for panel, step in zip(panels[0], config.steps, strict=False):
        panel.set_title(f"{step * config.minibatch} read", fontsize=9)
    panels[0][-1].set_title("held back", fontsize=9)
    canvas.savefig(config.out / "samples.png", dpi=150)


if __name__ == "__main__":
    main()
