"""Where embeddings of images come from: settings of a program."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import attrs
import torch

from iai_tasks._validators import one_of
from iai_tasks.embeddings.embedding_store import EmbeddingStore, embed
from iai_tasks.embeddings.load_backbone import load_backbone
from iai_tasks.image_classes import ImageClasses
from iai_tasks.images.digits import digits
from iai_tasks.images.image_folder import image_files
from iai_tasks.images.labelled_images import LabelledImages
from iai_tasks.images.vision import cifar10
from iai_tasks.interfaces import ImageSource

_SOURCES = ("cifar10", "digits", "folder")
_CLASS_NAMES = tuple("0123456789")  # of CIFAR-10, and of the digits
_TEST_EVERY = 3
Progress = Callable[..., object]  # called as rich's `Progress.update` is


@attrs.frozen(kw_only=True)
class EmbeddingSource:
    """Images that a frozen network turns into vectors, as a program can be told to use them.

    Raises:
        ValueError: If `source` is unknown, or is "folder" and `data` is not set.

    >>> EmbeddingSource(source="imagenet")
    Traceback (most recent call last):
    ValueError: `source` must be one of 'cifar10', 'digits', 'folder'; got 'imagenet'.
    """

    source: Literal["cifar10", "digits", "folder"] = attrs.field(
        default="cifar10", validator=one_of(*_SOURCES)
    )
    """cifar10 is downloaded where it is not there; digits come with scikit-learn; folder is a
    folder of images for each class, of which every third is a test image."""
    data: Path | None = None
    """Folder of the images; that of CIFAR-10 is by default in the cache."""
    backbone: str = "efficientnet_lite0"
    """The frozen network, by its name in `load_backbone`."""
    weights: Path | None = None
    """File of the network's weights, if it is an architecture of torchvision."""
    size: int = 160
    """Height and width in pixels of the images that the network sees."""
    stores: Path | None = None
    """Folder that keeps the embeddings; by default in the cache."""
    unreadable: Literal["refuse", "skip"] = "refuse"
    """What to do about a file that cannot be read as an image."""

    def __attrs_post_init__(self) -> None:
        if self.source == "folder" and self.data is None:
            raise ValueError("`data` must be set where `source` is folder; got None.")

    def load(
        self,
        cache: Path,
        *,
        device: torch.device | str = "cpu",
        progress: Progress | None = None,
    ) -> tuple[LabelledImages, dict[str, str]]:
        """Embeds the images, or opens the stores of an earlier call: see `embed`.

        Args:
            cache: Folder for images and embeddings where none is set.
            device: Where the network runs.
            progress: Called while images are embedded, with `description`, how many are `completed`
                and the `total`.

        Returns:
            The embeddings of training and test images, with their classes; and by name the
            fingerprints of what they are made from, the images and the network.

        Raises:
            ImportError: If a package that the source or the network needs is not installed.
            OSError: If a file cannot be read or written.
            ValueError: If the images cannot be read or embedded, or the network is not to be had:
                see `image_files`, `embed` and `load_backbone`.
        """
        backbone = load_backbone(self.backbone, size=self.size, weights=self.weights).to(device)

        def store(images: ImageSource, name: str) -> EmbeddingStore:
            def show(completed: int, total: int) -> None:
                if progress is not None:
                    progress(description=f"embed {name}", completed=completed, total=total)

            folder = (self.stores or cache / "stores") / f"{name}-{self.backbone}-{self.size}"
            return embed(images, backbone, folder, unreadable=self.unreadable, progress=show)

        if self.source == "folder" and self.data is not None:
            kept = store(image_files(self.data), f"yours-{self.data.name}")
            embedded = LabelledImages.hold_out(kept.embeddings, kept.labels, every=_TEST_EVERY)
            stores = {self.data.name: kept}
        else:
            images, pictures = self._published(cache)
            stores = {name: store(each, name) for name, each in pictures.items()}
            train, test = (each.embeddings for each in stores.values())
            embedded = attrs.evolve(images, train_images=train, test_images=test)
        prints = {name: each.source_fingerprint for name, each in stores.items()}
        return embedded, prints | {"backbone": backbone.fingerprint}

    def _published(self, cache: Path) -> tuple[LabelledImages, dict[str, ImageClasses]]:
        """A published set, and each part of it as square images of numbers from 0 to 255."""
        if self.source == "digits":
            images, shape = digits().map(lambda x: 15 * x), (8, 8, 1)
        else:
            images, shape = cifar10(self.data or cache / "images", download=True), (32, 32, 3)

        def part(flat: torch.Tensor, labels: torch.Tensor) -> ImageClasses:
            pixels = flat.reshape(-1, *shape).movedim(-1, 1).to(torch.uint8).contiguous()
            return ImageClasses(images=pixels, labels=labels, class_names=_CLASS_NAMES)

        train = part(images.train_images, images.train_labels)
        test = part(images.test_images, images.test_labels)
        return images, {f"{self.source}-train": train, f"{self.source}-test": test}
