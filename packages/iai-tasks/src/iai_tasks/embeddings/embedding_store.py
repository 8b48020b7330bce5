"""Embeddings of many images by a frozen backbone: made once, kept in a folder, mapped to memory."""

import warnings
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Literal

import attrs
import torch
from filelock import FileLock
from jaxtyping import Float32, Int64
from torch import Tensor

from iai_tasks.embeddings._embedding_build import build, clear, unfinished
from iai_tasks.embeddings._embedding_file import (
    EMBEDDINGS,
    LABELS,
    MANIFEST,
    Origin,
    map_array,
    read_manifest,
)
from iai_tasks.embeddings.image_source import ImageSource
from iai_tasks.interfaces import Embedder


@attrs.frozen(eq=False, kw_only=True)
class EmbeddingStore:
    """Embeddings of images and their classes: what `embed` made, and `open` opens.

    Attributes:
        embeddings: `image dim`, float32, mapped to memory: the disk is read where they are, by as
            many processes as like. What is written to them stays in this process.
        labels: `image`, int64, the class of each image.
        class_names: What each class is called.
        backbone: Name of the network.
        backbone_fingerprint: Fingerprint of the network.
        source_fingerprint: Fingerprint of the images.
        skipped: Names of the images that could not be read, and have no row.
    """

    embeddings: Float32[Tensor, "image dim"] = attrs.field(repr=False)
    labels: Int64[Tensor, " image"] = attrs.field(repr=False)
    class_names: tuple[str, ...]
    backbone: str
    backbone_fingerprint: str
    source_fingerprint: str
    skipped: tuple[str, ...]

    @labels.validator
    def _one_of_each(self, _: object, labels: Tensor) -> None:
        if labels.shape != self.embeddings.shape[:1]:
            raise ValueError(
                f"`labels` must be one for each of {len(self.embeddings)} embeddings; "
                f"got {tuple(labels.shape)}."
            )

    @classmethod
    def open(
        cls, folder: str | PathLike[str], *, backbone: Embedder | None = None
    ) -> "EmbeddingStore":
        """Opens a finished store. Every array is read once, and compared with its SHA-256.

        Args:
            folder: What was given to `embed`.
            backbone: If given, it must be the one that the store was made with.

        Raises:
            FileNotFoundError: If there is no store, or it is not finished.
            ValueError: If an array is damaged, the format is unknown, or the backbone is another.
        """
        place = Path(folder).resolve()
        if not (place / MANIFEST).is_file():
            if unfinished(place).exists():
                raise FileNotFoundError(
                    f"`folder` must be a finished store; {place} is not finished. Where no process "
                    "is at work on it, call `embed` as before, which goes on from where it stopped."
                )
            raise FileNotFoundError(
                f"`folder` must be a store that `embed` made; {place} has no {MANIFEST}."
            )
        manifest = read_manifest(place)
        if backbone is not None:
            manifest.origin.check_backbone(backbone.name, backbone.fingerprint, place)
        return cls(
            embeddings=torch.from_numpy(map_array(place, EMBEDDINGS, manifest)),
            labels=torch.from_numpy(map_array(place, LABELS, manifest)),
            class_names=manifest.class_names,
            skipped=manifest.skipped,
            **attrs.asdict(manifest.origin),
        )


def embed(
    source: ImageSource,
    backbone: Embedder,
    folder: str | PathLike[str],
    *,
    unreadable: Literal["refuse", "skip"] = "refuse",
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> EmbeddingStore:
    """Embeds every image once, and keeps the embeddings in a folder.

    If the folder is a store of these images and this backbone, it is opened. If a process was
    stopped on the way to one, even killed, its batches are kept, in a folder beside that ends with
    .unfinished, and the next call goes on from there; the store is then the same, byte for byte. If
    another process is at it, this one waits, and opens what that one made; the file that it waits
    for, .NAME.lock, stays beside the folder.

    Args:
        source: The images. Their fingerprint is taken first, which reads every file once.
        backbone: The network.
        folder: What the store is to be. It appears when it is complete.
        unreadable: Whether an image that cannot be read stops the work ("refuse") or is left out
            with a warning ("skip").
        batch_size: Images that the network sees at once. Another one changes rounding alone.
        progress: Called at the start and after every batch, with how many images are done and how
            many there are.

    Raises:
        OSError: If something cannot be written.
        ValueError: If a number or word is wrong; the folder holds something else, or was made from
            other images or by another backbone; an image cannot be read, or its embedding is not
            finite, and the text names it; no image of a class is left; or the store is damaged.

    >>> import tempfile
    >>> from iai_tasks import Backbone, ImageArrays
    >>> images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 8, 8)
    >>> photos = ImageArrays(
    ...     images=images, labels=torch.tensor([0, 1, 1]), class_names=("night", "day")
    ... )
    >>> pooled = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    >>> colour = Backbone(name="colour", module=pooled, size=8, mean=(0, 0, 0), std=(1, 1, 1))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = embed(photos, colour, f"{folder}/photos")
    >>> store.embeddings[:, 0], store.labels
    (tensor([0.0000, 0.2000, 1.0000]), tensor([0, 1, 1]))
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1; got {batch_size}.")
    if unreadable not in ("refuse", "skip"):
        raise ValueError(f"`unreadable` must be 'refuse' or 'skip'; got {unreadable!r}.")
    if not len(source):
        raise ValueError("`source` must have an image; it has none.")
    place = Path(folder).resolve()
    origin = Origin(backbone.name, backbone.fingerprint, source.fingerprint)
    if not (place / MANIFEST).exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(place.with_name(f".{place.name}.lock")):
            if not (place / MANIFEST).exists():
                _make_room(place)
                build(
                    source,
                    backbone,
                    place,
                    origin,
                    skip=unreadable == "skip",
                    batch_size=batch_size,
                    progress=progress or _ignore,
                )
    store = EmbeddingStore.open(place, backbone=backbone)
    read_manifest(place).origin.check_source(origin.source_fingerprint, place)
    clear(place)
    if store.skipped and unreadable == "refuse":
        raise ValueError(
            f"{place} was made without {_some(store.skipped)}, which could not be read; pass "
            "unreadable='skip' to open it so, or delete the folder to embed anew."
        )
    if store.skipped:
        warnings.warn(
            f"{len(store.skipped)} of {len(source)} images could not be read and were left out: "
            f"{_some(store.skipped)}.",
            stacklevel=2,
        )
    return store


def _make_room(place: Path) -> None:
    if place.exists() and not (place.is_dir() and next(place.iterdir(), None) is None):
        raise ValueError(
            f"`folder` must be a store, an empty folder or a new one; {place} holds something else."
        )
    if place.exists():
        place.rmdir()  # a disk of its own, say, cannot be replaced: now is the time to say so


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _ignore(done: int, total: int) -> None:
    pass
