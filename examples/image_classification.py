"""Images, classified by learners that read them minibatch by minibatch
====================================================================

MNIST or Fashion-MNIST, whole: a task renames the classes and looks at the images through a random
projection of its own. A learner is trained on such tasks of one of the two sets, and tested on
unseen tasks of both. It reads a task's examples once, in minibatches that grow from 10 to 160, up
to 10,240 examples; in training, a task lives for at most 100 minibatches. Two learners are also
measured after they have read all examples twice more, at once.

Beside the learners stand what they replace: logistic regression with a tuned C, Adam on the same
model with the best rate, nearest neighbours, and a model that reads all examples in one step.
"""

import warnings
from functools import partial
from pathlib import Path
from typing import Literal

import attrs
import iai_regimes as regimes
import torch
from iai_encoders import SetTransformer
from iai_iterate import Iterated, Pool, steps_reading
from iai_tasks import (
    LabelledImages,
    ProjectedClassification,
    TaskBatch,
    digits,
    fashion_mnist,
    mnist,
)
from iai_train import Experiment, FitConfig, SamplerSource, Settings, accuracy, parse
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

SEEN_TASKS = 2**20  # seeds of training tasks; all others are unseen
TUNING_TASKS = 2**21  # the first seed of the tasks that baselines are tuned on
RATES = (0.3, 0.1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4)  # of Adam
STRENGTHS = (1e-3, 1e-2, 0.1, 1.0, 10.0)  # C of logistic regression, one over its penalty
NEIGHBOURS = (1, 3, 5, 10)  # whose most frequent class is the answer
MODELS = ("parametric linear", "parametric mlp", "explicit")
SIGNALS = ("both", "gradient", "data")
AT_ONCE = "implicit, one step, all examples"
READ_AGAIN = ("parametric linear, gradient", "parametric mlp, both")  # measured so as well
TIMES_AGAIN = 2
METRICS = {"accuracy": accuracy}

Images = Literal["mnist", "fashion", "digits"]
Learner = Literal[*(f"{m}, {signal}" for m in MODELS for signal in SIGNALS), "implicit", AT_ONCE]


@attrs.frozen(kw_only=True)
class Train:
    """What decides the weights of a learner."""

    images: Images = "mnist"  # what the training tasks are made of
    num_classes: int = 10  # the most classes that a learner holds
    dim: int = 100  # numbers that a task's projection leaves of an image
    hidden: int = 64  # hidden units of the MLP, all of whose parameters a task adapts
    minibatches: tuple[int, ...] = (10, 20, 40, 80, 160)  # a step reads one of these sizes
    max_steps: int = 100  # longest life of a task, in steps
    at_once: int = 640  # the most examples that the model of one step reads
    width: int = 64  # size of a token of a parametric or explicit learner
    wide: int = 128  # size of a token of an implicit one, whose attention compares the images
    layers: int = 2  # layers of the set encoder
    heads: int = 2  # attention heads
    summary: int = 64  # size of the running mean of learned features
    num_tasks: int = 32  # live tasks in the pool
    num_query: int = 32  # queries of a task


@attrs.frozen(kw_only=True)
class Config(Settings):
    """Settings of the example."""

    out: Path = Path("runs/image_classification")
    train: Train = Train()
    learners: tuple[Learner, ...] = (  # what to train: a regime, what is adapted, by which signal
        *("parametric linear, both", "parametric linear, gradient", "parametric linear, data"),
        *("parametric mlp, both", "explicit, both", "implicit", AT_ONCE),
    )
    data: Path | None = None  # folder that holds the images, or gets them; by default one in `out`
    test_on: tuple[Images, ...] = ("mnist", "fashion")  # what the test tasks are made of
    minibatch: tuple[int, ...] = (10, 10, 20, 40, 80, 160)  # of a test's steps; the last goes on
    examples: tuple[int, ...] = tuple(10 * 2**k for k in range(11))  # read before a measurement
    test_tasks: int = 24  # unseen tasks that the learners are measured on
    tuning_tasks: int = 4  # other unseen tasks, on which the baselines' settings are chosen
    test_query: int = 256  # queries of a test task
    test_chunk: int = 8  # test tasks side by side, also where costs are measured


CPU = FitConfig(iterations=600, learning_rate=2e-3, warmup=50, betas=(0.9, 0.95), log_every=100)
GPU = attrs.evolve(CPU, iterations=3000, learning_rate=1e-3, warmup=200, log_every=200)
LARGE = Train(width=128, wide=256, layers=4, heads=4, num_tasks=128, num_query=64, at_once=1280)
SMOKE = FitConfig(iterations=2, log_every=1, checkpoint_every=1)
SMALL = {"hidden": 6, "width": 8, "wide": 16, "layers": 1, "summary": 8}
TINY = Train(
    images="digits",
    dim=12,
    minibatches=(10, 20),
    max_steps=3,
    at_once=40,
    num_tasks=4,
    num_query=4,
    **SMALL,
)
PRESETS = {
    "cpu": Config(fit=CPU),
    "smoke": Config(
        fit=SMOKE,
        train=TINY,
        learners=(*(f"{model}, both" for model in MODELS), "implicit", AT_ONCE),
        test_on=("digits",),
        minibatch=(10, 10, 20),
        examples=(10, 20, 60),
        test_tasks=3,
        tuning_tasks=2,
        test_query=8,
        test_chunk=2,
    ),
    "gpu": Config(fit=GPU, train=LARGE, test_tasks=64, test_chunk=16),
}


def load(config: Config, name: Images) -> LabelledImages:
    """Images less their mean image, so that tokens differ by what tells images apart."""
    folder = config.data or config.out / "images"
    loaders = {"mnist": mnist, "fashion": fashion_mnist}
    images = digits() if name == "digits" else loaders[name](folder, download=True)
    mean = images.train_images.mean(0)
    return images.map(lambda x: x - mean)


