"""Photos through a frozen network: classes that were never seen, and no training run
===================================================================================

A network that was trained on ImageNet turns each photo into a vector. Learners are trained on tasks
of 2 to 6 classes of CIFAR-10; each task rotates the vectors and names its classes by any of 10
labels. Then they tell apart the 4 classes that no training task had, all 10 at once, or those of a
folder of yours (``--images``), without a gradient step. They read up to 10,240 examples. Learners
differ in what they keep of these: weights, an online ridge regression, or attention on top of it.
"""

from functools import partial
from pathlib import Path
from typing import Literal

import attrs
import iai_train
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
from iai_tasks import EmbeddingSource, LabelledImages, ProjectedClassification, whitening
from iai_train import AlternatingSource, ComparisonSizes, Experiment, FitConfig, Settings, parse

SEEN_TASKS, TUNING_TASKS = 2**20, 2**21  # the first seeds of tasks to test and to tune on
RATES = (0.3, 0.1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4)  # of Adam
MEMORIES = RIDGE, RUNNING = "explicit, ridge memory", "implicit, attention on a ridge"
SIGNALS = ("both", "gradient", "data")  # that weights are adapted by
LEARNERS = (*MEMORIES, *(f"parametric linear, {signal}" for signal in SIGNALS))
LEARNERS += ("parametric mlp, both",)
READ_AGAIN = ("parametric linear, gradient", "parametric mlp, both")  # after reading all thrice


@attrs.frozen(kw_only=True)
class Train:
    """What decides the weights of a learner."""

    seen_classes: Literal[2, 3, 4, 5, 6, 7, 8, 9] = 6  # the first ones; the others are unseen
    classifier: LearnedClassifier = LearnedClassifier(x_dim=64)  # x_dim white principal components
    minibatches: tuple[int, ...] = (10, 20, 40, 80, 160)  # a test takes them in turn, then the last
    max_steps: int = 100  # most steps that a training task is refined for
    sizes: tuple[int, ...] = (160, 640)  # examples of a training task of a memory, in turn
    features: int = 448  # of the regression of a ridge memory, beside 64 that are linear
    width: int = 64  # size of a token; of a memory, twice as much
    layers: int = 2  # layers of an encoder
    heads: int = 2  # attention heads
    num_tasks: int = 32  # training tasks that are refined side by side
    num_query: int = 32  # queries of a training task


@attrs.frozen(kw_only=True)
class Config(Settings):
    """Settings of the example."""

    out: Path = Path("runs/embeddings")
    train: Train = Train()
    learners: tuple[Literal[*LEARNERS], ...] = LEARNERS  # to train
    embedding: EmbeddingSource = EmbeddingSource()
    images: Path | None = None  # a folder of yours, of one folder for each class, to test on too
    tests: ComparisonSizes = ComparisonSizes()


CPU = FitConfig(iterations=600, learning_rate=2e-3, warmup=50, betas=(0.9, 0.95), log_every=100)
GPU = attrs.evolve(CPU, iterations=3000, learning_rate=1e-3, warmup=200, log_every=200)
SMOKE = FitConfig(iterations=2, log_every=1, checkpoint_every=1)
LARGE = {"width": 128, "layers": 4, "heads": 4, "num_tasks": 128, "num_query": 64}
SMALL = {"width": 8, "layers": 1, "num_tasks": 4, "num_query": 4, "features": 8}
FEW = {"minibatches": (10, 20), "max_steps": 3, "sizes": (20, 40)}
TINY = Train(classifier=LearnedClassifier(x_dim=12, hidden_dim=6, summary_dim=8), **FEW, **SMALL)
DIGITS = EmbeddingSource(source="digits", backbone="random", size=8)
LESS = ComparisonSizes(examples=(10, 20, 60), num_tasks=3, num_tuning=2, num_query=8, chunk=2)
SHORT = {"embedding": DIGITS, "tests": LESS, "learners": (*LEARNERS[:3], *LEARNERS[5:])}
LONG = {"embedding": EmbeddingSource(size=224), "tests": ComparisonSizes(num_tasks=64, chunk=16)}
PRESETS = {
    "cpu": Config(fit=CPU),
    "smoke": Config(fit=SMOKE, train=TINY, **SHORT),
    "gpu": Config(fit=GPU, train=Train(**LARGE), **LONG),
}


