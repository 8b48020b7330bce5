"""Sine waves from ten points: a family of methods, each a choice in every column
================================================================================

A task is a sine wave of its own amplitude and phase, and ten points of it. MAML and its relatives
learn where gradient descent should start; CAVIA adapts a latent alone; a neural process reads the
points in one pass; the learned regimes refine an answer over minibatches of five. All are one loop:
what differs is what is adapted, the rule that moves it, and how the meta-gradient crosses the
steps. Every method is trained on as many tasks, and measured on steps far beyond those of training.

The error is the mean squared distance to the wave. With ten points the best answer, the oracle, has
none; at step 0 it is the mean of all waves.
"""

import time
from operator import attrgetter
from pathlib import Path

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
    Adam,
    Explicit,
    Gaussian,
    GradientDescent,
    Implicit,
    LatentDecoder,
    LearnedRule,
    NewtonCG,
    Parametric,
    Predictor,
    Proximal,
)
from iai_regimes.interfaces import Rule
from iai_tasks import Sinusoid, TaskBatch
from iai_train import (
    Device,
    FitConfig,
    Row,
    RunInfo,
    SamplerSource,
    evaluate,
    fit,
    mean_squared_error,
    parse,
    process_generator,
    resolve_device,
    summarise,
    table,
    write_metrics,
)
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

METRICS = {"excess_error": mean_squared_error}
ADAM_RATES = (0.1, 0.03, 0.01, 3e-3, 1e-3)
TUNING_SEED = 5_000  # far from the seeds of runs
DRAWN = ("maml", "cavia", "implicit, learned", "from scratch")  # whose fits the figure shows
DRAWN_STEPS = (0, 1, 10)


@attrs.frozen(kw_only=True)
class Config:
    """Settings of the example."""

    out: Path = Path("runs/sinusoid")
    """Folder for checkpoints, metrics.json and figure.png; a stopped run goes on from it."""
    seed: int = 0
    """Seed of weights and tasks."""
    device: Device = "auto"
    """auto is CUDA where there is one."""
    methods: tuple[str, ...] = ()
    """Which methods to train; all of them where none is named."""
    shots: int = 10
    """Points that a task shows."""
    num_query: int = 10
    """Points that a task asks in training."""
    num_tasks: int = 25
    """Tasks of a meta-gradient."""
    width: int = 40
    """Units of both hidden layers, and size of a token."""
    inner_rate: float = 0.01
    """Rate of an inner step down the squared error."""
    inner_steps: int = 5
    """Inner steps in training."""
    strength: float = 0.5
    """How strongly iMAML's proximal term pulls to the start."""
    newton_steps: int = 3
    """Inner steps of iMAML in training."""
    latent_dim: int = 8
    """Numbers that CAVIA adapts."""
    latent_rate: float = 0.03
    """Rate of CAVIA's inner steps."""
    minibatch: int = 5
    """Points that a learned regime reads at a step."""
    fit: FitConfig = FitConfig(
        iterations=1500, learning_rate=3e-3, warmup=100, weight_decay=0, log_every=100
    )
    """Training, the same for every method."""
    test_tasks: int = 600
    """Unseen tasks that the methods are measured on."""
    steps: tuple[int, ...] = (0, 1, 2, 5, 10, 20, 50, 100)
    """Steps that are reported."""


PRESETS = {
    "cpu": Config(),
    "smoke": Config(
        num_tasks=4,
        width=8,
        newton_steps=1,
        fit=FitConfig(iterations=3, weight_decay=0, log_every=2, checkpoint_every=2),
        test_tasks=8,
        steps=(0, 1, 2, 5),
    ),
    "gpu": Config(
        inner_steps=1,
        num_tasks=25,
        fit=FitConfig(iterations=70_000, learning_rate=1e-3, weight_decay=0, log_every=500),
    ),
}
NOT_OF_TRAINING = ("out", "device", "methods", "fit", "test_tasks", "steps")


