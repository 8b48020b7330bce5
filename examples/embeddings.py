"""Photos through a frozen network: classes that were never seen, and no training run
===================================================================================

A network that was trained on ImageNet turns each photo into a vector, once; the vectors stay on
disk. The learners are trained on tasks of 2 to 6 classes of CIFAR-10, named by any of 10 labels,
through a rotation of their own. They are then asked to tell apart the 4 classes that they have
never met, all 10 at once, or the classes of a folder of yours (``--images``), with no gradient
step. They read up to 10,240 examples, in minibatches that grow from 10 to 160; two learners are
also measured after they have read all examples twice more, at once.
"""

import warnings
from functools import partial
from pathlib import Path
from typing import Literal

import attrs
import iai_regimes as regimes
import iai_tasks as tasks
import torch
from iai_encoders import SetTransformer
from iai_iterate import Iterated, Pool, steps_reading
from iai_train import Experiment, FitConfig, SamplerSource, Settings, accuracy, parse
from rich.progress import Progress
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

SEEN_TASKS, TUNING_TASKS = 2**20, 2**21  # first seeds of unseen tasks, to test and to tune on
RATES = (0.3, 0.1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4)  # of Adam
STRENGTHS = (1e-3, 1e-2, 0.1, 1.0, 10.0)  # C of logistic regression, one over its penalty
NEIGHBOURS = (1, 3, 5, 10)  # whose most frequent class is the answer
AT_ONCE = "implicit, one step, all examples"
LEARNERS = (  # a regime, what is adapted, and the signal that it is adapted by
    *("parametric linear, both", "parametric linear, gradient", "parametric linear, data"),
    *("parametric mlp, both", "explicit, both", "implicit", AT_ONCE),
)
READ_AGAIN, TIMES_AGAIN = ("parametric linear, gradient", "parametric mlp, both"), 2
METRICS = {"accuracy": accuracy}
CLASSES = tuple("0123456789")  # of CIFAR-10, and of the digits
QUERY_EVERY = 3  # of the images of a class of yours, every third is asked about


@attrs.frozen(kw_only=True)
class Train:
    """What decides the weights of a learner."""

    source: Literal["cifar10", "digits"] = "cifar10"  # what the training tasks are made of
    backbone: str = "efficientnet_lite0"  # the frozen network, by its name in `load_backbone`
    weights: Path | None = None  # file of its weights, if it is an architecture of torchvision
    size: int = 160  # pixels along a side of what the network sees
    seen_classes: Literal[2, 3, 4, 5, 6, 7, 8, 9] = 6  # of `source`; the others are unseen
    dim: int = 64  # principal components of the embeddings of seen classes, made white
    num_classes: int = 10  # the most classes that a learner holds
    hidden: int = 64  # hidden units of the MLP, all of whose parameters a task adapts
    minibatches: tuple[int, ...] = (10, 20, 40, 80, 160)  # a test uses each in turn, then the last
    max_steps: int = 100  # longest life of a task, in steps
    at_once: int = 640  # the most examples that the model of one step reads
    width: int = 64  # size of a token; of an implicit learner, twice as much
    layers: int = 2  # layers of the set encoder
    heads: int = 2  # attention heads
    summary: int = 64  # size of the running mean of learned features
    num_tasks: int = 32  # live tasks in the pool
    num_query: int = 32  # queries of a task


@attrs.frozen(kw_only=True)
class Config(Settings):
    """Settings of the example."""

    out: Path = Path("runs/embeddings")
    train: Train = Train()
    learners: tuple[Literal[*LEARNERS], ...] = LEARNERS  # to train
    data: Path | None = None  # folder that holds CIFAR-10, or gets it; by default one in `out`
    stores: Path | None = None  # folder that keeps the embeddings; by default one in `out`
    images: Path | None = None  # a folder of yours, of one folder for each class, to test on too
    unreadable: Literal["refuse", "skip"] = "refuse"  # what to do about a file there
    examples: tuple[int, ...] = tuple(10 * 2**k for k in range(11))  # read before a measurement
    test_tasks: int = 24  # unseen tasks that the learners are measured on
    tuning_tasks: int = 4  # other unseen tasks, on which the baselines' settings are chosen
    test_query: int = 256  # queries of a test task
    test_chunk: int = 8  # test tasks side by side, also where costs are measured


