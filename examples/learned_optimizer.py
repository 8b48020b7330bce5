"""Learned optimizers, far from what they were trained on
=======================================================

Two update rules are learned, each one small network for all coordinates of theta: an LSTM that
reads the gradient ("recurrent"), and an MLP that reads its running means, the parameter and the
time ("MLP"). A task is a fresh random network that is to classify handwritten digits; a rule is
trained through stretches of 50 steps, in lives of at most 200, on networks of one hidden layer of
tanh units. Before training the first rule is sign descent and the second is Adam.

Then each is handed out as a `torch.optim.Optimizer` and trains ordinary modules, as long as in
training and five times longer: networks as in training ("in"), with four times the units ("wider"),
with a second hidden layer ("deeper"), and with ReLU ("relu"). SGD and Adam stand beside them, their
rate chosen for the very network and the very step, from other starts: a choice that no single run
has. What is measured is the loss on all training images, and the accuracy on test images.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import attrs
import rich
import torch
from iai_iterate import Iterated, Pool, truncated
from iai_regimes import (
    AdaptedState,
    Categorical,
    LearnedOptimizer,
    MLPRule,
    Parametric,
    Predictor,
    RecurrentRule,
)
from iai_tasks import Examples, TaskBatch, digits
from iai_train import (
    Device,
    FitConfig,
    Row,
    RunInfo,
    figure,
    fit,
    parse,
    process_generator,
    resolve_device,
    summarise,
    table,
    write_metrics,
)
from torch import Tensor, nn

LEARNED = ("parametric, recurrent", "parametric, MLP")
RATES = {
    "sgd": (3.0, 1.0, 0.3, 0.1, 0.03),
    "adam": (0.1, 0.03, 0.01, 3e-3, 1e-3),
}
TEST_SEED, TUNING_SEED = 10_000, 20_000  # starts and minibatches of runs, apart from each other
NOT_OF_TRAINING = ("out", "device", "recurrent", "mlp", "wider", "steps", "runs", "tuning_runs")
Start = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


@attrs.frozen(kw_only=True)
class Config:
    """Settings of the example."""

    out: Path = Path("runs/learned_optimizer")
    """Folder for checkpoints, metrics.json and figure.png; a stopped run goes on from it."""
    seed: int = 0
    """Seed of weights, starts and minibatches."""
    device: Device = "auto"
    """auto is CUDA where there is one."""
    hidden: int = 10
    """Hidden units of the networks trained on."""
    wider: int = 40
    """Hidden units of the wider network."""
    minibatch: int = 32
    """Images of a step."""
    unroll: int = 50
    """Steps that a meta-gradient crosses."""
    max_stretches: int = 4
    """Longest life of a network in training, in stretches of so many steps."""
    memory: int = 10
    """Numbers that the recurrent rule remembers of a coordinate in each of its two layers."""
    scale: float = 0.03
    """Length of a rule's steps before training."""
    num_tasks: int = 4
    """Networks trained side by side."""
    num_query: int = 32
    """Images that the meta-loss is taken on, drawn once in the life of a network."""
    recurrent: FitConfig = FitConfig(
        iterations=200, learning_rate=3e-3, warmup=20, betas=(0.9, 0.95), log_every=10
    )
    """Meta-training of the recurrent rule."""
    mlp: FitConfig = FitConfig(
        iterations=200, learning_rate=1e-3, warmup=20, betas=(0.9, 0.95), log_every=10
    )
    """Meta-training of the MLP."""
    steps: tuple[int, ...] = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
    """Steps that are reported; those above `unroll * max_stretches` are beyond training."""
    runs: int = 3
    """Starts that every optimizer is measured from."""
    tuning_runs: int = 1
    """Other starts, on which the rates of SGD and Adam are chosen."""


QUICK = FitConfig(iterations=6, log_every=3, checkpoint_every=4)
LONG = FitConfig(iterations=20_000, learning_rate=1e-3, warmup=500, log_every=500)
PRESETS = {
    "cpu": Config(),
    "smoke": Config(
        hidden=4,
        wider=6,
        minibatch=8,
        unroll=3,
        max_stretches=2,
        memory=4,
        num_tasks=2,
        num_query=8,
        recurrent=QUICK,
        mlp=QUICK,
        steps=(0, 1, 2, 6, 10),
        runs=2,
    ),
    "gpu": Config(
        hidden=32,
        wider=256,
        minibatch=128,
        max_stretches=20,
        memory=20,
        num_tasks=64,
        num_query=128,
        recurrent=LONG,
        mlp=LONG,
        steps=(0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000),
        runs=16,
        tuning_runs=4,
    ),
}


