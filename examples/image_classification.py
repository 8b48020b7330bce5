"""Images, classified by learners that read them minibatch by minibatch
====================================================================

A task permutes the ten labels of MNIST or Fashion-MNIST, and maps the images to 100 numbers by a
random projection of its own. A learner is trained on such tasks of one of the two sets, and tested
on new tasks of both. It reads up to 10,240 examples, each once, in minibatches that grow from 10 to
160, and keeps a state of one size: an online ridge regression on learned features, running sums of
attention on top of it, logits for each query, or the weights of a model. One learner is also
measured after it has read all examples twice more, each time in one step.

Baselines are logistic regression with a tuned C, Adam on the same models with the best rate, and
nearest neighbours, each for each task anew.
"""

from functools import partial
from pathlib import Path
from typing import Literal

import attrs
import iai_tasks
from iai_encoders import MemoryTransformer, RunningTransformer, SetTransformer
from iai_iterate import Iterated, Pool, steps_reading, unrolled
from iai_regimes import (
    Adam,
    Categorical,
    ExplicitMemory,
    LearnedClassifier,
    Parametric,
    Predictor,
    RunningAttention,
)
from iai_tasks import LabelledImages, ProjectedClassification
from iai_train import (
    AlternatingSource,
    Comparison,
    ComparisonSizes,
    Experiment,
    FitConfig,
    Settings,
    accuracy,
    parse,
)

SEEN_TASKS = 2**20  # training tasks have seeds below this, test tasks from it on
TUNING_TASKS = 2**21  # the first seed of the tasks that baselines are tuned on
RATES = (0.3, 0.1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4)  # of Adam
MODELS = ("parametric linear", "parametric mlp", "explicit")
SIGNALS = ("both", "gradient", "data")
RUNNING, RIDGE = "implicit, attention on a ridge", "explicit, ridge memory"
LOGITS, MLP = "implicit, logits", "parametric mlp, both"
READ_AGAIN = (MLP,)  # measured so too

Images = Literal["mnist", "fashion", "digits"]
Refined = Literal[*(f"{m}, {signal}" for m in MODELS for signal in SIGNALS), LOGITS]


@attrs.frozen(kw_only=True)
class Train:
    """What decides the weights of a learner."""

    images: Images = "mnist"  # what the training tasks are made of
    classifier: LearnedClassifier = LearnedClassifier(x_dim=100)  # of x_dim projected numbers
    minibatches: tuple[int, ...] = (10, 20, 40, 80, 160)  # a step reads one of these sizes
    max_steps: int = 100  # most steps that a training task is refined for
    sizes: tuple[int, ...] = (160, 640)  # examples of a training task of a memory, in turn
    num_long: int = 1  # training tasks side by side of the last of these sizes
    features: int = 448  # of the regression of a ridge memory, beside 64 that are linear
    width: int = 64  # size of a token of a parametric or explicit learner
    wide: int = 128  # size of a token of an implicit one or a memory, which compare the images
    layers: int = 2  # layers of an encoder
    heads: int = 4  # attention heads; a ridge memory has two
    num_tasks: int = 32  # training tasks that are refined side by side
    num_query: int = 64  # queries of a training task


@attrs.frozen(kw_only=True)
class Config(Settings):
    """Settings of the example."""

    out: Path = Path("runs/image_classification")
    train: Train = Train()
    learners: tuple[Literal[RUNNING, RIDGE, Refined], ...] = (RUNNING, RIDGE, MLP, LOGITS)
    data: Path | None = None  # folder that holds the images, or gets them; by default one in `out`
    test_on: tuple[Images, ...] = ("mnist", "fashion")  # what the test tasks are made of
    minibatch: tuple[int, ...] = (10, 10, 20, 40, 80, 160)  # of each step of a test; then the last
    tests: ComparisonSizes = ComparisonSizes()


CPU = FitConfig(iterations=600, learning_rate=2e-3, warmup=50, betas=(0.9, 0.95), log_every=100)
GPU = attrs.evolve(CPU, iterations=3000, learning_rate=1e-3, warmup=200, log_every=200)
SMOKE = FitConfig(iterations=2, log_every=1, checkpoint_every=1)
LARGE = Train(width=128, wide=256, layers=4, num_tasks=128, num_query=64, num_long=8)
SMALL = {"width": 8, "wide": 16, "layers": 1, "num_tasks": 4, "num_query": 4, "features": 8}
FEW = {"minibatches": (10, 20), "max_steps": 3, "sizes": (10, 40), "heads": 2}
LITTLE = LearnedClassifier(x_dim=12, hidden_dim=6, summary_dim=8)
SHORT = ComparisonSizes(examples=(10, 20, 60), num_tasks=3, num_tuning=2, num_query=8, chunk=2)
PRESETS = {
    "cpu": Config(fit=CPU),
    "smoke": Config(
        fit=SMOKE,
        train=Train(images="digits", classifier=LITTLE, **SMALL, **FEW),
        learners=(RUNNING, RIDGE, LOGITS, *(f"{model}, both" for model in MODELS)),
        test_on=("digits",),
        minibatch=(10, 10, 20),
        tests=SHORT,
    ),
    "gpu": Config(fit=GPU, train=LARGE, tests=ComparisonSizes(num_tasks=64, chunk=16)),
}