def build(train: Train, name: str) -> Iterated:
    """A learner by the name of its rows; as in training, a step reads all that it is given."""
    likelihood = regimes.Categorical(train.num_classes)
    kind, _, signal = name.partition(", ")
    width = train.wide if kind == "implicit" else train.width
    encoder = SetTransformer(width, train.layers, train.heads, 2 * width)
    sizes = {"x_dim": train.dim, "summary_dim": train.summary}
    if kind == "implicit":
        return Iterated(regimes.Implicit(encoder, likelihood, **sizes), steps=1)
    predictor, options = model(train, kind), {"signal": signal, **sizes}
    if kind != "explicit":  # a token holds the weights of one unit, and its bias
        options["chunk"] = train.dim + 1
        if signal != "data":
            options["slope"] = regimes.WhitenedNewton(predictor)
    rule = regimes.LearnedRule(predictor, likelihood, encoder, **options)
    regime = regimes.Explicit if kind == "explicit" else regimes.Parametric
    return Iterated(regime(predictor, likelihood, rule), steps=1)


def model(train: Train, kind: str) -> regimes.Predictor:
    """A linear head that starts at even odds, an MLP, or a decoder whose latent is adapted."""
    if kind == "explicit":
        decoder = regimes.LatentDecoder(train.dim, train.width, train.num_classes)
        return regimes.Predictor(decoder, adapt=["latent"])
    if kind == "parametric linear":
        return regimes.Predictor(regimes.zero_linear(train.dim, train.num_classes))
    first, last = nn.Linear(train.dim, train.hidden), nn.Linear(train.hidden, train.num_classes)
    return regimes.Predictor(nn.Sequential(first, nn.ReLU(), last))


def main() -> None:
    """Trains each learner on one set of images, and tests it on that one and on others."""
    preset, config = parse(PRESETS, "Meta-learn to classify images, raw ones.")
    train, read = config.train, steps_reading(config.examples, minibatch=config.minibatch)
    if train.images not in config.test_on:
        raise SystemExit(
            f"`test_on` must have {train.images}, which is trained on, among others; got "
            f"{', '.join(config.test_on)}."
        )
    if train.num_classes < 10:
        raise SystemExit(
            f"`train.num_classes` must be at least 10, as many as the images have; got "
            f"{train.num_classes}."
        )
    name = f"image_classification-{train.images}"
    run = Experiment(name, preset, config, metrics=METRICS, best="largest", costs=True)
    images = {"in" if name == train.images else name: load(config, name) for name in config.test_on}
    support = images["in"].train_images, images["in"].train_labels
    seen = ProjectedClassification(*support, projection_dim=train.dim, num_tasks=SEEN_TASKS)

    def draw(split: str, num_tasks: int, first_seed: int, **options: bool) -> list[TaskBatch]:
        sizes = {"projection_dim": train.dim, "first_seed": first_seed}
        unseen = ProjectedClassification.held_out(images[split], **sizes)
        counts = {"num_support": max(config.examples), "num_query": config.test_query}
        return run.draw(unseen, num_tasks, **counts, chunk=config.test_chunk, **options)

    def source(learner: Iterated, name: str) -> Pool | SamplerSource:
        """Live tasks; for the model of one step, new ones with any number of examples."""
        counts = {"num_query": train.num_query, "generator": run.training_generator()}
        if name == AT_ONCE:
            counts |= {"num_support": (train.minibatches[0], train.at_once)}
            return SamplerSource(seen, num_tasks=max(1, train.num_tasks // 4), **counts)
        counts |= {"num_support": train.minibatches, "max_steps": train.max_steps}
        return Pool(learner, seen, num_tasks=train.num_tasks, **counts)

    tasks = {split: draw(split, config.test_tasks, SEEN_TASKS) for split in images}
    for name in config.learners:
        torch.manual_seed(config.seed)  # so that a learner is the same whatever came before it
        learner = build(train, name).to(run.device)
        run.train(name, learner, source(learner, name))
        if name != AT_ONCE:
            learner.minibatch = config.minibatch
        for split, batches in tasks.items():
            at = list(read) if learner.minibatch else read
            run.rows += run.measure(name, learner, batches, at, split=split)
            if name in READ_AGAIN:
                again = f"{name}, read again", partial(learner.eval().answer, again=TIMES_AGAIN)
                run.rows += run.measure(*again, batches, read, split=split)

    def logistic(c: float) -> LogisticRegression:
        return LogisticRegression(C=c, max_iter=200)

    def adam(predictor: regimes.Predictor, rate: float) -> Iterated:
        likelihood = regimes.Categorical(train.num_classes)
        regime = regimes.Parametric(predictor, likelihood, regimes.Adam(rate))
        return Iterated(regime, steps=1, minibatch=config.minibatch)

    warnings.simplefilter("ignore", ConvergenceWarning)  # we stop it at 200 iterations
    near = [k for k in NEIGHBOURS if k <= min(config.examples)]
    for split, batches in tasks.items():
        tuning = draw(split, config.tuning_tasks, TUNING_TASKS, tuning=True)
        on = {"tuning": tuning, "batches": batches, "split": split}
        run.rows += run.tuned("logistic regression", logistic, STRENGTHS, steps=read, **on)
        run.rows += run.tuned("nearest neighbours", KNeighborsClassifier, near, steps=read, **on)
        for kind in ("linear", "mlp"):
            torch.manual_seed(config.seed)
            make = partial(adam, model(train, f"parametric {kind}").to(run.device))
            run.rows += run.tuned(f"adam, {kind}", make, RATES, steps=list(read), **on)
    run.finish(scale="linear")


if __name__ == "__main__":
    main()
