"""Prompt tuning and a hypernetwork: a task in a few numbers
==========================================================

A Transformer learns once to classify digits in context: it reads labelled images and classifies
others. Then it is frozen. Instead of images, it can read a *soft prompt*, free tokens that are
tuned to a task by its examples, 16 a step: by Adam, or by a learned optimizer. The prompt has one
size, and an answer one price, whatever the number of examples. The same rules tune the head alone,
or all weights. A hypernetwork reads all examples in one step, and writes the weights of a small
network.

Tasks are those of `digits.py`: 5 classes, labels permuted, 64 pixels projected to 16 numbers at
random; test tasks and their images are new. Steps after the 40th read the 640 examples again.
"""

from functools import partial
from pathlib import Path

import attrs
import iai_regimes as regimes
from iai_encoders import RunningTransformer, SetTransformer
from iai_iterate import Iterated, unrolled
from iai_tasks import ProjectedClassification, digits
from iai_train import Experiment, FitConfig, SamplerSource, Settings, accuracy, parse
from sklearn.linear_model import LogisticRegression
from torch import nn

SEEN_TASKS = 2**20  # training tasks have seeds below this, test tasks from it on
RATES = (0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3)  # of Adam
STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0)  # C of logistic regression, one over its penalty
IN_CONTEXT, PROMPT = "implicit, in context", "parametric, prompt, learned optimizer"
HYPERNETWORK = "parametric, hypernetwork"
TUNED = {"prompt": ["prompt"], "head": ["head"], "all": ["prompt", "encoder", "embed", "head"]}


@attrs.frozen(kw_only=True)
class Train:
    """What decides the weights of a learner."""

    num_classes: int = 5  # classes of a task
    dim: int = 16  # numbers that an image is projected to
    minibatch: int = 16  # examples read at a step
    max_steps: int = 10  # minibatches of a training task, at most
    width: int = 64  # size of a token
    layers: int = 2  # layers of the Transformers
    heads: int = 4  # attention heads
    prompt: int = 20  # tokens of the prompt
    hidden: int = 32  # hidden units of the network that the hypernetwork writes
    rate: float = 0.1  # step of the learned optimizer before training
    num_tasks: int = 16  # training tasks of an iteration
    num_query: int = 32  # queries of a training task


@attrs.frozen(kw_only=True)
class Config(Settings):
    """Settings of the example."""

    out: Path = Path("runs/prompt_tuning")
    train: Train = Train()
    optimizer_fit: FitConfig  # how the learned optimizer is trained
    test_tasks: int = 64  # test tasks
    support: int = 640  # examples of a test task
    steps: tuple[int, ...] = (0, 1, 2, 5, 10, 20, 40, 100)  # steps that are reported


BETAS = {"betas": (0.9, 0.95), "weight_decay": 0.0}
CPU = FitConfig(iterations=600, learning_rate=3e-3, warmup=100, log_every=50, **BETAS)
FEW = FitConfig(iterations=100, learning_rate=1e-2, warmup=10, log_every=10, **BETAS)
SMOKE = FitConfig(iterations=3, log_every=2, checkpoint_every=2)
TINY = Train(width=8, prompt=3, hidden=4, num_tasks=4, num_query=4, max_steps=2)
GPU = attrs.evolve(CPU, iterations=20_000, learning_rate=5e-4, warmup=500)
LARGE = Train(width=256, layers=4, num_tasks=128, num_query=64)
PRESETS = {
    "cpu": Config(fit=CPU, optimizer_fit=FEW),
    "smoke": Config(
        fit=SMOKE, optimizer_fit=SMOKE, train=TINY, test_tasks=4, support=48, steps=(0, 1, 2)
    ),
    "gpu": Config(fit=GPU, optimizer_fit=attrs.evolve(FEW, iterations=2000), train=LARGE),
}


def encoder(train: Train) -> SetTransformer:
    """A Transformer over a set of tokens."""
    return SetTransformer(train.width, train.layers, train.heads, 2 * train.width)