def load(config: Config, name: Images) -> LabelledImages:
    """Images minus their mean image: what all images share tells no classes apart."""
    folder = config.data or config.out / "images"
    loaders = {"mnist": iai_tasks.mnist, "fashion": iai_tasks.fashion_mnist}
    images = iai_tasks.digits() if name == "digits" else loaders[name](folder, download=True)
    mean = images.train_images.mean(0)
    return images.map(lambda x: x - mean)


def build(train: Train, name: str) -> Iterated:
    """A learner by the name of its rows, which is trained to read all that it is given."""
    width = train.wide if name in (RUNNING, RIDGE, LOGITS) else train.width
    sizes = width, train.layers, train.heads, 2 * width
    if name not in (RUNNING, RIDGE):
        kind = "implicit" if name == LOGITS else name
        return Iterated(train.classifier.regime(kind, SetTransformer(*sizes)), steps=1)
    how = {"likelihood": Categorical(train.classifier.num_classes), "x_dim": train.classifier.x_dim}
    layers = train.layers if name == RIDGE else 1
    memory = MemoryTransformer(width, layers, 2, 2 * width, features=train.features)
    if name == RIDGE:
        regime = ExplicitMemory(memory, **how)
    else:
        encoder = RunningTransformer(SetTransformer(*sizes), memory=memory)
        regime = RunningAttention(encoder, **how)
    return Iterated(regime, steps=None, gradient=unrolled)


def main() -> None:
    """Trains each learner on one set of images, and tests it on that one and on others."""
    preset, config = parse(PRESETS, "Meta-learn to classify images by their pixels.")
    train, num_classes = config.train, config.train.classifier.num_classes
    if train.images not in config.test_on:
        raise SystemExit(
            f"`test_on` must have {train.images}, which is trained on, among others; got "
            f"{', '.join(config.test_on)}."
        )
    if num_classes < 10:
        raise SystemExit(
            f"`train.classifier.num_classes` must be at least 10, as many as the images have; got "
            f"{num_classes}."
        )
    images = {name: load(config, name) for name in config.test_on}
    prints = {name: of.fingerprint for name, of in images.items()}
    data = {train.images: prints.pop(train.images)}
    about = {"metrics": {"accuracy": accuracy}, "best": "largest", "costs": True, "data": data}
    run = Experiment(f"image_classification-{train.images}", preset, config, **about)
    run.test_data = prints
    projected = {"projection_dim": train.classifier.x_dim}
    seen = ProjectedClassification.training(images[train.images], num_tasks=SEEN_TASKS, **projected)
    read = steps_reading(config.tests.examples, minibatch=config.minibatch)
    tests = Comparison(run, config.tests)
    for name, of in images.items():
        unseen = partial(ProjectedClassification.held_out, of, **projected)
        split = "in" if name == train.images else name
        tests.add(split, unseen(first_seed=SEEN_TASKS), unseen(first_seed=TUNING_TASKS), read)

    def source(learner: Iterated, name: str) -> Pool | AlternatingSource:
        """A pool of tasks where each step learns alone; else many short tasks, then a few long."""
        counts = {"num_query": train.num_query, "generator": run.training_generator()}
        if name in (RUNNING, RIDGE):
            counts |= {"num_tasks": train.num_long}
            return AlternatingSource.of_sizes(seen, train.sizes, **counts)
        counts |= {"num_support": train.minibatches, "max_steps": train.max_steps}
        return Pool(learner, seen, num_tasks=train.num_tasks, **counts)

    for name in config.learners:
        learner = run.build(build, train, name)
        if name in (RUNNING, RIDGE):
            learner.minibatch = config.minibatch
        run.train(name, learner, source(learner, name))
        learner.minibatch = config.minibatch
        run.rows += tests.measure(name, learner, refines=True)
        if name in READ_AGAIN:
            again = partial(learner.eval().answer, again=2)
            run.rows += tests.measure(f"{name}, read again", again)

    def adam(predictor: Predictor, rate: float) -> Iterated:
        regime = Parametric(predictor, Categorical(num_classes), Adam(rate))
        return Iterated(regime, steps=1, minibatch=config.minibatch)

    run.rows += tests.measure_classifiers()
    for kind in ("linear", "mlp"):
        make = partial(adam, run.build(train.classifier.predictor, kind))
        run.rows += tests.tuned(f"adam, {kind}", make, RATES, refines=True)
    run.finish(scale="linear", title="Images of unseen tasks: accuracy by examples read")


if __name__ == "__main__":
    main()