def main() -> None:
    """Trains every method, measures it beside the baselines, and writes what came out."""
    preset, config = parse(PRESETS, "Meta-learn to fit sine waves.")
    started = time.perf_counter()
    torch.manual_seed(config.seed)
    device = resolve_device(config.device)
    tasks = test_tasks(config, device, seed=config.seed)
    scratch = network(config)
    compared = {
        name: learner.to(device)
        for name, learner in learners(config).items()
        if name in config.methods or not config.methods
    }
    rows: list[Row] = []
    for name, learner in compared.items():
        train(config, name, learner)
        rows += measure(config, name, learner, tasks)
        rich.print(table(rows, metric="excess_error"))
    rows += from_scratch(config, scratch, tasks, device)
    rows += oracle(config, tasks)
    run = RunInfo(
        example="sinusoid",
        preset=preset,
        seed=config.seed,
        device=str(device),
        wall_seconds=time.perf_counter() - started,
    )
    write_metrics(config.out, run, rows)
    compared["from scratch"] = descending(scratch.to(device), Adam(0.01), steps=1)
    draw(config, compared, rows, tasks)
    rich.print(table(rows, metric="excess_error"))
    rich.print(f"Wrote {config.out / 'metrics.json'} and {config.out / 'figure.png'}.")


def learners(config: Config) -> dict[str, Iterated]:
    """Every method by name: what is adapted, by which rule, and the gradient across its steps."""
    likelihood, sizes = squared_error(), {"x_dim": 1}
    descent, steps = GradientDescent(config.inner_rate), config.inner_steps
    size = Predictor(network(config)).size
    rates = nn.Parameter(torch.full((size,), config.inner_rate))

    decoder = LatentDecoder(1, config.latent_dim, 1, hidden_dim=config.width, num_layers=1)
    latent = Explicit(
        Predictor(decoder, adapt=["latent"]), likelihood, GradientDescent(config.latent_rate)
    )
    proximal = Proximal(NewtonCG(ConjugateGradient(steps=5)), config.strength)
    solved = Parametric(Predictor(network(config)), likelihood, proximal)
    implicitly = ImplicitGradient(
        solved.residual, ConjugateGradient(steps=5), solved=attrgetter("theta")
    )
    head = Predictor(network(config), adapt=["head"])
    rule = LearnedRule(head, likelihood, set_encoder(config), **sizes)
    refined = {"steps": 4, "minibatch": config.minibatch}  # twice through the points of a task
    return {
        "maml": descending(network(config), descent, steps=steps),
        "first-order maml": descending(network(config), descent, steps=steps, gradient=first_order),
        "reptile": descending(network(config), descent, steps=2 * steps, gradient=reptile),
        "pretrained": descending(network(config), descent, steps=1, gradient=reptile),
        "meta-sgd": descending(network(config), GradientDescent(rates), steps=1),
        "anil": descending(network(config), descent, adapt=["head"], steps=steps),
        "cavia": Iterated(latent, steps=steps, gradient=unrolled, loss="last"),
        "imaml": Iterated(solved, steps=config.newton_steps, gradient=implicitly, loss="last"),
        "cnp": Iterated(Implicit(DeepSet(2 * config.width), likelihood, **sizes), steps=1),
        "implicit, learned": Iterated(
            Implicit(set_encoder(config), likelihood, **sizes), **refined
        ),
        "parametric, learned": Iterated(Parametric(head, likelihood, rule), **refined),
    }


def descending(
    module: nn.Module,
    rule: Rule,
    *,
    steps: int,
    adapt: list[str] | None = None,
    gradient: object = unrolled,
) -> Iterated:
    """A network whose parameters, or those named, take `steps` steps on all the points at once."""
    regime = Parametric(Predictor(module, adapt), squared_error(), rule)
    return Iterated(regime, steps=steps, gradient=gradient, loss="last")


def squared_error() -> Gaussian:
    """With this variance, the negative log-likelihood is the squared error and a constant."""
    return Gaussian(1, scale=0.5**0.5)


class Network(nn.Module):
    """Two hidden layers, and a head that can be named."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(1, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
        )
        self.head = nn.Linear(width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One number for each input."""
        return self.head(self.body(x))


def network(config: Config) -> Network:
    """The network of MAML's experiment."""
    return Network(config.width)


def set_encoder(config: Config) -> SetTransformer:
    """What the learned regimes read points with."""
    return SetTransformer(config.width, 2, 4, 2 * config.width)


def train(config: Config, name: str, learner: Iterated) -> None:
    """Meta-trains a method, or goes on where a stopped run left it."""
    joined = name in ("reptile", "pretrained")  # they train on all the points that others ask about
    source = SamplerSource(
        Sinusoid(),
        num_tasks=config.num_tasks,
        num_support=config.shots + joined * config.num_query,
        num_query=config.num_query,
        generator=process_generator(config.seed, config.device),
    )
    rich.print(f"[bold]{name}[/bold]")
    fit(
        learner,
        source,
        config.fit,
        out=config.out / name.replace(", ", "-").replace(" ", "-"),
        device=config.device,
        setup=attrs.asdict(config, filter=lambda field, _: field.name not in NOT_OF_TRAINING),
    )