def in_context(train: Train) -> Iterated:
    """The Transformer that reads all examples of a task at once."""
    attention, classes = RunningTransformer(encoder(train)), regimes.Categorical(train.num_classes)
    return Iterated(regimes.RunningAttention(attention, classes, x_dim=train.dim), steps=1)


def hypernetwork(train: Train) -> Iterated:
    """All weights of a small network at once, from all examples of a task."""
    classes = regimes.Categorical(train.num_classes)
    hidden, output = nn.Linear(train.dim, train.hidden), nn.Linear(train.hidden, train.num_classes)
    network = regimes.Predictor(nn.Sequential(hidden, nn.ReLU(), output))
    how = {"x_dim": train.dim, "signal": "data", "summary_dim": train.width}
    rule = regimes.LearnedRule(network, classes, encoder(train), **how)
    return Iterated(regimes.Parametric(network, classes, rule), steps=1)


def main() -> None:
    """Trains each learner, measures it beside the baselines, and writes what came out."""
    preset, config = parse(PRESETS, "Tune the prompt of a frozen Transformer to a task.")
    images, train, steps = digits(), config.train, config.steps
    how = {"metrics": {"accuracy": accuracy}, "data": {"digits": images.fingerprint}}
    run = Experiment("prompt_tuning", preset, config, best="largest", **how)
    sizes = {"projection_dim": train.dim, "num_classes": train.num_classes}
    seen = ProjectedClassification.training(images, num_tasks=SEEN_TASKS, **sizes)
    unseen = ProjectedClassification.held_out(images, first_seed=SEEN_TASKS, **sizes)
    likelihood, most = regimes.Categorical(train.num_classes), train.max_steps * train.minibatch

    def source(num_support: int | tuple[int, int]) -> SamplerSource:
        counts = {"num_tasks": train.num_tasks, "num_query": train.num_query}
        generator = run.training_generator()
        return SamplerSource(seen, num_support=num_support, **counts, generator=generator)

    counts = {"num_support": config.support, "num_query": 64}
    tasks = run.draw(unseen, config.test_tasks, **counts)
    tuning = run.draw(unseen, max(4, config.test_tasks // 2), **counts, tuning=True)
    read = {s: s * train.minibatch for s in steps if 0 < s * train.minibatch <= config.support}
    learners = {}
    for name, make in {IN_CONTEXT: in_context, HYPERNETWORK: hypernetwork}.items():
        learners[name] = learner = run.build(make, train)
        run.train(name, learner, source((train.minibatch, most)))
        run.rows += run.measure(name, learner, tasks, read)
    frozen = learners[IN_CONTEXT].regime.requires_grad_(False)
    parts = frozen.encoder, frozen.embed, frozen.head
    model = run.build(partial(regimes.SoftPrompt, *parts, num_tokens=train.prompt))

    def refined(rule: regimes.GradientRule, adapt: list[str]) -> Iterated:
        regime = regimes.Parametric(regimes.Predictor(model, adapt), likelihood, rule)
        how = {"steps": train.max_steps, "minibatch": train.minibatch, "gradient": unrolled}
        return Iterated(regime, **how).to(run.device)

    for name, adapt in TUNED.items():
        adam = partial(lambda adapt, rate: refined(regimes.Adam(rate), adapt), adapt)
        run.rows += run.tuned(f"parametric, {name}, adam", adam, RATES, tuning, tasks, steps)
    optimizer = regimes.RecurrentRule(hidden_dim=16, num_layers=1, scale=train.rate)
    learner = refined(optimizer, TUNED["prompt"])
    run.train(PROMPT, learner, source(most), config.optimizer_fit)
    run.rows += run.measure(PROMPT, learner, tasks, steps)

    logistic = lambda c: LogisticRegression(C=c, max_iter=1000)  # noqa: E731
    run.rows += run.tuned("logistic regression", logistic, STRENGTHS, tuning, tasks, read)
    run.finish(by="step", scale="linear")


if __name__ == "__main__":
    main()
