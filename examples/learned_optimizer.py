"""Learned optimizers, far from what they were trained on
=======================================================

Two update rules are learned, each a small network that moves every weight by itself: an LSTM that
reads the gradient, and an MLP that reads running means of the gradient, the weight and the number
of steps. In meta-training they train networks of one hidden tanh layer to classify digits, for at
most 200 steps; a meta-gradient crosses 50. Before that they are sign descent and Adam.

Then each rule is a `torch.optim.Optimizer` for up to 1,000 steps, on networks as in meta-training
("in"), with four times the units ("wider"), a second hidden layer ("deeper"), or ReLU ("relu"). The
baselines, SGD and Adam, have an advantage: for each network and step the best rate of other runs.
"""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import attrs
import iai_regimes as regimes
import torch
from iai_iterate import Iterated, Pool, truncated
from iai_tasks import Examples, RandomExamples, digits
from iai_train import Experiment, FitConfig, Settings, TrainedModule, TrainingRun, accuracy, parse
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

BASELINES = {  # by name: the optimizer, and the rates to choose from
    "sgd": (torch.optim.SGD, (3.0, 1.0, 0.3, 0.1, 0.03)),
    "adam": (torch.optim.Adam, (0.1, 0.03, 0.01, 3e-3, 1e-3)),
}


@attrs.frozen(kw_only=True)
class Train:
    """What decides the weights of a rule."""

    hidden: int = 10  # hidden units of the networks in meta-training
    minibatch: int = 32  # images of a step
    unroll: int = 50  # steps that a meta-gradient crosses
    max_stretches: int = 4  # most times that a network is trained on for `unroll` steps
    memory: int = 10  # hidden units of each layer of the LSTM, for every weight
    scale: float = 0.03  # length of a rule's steps before meta-training
    num_tasks: int = 4  # networks trained side by side
    num_query: int = 32  # images of a network's meta-loss


@attrs.frozen(kw_only=True)
class Config(Settings):
    """Settings of the example."""

    out: Path = Path("runs/learned_optimizer")
    train: Train = Train()
    mlp: FitConfig  # training of the MLP; `fit` is that of the LSTM
    wider: int = 40  # hidden units of the wider network
    steps: tuple[int, ...] = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # that are reported
    runs: int = 3  # runs that every optimizer is measured on
    tuning_runs: int = 1  # other runs, on which the rates of SGD and Adam are chosen


MLP = FitConfig(iterations=200, learning_rate=1e-3, warmup=20, betas=(0.9, 0.95), log_every=10)
LSTM = attrs.evolve(MLP, learning_rate=3e-3)
SMOKE = FitConfig(iterations=6, log_every=3, checkpoint_every=4)
GPU = FitConfig(iterations=20_000, learning_rate=1e-3, warmup=500, log_every=500)
TINY = Train(hidden=4, minibatch=8, unroll=3, max_stretches=2, memory=4, num_tasks=2, num_query=8)
LARGE = Train(hidden=32, minibatch=128, max_stretches=20, memory=20, num_tasks=64, num_query=128)
CPU = Config(fit=LSTM, mlp=MLP)
FAR = {"wider": 256, "steps": (*CPU.steps, 2000, 5000, 10_000), "runs": 16, "tuning_runs": 4}
PRESETS = {
    "cpu": CPU,
    "smoke": Config(fit=SMOKE, mlp=SMOKE, train=TINY, wider=6, steps=(0, 1, 2, 6, 10), runs=2),
    "gpu": Config(fit=GPU, mlp=GPU, train=LARGE, **FAR),
}


def network(activation: type[nn.Module], *hidden: int) -> nn.Sequential:
    """Images to logits."""
    layers, sizes = [], (64, *hidden)
    for inputs, units in pairwise(sizes):
        layers += [nn.Linear(inputs, units), activation()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], 10))


def build(train: Train, name: str) -> Iterated:
    """A rule by the name of its rows, with networks for it to train."""
    predictor = regimes.Predictor(network(nn.Tanh, train.hidden)).requires_grad_(False)
    if name == "parametric, recurrent":
        # It reads log |gradient|, which is too steep at 0 for a meta-gradient to flow through.
        rule = regimes.RecurrentRule(hidden_dim=train.memory, scale=train.scale)
    else:
        # With 1 for `exp_mult`, not 0.001, the MLP can change the length of a step many times over.
        rule = regimes.MLPRule(step_mult=train.scale, exp_mult=1.0, differentiate_gradient=True)
    start, gradient = predictor.random_start, truncated(train.unroll)
    regime = regimes.Parametric(predictor, regimes.Categorical(10), rule, start=start)
    return Iterated(regime, steps=train.unroll, minibatch=train.minibatch, gradient=gradient)


def main() -> None:
    """Trains each rule, compares it with SGD and Adam on networks, and writes what came out."""
    preset, config = parse(PRESETS, "Meta-learn optimizers on networks that read digits.")
    train, data, steps = config.train, digits(), config.steps
    n = len(data.train_labels)  # of the queries, the first n are the training images
    metrics = {
        "training_loss": lambda outputs, query: cross_entropy(outputs[0, :n], query.y[0, :n])[None],
        "test_accuracy": lambda outputs, query: accuracy(outputs[:, n:], query[:, n:]),
    }
    run = Experiment("learned_optimizer", preset, config, metrics=metrics)
    run.data["digits"] = data.fingerprint
    x = torch.cat([data.train_images, data.test_images]).to(run.device) / 16  # from 0 to 1
    y = torch.cat([data.train_labels, data.test_labels]).to(run.device)
    images, query = RandomExamples(x[:n], y[:n]), Examples(x=x[None], y=y[None])

    def minibatch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        drawn = images.sample(1, num_support=train.minibatch, num_query=0, generator=generator)
        return drawn.support.x[0], drawn.support.y[0]

    def trained(module: Callable[[], nn.Module], optimizer: type, choice: object) -> TrainedModule:
        """A network trained by an optimizer with a rate, or with a learned rule."""
        return TrainedModule(module, lambda p: optimizer(p, choice), minibatch, cross_entropy)

    tests, tuning = (
        [TrainingRun(1000 * config.seed + first + i, query) for i in range(number)]
        for first, number in ((10_000, config.runs), (20_000, config.tuning_runs))
    )
    networks = {
        "in": partial(network, nn.Tanh, train.hidden),
        "wider": partial(network, nn.Tanh, config.wider),
        "deeper": partial(network, nn.Tanh, train.hidden, train.hidden),
        "relu": partial(network, nn.ReLU, train.hidden),
    }
    for name, fit in ("parametric, recurrent", config.fit), ("parametric, MLP", config.mlp):
        learner = run.build(build, train, name)
        # A network goes on from where it was left: an iteration costs `unroll` steps of its life.
        counts = {"num_tasks": train.num_tasks, "num_query": train.num_query}
        lives = {"max_steps": train.max_stretches, "generator": run.training_generator()}
        source = Pool(learner, images, **counts, **lives)
        # Losses fall about as 1 / steps: with this weight, losses at all depths count alike.
        run.train(name, learner, source, fit, weight=lambda seen: 1 + seen / (10 * train.minibatch))
        for split, module in networks.items():
            learned = trained(module, regimes.LearnedOptimizer, learner.regime.rule)
            run.rows += run.measure(name, learned, tests, steps, split=split)
    for name, (optimizer, rates) in BASELINES.items():
        for split, module in networks.items():
            make = partial(trained, module, optimizer)
            run.rows += run.tuned(name, make, rates, tuning, tests, steps, split=split)
    run.finish(by="step")


if __name__ == "__main__":
    main()