CPU = FitConfig(iterations=600, learning_rate=2e-3, warmup=50, betas=(0.9, 0.95), log_every=100)
GPU = attrs.evolve(CPU, iterations=3000, learning_rate=1e-3, warmup=200, log_every=200)
SMOKE = FitConfig(iterations=2, log_every=1, checkpoint_every=1)
LARGE = {"width": 128, "layers": 4, "heads": 4, "num_tasks": 128, "num_query": 64, "at_once": 1280}
SMALL = {"width": 8, "layers": 1, "summary": 8, "hidden": 6, "num_tasks": 4, "num_query": 4}
FEW = {"minibatches": (10, 20), "max_steps": 3, "at_once": 40}
TINY = Train(source="digits", backbone="random", size=8, dim=12, **FEW, **SMALL)
SHORT = {"learners": (LEARNERS[0], *LEARNERS[3:]), "examples": (10, 20, 60), "test_query": 8}
SHORT |= {"test_tasks": 3, "tuning_tasks": 2, "test_chunk": 2}
PRESETS = {
    "cpu": Config(fit=CPU),
    "smoke": Config(fit=SMOKE, train=TINY, **SHORT),
    "gpu": Config(fit=GPU, train=Train(size=224, **LARGE), test_tasks=64, test_chunk=16),
}


def build(train: Train, name: str) -> Iterated:
    """A learner by the name of its rows; as in training, a step reads all that it is given."""
    likelihood = regimes.Categorical(train.num_classes)
    kind, _, signal = name.partition(", ")
    width = 2 * train.width if kind == "implicit" else train.width
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


def embedded(config: Config, device: torch.device) -> dict[str, tasks.LabelledImages]:
    """White embeddings of the images of each split."""
    train, stores, splits = config.train, config.stores or config.out / "stores", {}
    mine = config.images and tasks.image_files(config.images)
    most = max(len(CLASSES), len(mine.class_names) if mine else 0)
    if train.num_classes < most:
        raise SystemExit(
            f"`train.num_classes` must be at least {most}, the most classes of a test; got "
            f"{train.num_classes}."
        )
    backbone = tasks.load_backbone(train.backbone, size=train.size, weights=train.weights)
    backbone = backbone.to(device)

    def store(source: tasks.ImageSource, name: str) -> tasks.EmbeddingStore:
        """Embeds images once; from then on their store is opened."""
        folder = stores / f"{name}-{train.backbone}-{train.size}"
        with Progress(transient=True) as bar:
            task = bar.add_task(f"embed {name}")
            how = {"progress": lambda done, all: bar.update(task, completed=done, total=all)}
            return tasks.embed(source, backbone, folder, unreadable=config.unreadable, **how)

    if mine:
        kept = store(mine, f"yours-{config.images.name}")
        images = tasks.LabelledImages.hold_out(kept.embeddings, kept.labels, every=QUERY_EVERY)
        splits[f"yours: {config.images.name}"] = images
    if train.source == "digits":
        images, shape = tasks.digits().map(lambda x: 15 * x), (8, 8, 1)
    else:
        folder = config.data or config.out / "images"
        images, shape = tasks.cifar10(folder, download=True), (32, 32, 3)
    parts = {}
    for part in ("train", "test"):
        pixels, labels = getattr(images, f"{part}_images"), getattr(images, f"{part}_labels")
        pixels = pixels.reshape(-1, *shape).movedim(-1, 1).to(torch.uint8).contiguous()
        source = tasks.ImageClasses(images=pixels, labels=labels, class_names=CLASSES)
        parts[f"{part}_images"] = store(source, f"{train.source}-{part}").embeddings
    images = attrs.evolve(images, **parts)
    seen = images.of_classes(range(train.seen_classes))
    unseen = images.of_classes(range(train.seen_classes, len(CLASSES)))
    splits = {"in": seen, "unseen classes": unseen, "all classes": images, **splits}
    white = tasks.whitening(seen.train_images, train.dim)
    return {split: images.map(white) for split, images in splits.items()}