def test_tasks(config: Config, device: torch.device, *, seed: int) -> TaskBatch:
    """Waves never trained on."""
    generator = torch.Generator(device).manual_seed(10_000 + seed)
    return Sinusoid().sample(
        config.test_tasks, num_support=config.shots, num_query=100, generator=generator
    )


def measure(config: Config, name: str, learner: Iterated, tasks: TaskBatch) -> list[Row]:
    """Error after each reported step; a neural process has one."""
    return evaluate(
        learner,
        [tasks],
        steps=(0, 1) if name == "cnp" else config.steps,
        metrics=METRICS,
        method=name,
        split="in",
        seed=config.seed,
    )


def from_scratch(
    config: Config, module: nn.Module, tasks: TaskBatch, device: torch.device
) -> list[Row]:
    """Adam from random weights, with each step's best rate on other tasks."""
    tuning = test_tasks(config, device, seed=TUNING_SEED + config.seed)
    found: dict[int, tuple[float, Row]] = {}
    for rate in ADAM_RATES:
        learner = descending(module.to(device), Adam(rate), steps=1)
        tuned = measure(config, "from scratch", learner, tuning)
        rows = measure(config, "from scratch", learner, tasks)
        for other, row in zip(tuned, rows, strict=True):
            if row.step not in found or other.value < found[row.step][0]:
                found[row.step] = other.value, row
    return [row for _, row in found.values()]


def oracle(config: Config, tasks: TaskBatch) -> list[Row]:
    """The best answers possible: before any point the mean of all waves, then the wave itself."""
    mean_wave = -2.55 * (2 / torch.pi) * tasks.query.x.cos()  # amplitudes .1 .. 5, phases 0 .. pi
    return [
        summarise(
            mean_squared_error(answer, tasks.query),
            method="oracle",
            split="in",
            step=step,
            examples=step * config.shots,
            metric="excess_error",
            seed=config.seed,
        )
        for step, answer in enumerate((mean_wave, Sinusoid().oracle(tasks)))
    ]


def draw(config: Config, learners: dict[str, Iterated], rows: list[Row], tasks: TaskBatch) -> None:
    """One task as a few methods fit it, step by step, beside everyone's error by steps."""
    canvas = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = canvas.subfigures(1, 2, width_ratios=(1, 1.15))
    panels = left.subplots(2, 2, sharex=True, sharey=True).flat
    for panel, name in zip(panels, (name for name in DRAWN if name in learners), strict=False):
        draw_fits(panel, learners[name], tasks[:1])
        panel.set_title(name, fontsize="medium")
    panels[0].legend(fontsize="x-small", frameon=False, handlelength=1.2)
    panel = right.subplots()
    shown = [row for row in rows if row.value > 0]
    for index, name in enumerate(dict.fromkeys(row.method for row in shown)):
        curve = [(row.step, row.value) for row in shown if row.method == name]
        line = {"marker": "os^Dv<>"[index % 7], "ls": ("-", "-.")[index > 9], "ms": 3.5}
        if name == "oracle":
            line = {"marker": "*", "color": "black", "ls": ""}
        panel.plot(*zip(*curve, strict=True), label=name, **line)
    panel.set(xscale="symlog", yscale="log", xlabel="steps", ylabel="squared error")
    panel.set_ylim(top=10)  # a method that diverges leaves the picture
    panel.set_xticks(config.steps, map(str, config.steps))
    panel.xaxis.minorticks_off()
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    right.legend(loc="outside right center", frameon=False)
    canvas.savefig(config.out / "figure.png", dpi=200)


@torch.no_grad()
def draw_fits(panel: Axes, learner: Iterated, task: TaskBatch) -> None:
    """The wave, the points shown of it, and the fit after a few steps."""
    grid = torch.linspace(-5, 5, 200, device=task.query.x.device).reshape(1, -1, 1)
    x, (amplitude, phase) = grid.flatten().cpu(), task.latent[0].cpu()
    for stage in learner.trace(task.support, grid, steps=DRAWN_STEPS[-1]):
        if stage.step in DRAWN_STEPS:
            color = f"C{DRAWN_STEPS.index(stage.step)}"
            y = stage.predict(grid).flatten().cpu()
            panel.plot(x, y, color=color, lw=1.2, label=f"step {stage.step}")
    panel.plot(x, amplitude * (x - phase).sin(), "k--", lw=0.8, label="wave")
    panel.plot(*(values.flatten().cpu() for values in (task.support.x, task.support.y)), "k^", ms=4)


if __name__ == "__main__":
    main()