def build(train: Train, name: str) -> Iterated:
    """A learner by the name of its rows, whose step reads all the examples that it is given."""
    width = 2 * train.width if name in MEMORIES else train.width
    encoder = SetTransformer(width, train.layers, train.heads, 2 * width)
    if name not in MEMORIES:
        return Iterated(train.classifier.regime(name, encoder), steps=1)
    layers, how = (train.layers if name == RIDGE else 1), {"x_dim": train.classifier.x_dim}
    memory = MemoryTransformer(width, layers, 2, 2 * width, features=train.features)
    how["likelihood"] = Categorical(train.classifier.num_classes)
    if name == RIDGE:
        regime = ExplicitMemory(memory, **how)
    else:
        regime = RunningAttention(RunningTransformer(encoder, memory=memory), **how)
    return Iterated(regime, steps=None, gradient=unrolled)


def embedded(run: Experiment) -> dict[str, LabelledImages]:
    """White embeddings of the images of each split."""
    config, classifier, yours = run.settings, run.settings.train.classifier, {}
    with iai_train.progress("embed") as show:
        how = {"cache": config.out, "device": run.device, "progress": show}
        if config.images:
            own = attrs.evolve(config.embedding, source="folder", data=config.images)
            yours[f"yours: {config.images.name}"], run.test_data = own.load(**how)
        images, run.data = config.embedding.load(**how)
    num, most = images.num_classes, max(of.num_classes for of in (images, *yours.values()))
    if (seen := config.train.seen_classes) >= num:
        raise SystemExit(f"`train.seen_classes` must be less than {num}, to leave one; got {seen}.")
    if (few := classifier.num_classes) < most:
        text = f"must be at least {most}, the most classes of a test; got {few}."
        raise SystemExit(f"`train.classifier.num_classes` {text}")
    parts = {"in": range(seen), "unseen classes": range(seen, num), "all classes": range(num)}
    splits = {split: images.of_classes(part) for split, part in parts.items()} | yours
    white = whitening(splits["in"].train_images, classifier.x_dim)
    return {split: of.map(white) for split, of in splits.items()}


def main() -> None:
    """Embeds the images, trains each learner on some classes, and tests it on others."""
    preset, config = parse(PRESETS, "Meta-learn to classify images by their embeddings.")
    train, minibatch = config.train, (config.train.minibatches[0], *config.train.minibatches)
    how = {"metrics": {"accuracy": iai_train.accuracy}, "best": "largest", "costs": True}
    run, num_classes = Experiment("embeddings", preset, config, **how), train.classifier.num_classes
    images, options = embedded(run), {"num_tasks": SEEN_TASKS, "projection": "rotation"}
    options |= {"num_classes": (2, train.seen_classes), "num_labels": num_classes}
    seen = ProjectedClassification.training(images["in"], **options)
    tests, examples = iai_train.Comparison(run, config.tests), config.tests.examples
    for split, of in images.items():
        read = steps_reading(examples, minibatch=minibatch, at_most=len(of.train_labels))
        unseen = partial(ProjectedClassification.held_out, of, projection="rotation")
        new, tuning = unseen(first_seed=SEEN_TASKS), unseen(first_seed=TUNING_TASKS)
        tests.add(split, new, tuning, read, most_queries=len(of.test_labels))

    def adam(predictor: Predictor, rate: float) -> Iterated:
        regime = Parametric(predictor, Categorical(num_classes), Adam(rate))
        return Iterated(regime, steps=1, minibatch=minibatch)

    for name in config.learners:
        learner = run.build(build, train, name)
        counts = {"num_query": train.num_query, "generator": run.training_generator()}
        if name in MEMORIES:  # new tasks at each iteration
            learner.minibatch = minibatch
            source = AlternatingSource.of_sizes(seen, train.sizes, num_tasks=1, **counts)
        else:
            counts |= {"num_tasks": train.num_tasks, "num_support": train.minibatches}
            source = Pool(learner, seen, max_steps=train.max_steps, **counts)
        run.train(name, learner, source)
        learner.minibatch = minibatch
        run.rows += tests.measure(name, learner, refines=True)
        if name in READ_AGAIN:
            again = partial(learner.eval().answer, again=2)
            run.rows += tests.measure(f"{name}, read again", again)
    run.rows += tests.measure_classifiers()
    for kind in ("linear", "mlp"):
        make = partial(adam, run.build(train.classifier.predictor, kind))
        run.rows += tests.tuned(f"adam, {kind}", make, RATES, refines=True)
    run.finish(scale="linear")


if __name__ == "__main__":
    main()