def main() -> None:
    """Trains each rule, then modules with it, and writes what came out."""
    preset, config = parse(PRESETS, "Meta-learn optimizers on networks that read digits.")
    started = time.perf_counter()
    torch.manual_seed(config.seed)
    device = resolve_device(config.device)
    images = Digits(device)
    networks = architectures(config)
    rows: list[Row] = []
    for name in LEARNED:
        rule = train(config, name, images)
        for split, network in networks.items():
            learned = partial(LearnedOptimizer, rule=rule)
            rows += measure(config, name, split, [learned] * len(config.steps), network, images)
    for name, rates in RATES.items():
        for split, network in networks.items():
            best = tuned(config, name, rates, network, images)
            rows += measure(config, name, split, best, network, images)
    run = RunInfo(
        example="learned_optimizer",
        preset=preset,
        seed=config.seed,
        device=str(device),
        wall_seconds=time.perf_counter() - started,
    )
    write_metrics(config.out, run, rows)
    figure(rows, config.out / "figure.png", metric="training_loss")
    rich.print(table(rows, metric="training_loss"))
    rich.print(table(rows, metric="test_accuracy"))
    rich.print(f"Wrote {config.out / 'metrics.json'} and {config.out / 'figure.png'}.")


class Digits:
    """The images, from 0 to 1; and tasks made of them, alike but for the start of their network.

    Args:
        device: Where.
    """

    def __init__(self, device: torch.device) -> None:
        images = digits()
        self.train_x = (images.train_images / 16).to(device)
        self.test_x = (images.test_images / 16).to(device)
        self.train_y, self.test_y = images.train_labels.to(device), images.test_labels.to(device)

    def draw(self, *shape: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Training images at random, and their classes."""
        index = torch.randint(
            len(self.train_y), shape, generator=generator, device=generator.device
        ).to(self.train_y.device)
        return self.train_x[index], self.train_y[index]

    def sample(
        self,
        num_tasks: int,
        *,
        num_support: int,
        num_query: int,
        generator: torch.Generator,
        latent: Tensor | None = None,
    ) -> TaskBatch:
        """Images to train on and images to take the meta-loss on, anew for every task."""
        x, y = self.draw(num_tasks, num_support + num_query, generator=generator)
        examples = Examples(x=x, y=y)
        return TaskBatch(
            support=examples[:, :num_support],
            query=examples[:, num_support:],
            latent=torch.zeros(num_tasks, device=generator.device) if latent is None else latent,
        )


class RandomStarts(Parametric):
    """The parametric regime with a random start for every task: torch's own, drawn anew."""

    def init(self, num_tasks: int, query_x: Tensor | None = None) -> AdaptedState:
        """Networks such as `nn.Linear` starts them: uniform within 1 / sqrt(inputs)."""
        bounds = [
            layer.weight.new_full(
                (layer.weight.numel() + layer.bias.numel(),), layer.in_features**-0.5
            )
            for layer in self.predictor.module
            if isinstance(layer, nn.Linear)
        ]
        bound = torch.cat(bounds)
        theta = bound * (2 * torch.rand(num_tasks, len(bound), device=bound.device) - 1)
        return AdaptedState(theta, self.rule.start(theta), theta.new_zeros(num_tasks))


def mlp(activation: type[nn.Module], *hidden: int) -> nn.Sequential:
    """Images to logits."""
    sizes = (64, *hidden)
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), activation()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], 10))


def architectures(config: Config) -> dict[str, Callable[[], nn.Sequential]]:
    """The network that rules are trained on, and those that they have not seen."""
    hidden = config.hidden
    return {
        "in": partial(mlp, nn.Tanh, hidden),
        "wider": partial(mlp, nn.Tanh, config.wider),
        "deeper": partial(mlp, nn.Tanh, hidden, hidden),
        "relu": partial(mlp, nn.ReLU, hidden),
    }