def main() -> None:
    """Embeds the images, trains each learner on some classes, and tests it on others."""
    preset, config = parse(PRESETS, "Meta-learn to classify images, embedded ones.")
    train = config.train
    minibatch = (train.minibatches[0], *train.minibatches)  # of the steps of a test
    run = Experiment("embeddings", preset, config, metrics=METRICS, best="largest", costs=True)
    images, rotation = embedded(config, run.device), {"projection": "rotation"}
    read = {
        split: steps_reading(config.examples, minibatch=minibatch, at_most=len(those.train_labels))
        for split, those in images.items()
    }
    support = images["in"].train_images, images["in"].train_labels
    counts = {"num_classes": (2, train.seen_classes), "num_labels": train.num_classes}
    seen = tasks.ProjectedClassification(*support, num_tasks=SEEN_TASKS, **counts, **rotation)

    def draw(split: str, num_tasks: int, first_seed: int, **options) -> list[tasks.TaskBatch]:
        those, num_support = images[split], max(read[split].values())
        num_query = min(config.test_query, len(those.test_labels))
        unseen = tasks.ProjectedClassification.held_out(those, first_seed=first_seed, **rotation)
        counts = {"num_support": num_support, "num_query": num_query}
        return run.draw(unseen, num_tasks, **counts, chunk=config.test_chunk, **options)

    def source(learner: Iterated, name: str) -> Pool | SamplerSource:
        """Live tasks; for the model of one step, new ones with any number of examples."""
        counts = {"num_query": train.num_query, "generator": run.training_generator()}
        if name == AT_ONCE:
            counts |= {"num_support": (train.minibatches[0], train.at_once)}
            return SamplerSource(seen, num_tasks=max(1, train.num_tasks // 4), **counts)
        counts |= {"num_support": train.minibatches, "max_steps": train.max_steps}
        return Pool(learner, seen, num_tasks=train.num_tasks, **counts)

    tests = {split: draw(split, config.test_tasks, SEEN_TASKS) for split in images}
    for name in config.learners:
        torch.manual_seed(config.seed)  # so that a learner is the same whatever came before it
        learner = build(train, name).to(run.device)
        run.train(name, learner, source(learner, name))
        if name != AT_ONCE:
            learner.minibatch = minibatch
        for split, batches in tests.items():
            at = list(read[split]) if learner.minibatch else read[split]
            run.rows += run.measure(name, learner, batches, at, split=split)
            if name in READ_AGAIN:
                again = f"{name}, read again", partial(learner.eval().answer, again=TIMES_AGAIN)
                run.rows += run.measure(*again, batches, read[split], split=split)

    def logistic(c: float) -> LogisticRegression:
        return LogisticRegression(C=c, max_iter=200)

    def adam(predictor: regimes.Predictor, rate: float) -> Iterated:
        likelihood = regimes.Categorical(train.num_classes)
        regime = regimes.Parametric(predictor, likelihood, regimes.Adam(rate))
        return Iterated(regime, steps=1, minibatch=minibatch)

    warnings.simplefilter("ignore", ConvergenceWarning)  # we stop it at 200 iterations
    near = [k for k in NEIGHBOURS if k <= min(config.examples)]
    for split, batches in tests.items():
        tuning, at = draw(split, config.tuning_tasks, TUNING_TASKS, tuning=True), read[split]
        on = {"tuning": tuning, "batches": batches, "split": split}
        run.rows += run.tuned("logistic regression", logistic, STRENGTHS, steps=at, **on)
        run.rows += run.tuned("nearest neighbours", KNeighborsClassifier, near, steps=at, **on)
        for kind in ("linear", "mlp"):
            torch.manual_seed(config.seed)
            make = partial(adam, model(train, f"parametric {kind}").to(run.device))
            run.rows += run.tuned(f"adam, {kind}", make, RATES, steps=list(at), **on)
    run.finish(scale="linear")


if __name__ == "__main__":
    main()