def build(config: Config, name: str, predictor: Predictor) -> RecurrentRule | MLPRule:
    """A rule by the name of its rows."""
    if name == "parametric, recurrent":
        # It reads a logarithm, too steep near zero for meta-gradients: its gradient is a constant.
        return RecurrentRule(hidden_dim=config.memory, scale=config.scale)
    return MLPRule(
        [shape.numel() for shape in predictor.shapes.values()],
        step_mult=config.scale,
        exp_mult=1.0,  # so that what it makes of the time decides on the length of a step
        differentiate_gradient=True,
    )


def train(config: Config, name: str, images: Digits) -> RecurrentRule | MLPRule:
    """Meta-trains a rule, or goes on where a stopped run left it."""
    predictor = Predictor(architectures(config)["in"]()).requires_grad_(False)
    rule = build(config, name, predictor)
    learner = Iterated(
        RandomStarts(predictor, Categorical(10), rule),
        steps=config.unroll,
        minibatch=config.minibatch,
        gradient=truncated(config.unroll),
    )
    # Lives go on where the last stretch left them: long ones are trained at the price of short.
    source = Pool(
        learner,
        images,
        num_tasks=config.num_tasks,
        num_query=config.num_query,
        max_steps=config.max_stretches,
        generator=process_generator(config.seed, config.device),
    )
    rich.print(f"[bold]{name}[/bold]")
    fit(
        learner,
        source,
        config.recurrent if name == "parametric, recurrent" else config.mlp,
        out=config.out / name.replace(", ", "-"),
        device=config.device,
        weight=partial(depth_weight, config),
        setup=attrs.asdict(config, filter=lambda field, _: field.name not in NOT_OF_TRAINING),
    )
    return rule


def depth_weight(config: Config, seen: Tensor) -> Tensor:
    """Losses fall about as 1 / steps: with this weight all depths count alike."""
    return 1 + seen / (10 * config.minibatch)


def tuned(
    config: Config,
    name: str,
    rates: Iterable[float],
    network: Callable[[], nn.Sequential],
    images: Digits,
) -> list[Start]:
    """For each reported step the optimizer with the rate that is best there, from other starts."""
    kind = torch.optim.SGD if name == "sgd" else torch.optim.Adam
    losses = []
    starts: list[Start] = [partial(kind, lr=rate) for rate in rates]
    for start in starts:
        runs = [
            [loss for _, loss, _ in trajectory(config, start, network, images, TUNING_SEED + run)]
            for run in range(config.tuning_runs)
        ]
        losses.append(torch.tensor(runs).mean(0).nan_to_num(nan=torch.inf))
    return [starts[best] for best in torch.stack(losses).argmin(0).tolist()]


def measure(
    config: Config,
    name: str,
    split: str,
    starts: list[Start],
    network: Callable[[], nn.Sequential],
    images: Digits,
) -> list[Row]:
    """Training loss and test accuracy at the reported steps, each by its own optimizer."""
    values: dict[tuple[str, int], list[float]] = {}
    for start in dict.fromkeys(starts):
        for run in range(config.runs):
            for index, (step, loss, accuracy) in enumerate(
                trajectory(config, start, network, images, TEST_SEED + run)
            ):
                if starts[index] is start:
                    values.setdefault(("training_loss", step), []).append(loss)
                    values.setdefault(("test_accuracy", step), []).append(accuracy)
    return [
        summarise(
            torch.tensor(of_runs),
            method=name,
            split=split,
            step=step,
            examples=step * config.minibatch,
            metric=metric,
            seed=config.seed,
        )
        for (metric, step), of_runs in values.items()
    ]


def trajectory(
    config: Config,
    start: Start,
    network: Callable[[], nn.Sequential],
    images: Digits,
    seed: int,
) -> Iterator[tuple[int, float, float]]:
    """Trains a module as one does; at the reported steps, its training loss and test accuracy."""
    seed += 1000 * config.seed
    device = images.train_y.device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = network().to(device)
    optimizer = start(module.parameters())
    generator = torch.Generator(device).manual_seed(seed)
    cross_entropy = nn.functional.cross_entropy
    for step in range(max(config.steps) + 1):
        if step in config.steps:
            with torch.no_grad():
                loss = cross_entropy(module(images.train_x), images.train_y).item()
                right = module(images.test_x).argmax(-1) == images.test_y
            yield step, loss, right.double().mean().item()
        x, y = images.draw(config.minibatch, generator=generator)
        optimizer.zero_grad()
        cross_entropy(module(x), y).backward()
        optimizer.step()


if __name__ == "__main__":
    main()
