"""Embeddings of many images by a frozen backbone: made once, kept in a folder, mapped to memory."""

import warnings
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Literal

import attrs
from filelock import FileLock
from jaxtyping import Float32, Int64
from torch import Tensor

from iai_tasks._listing import listed
from iai_tasks.embeddings._embedding_build import SHARDS, STORE, Build, Origin, read, remove_shards
from iai_tasks.interfaces import Embedder, ImageSource

_LOCK = ".lock"


@attrs.frozen(eq=False, kw_only=True)
class EmbeddingStore:
    """Embeddings of images and their classes: what `embed` made, and `open` opens.

    Attributes:
        embeddings: `image dim`, float32, mapped to memory: they are read from the disk as they are
            needed, by any number of processes, and may be larger than memory. What is written to
            them stays in this process.
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
        """Opens a finished store, after comparing it with its checksum. Needs no lock.

        Args:
            folder: What was given to `embed`.
            backbone: If given, it must be the one that the store was made with.

        Raises:
            FileNotFoundError: If there is no store, or it is not finished.
            ValueError: If the store is damaged, its format is unknown, or the backbone is another.
        """
        folder = Path(folder)
        _check_format(folder)
        if not (folder / STORE).is_file():
            if (folder / _LOCK).exists() or any(folder.glob(SHARDS)):
                raise FileNotFoundError(
                    f"`folder` must be a finished store; {folder} is not finished. Unless another "
                    "process is building it, call `embed` as before to go on from where it stopped."
                )
            raise FileNotFoundError(
                f"`folder` must be a store that `embed` made; {folder} has no {STORE}."
            )
        tensors, origin, record = read(folder / STORE)
        if backbone is not None:
            given = attrs.evolve(
                origin, backbone=backbone.name, backbone_fingerprint=backbone.fingerprint
            )
            origin.check(given, folder)
        return cls(
            embeddings=tensors["embeddings"],
            labels=tensors["labels"],
            class_names=tuple(record["class_names"]),
            skipped=tuple(record["skipped"]),
            **attrs.asdict(origin),
        )


def embed(
    source: ImageSource,
    backbone: Embedder,
    folder: str | PathLike[str],
    *,
    unreadable: Literal["refuse", "skip"] = "refuse",
    progress: Callable[[int, int], None] | None = None,
) -> EmbeddingStore:
    """Embeds every image once, and keeps the embeddings in a folder.

    A store of these images and this backbone is opened. Otherwise one is built, a file for every 64
    images. A process that is stopped, even killed, loses at most 64 embeddings; the next call goes
    on from the files that are there. At the end they become one file, the same byte for byte
    however often the process was stopped. Of two processes that build one store, one waits.

    Args:
        source: The images. Their fingerprint is taken first, which reads every file once.
        backbone: The network.
        folder: Where to keep the store: a new folder, an empty one, or one of an earlier call.
        unreadable: Whether an image that cannot be read stops the work ("refuse") or is left out
            with a warning ("skip").
        progress: Called before every 64 images, and at the end, with the numbers of images that are
            done and of all.

    Raises:
        OSError: If a file cannot be written. What was written before stays.
        ValueError: If `unreadable` is another word; the folder holds other files, or was made from
            other images or by another backbone; an image cannot be read, or its embedding is not
            finite, and the text names it; no image of a class is left; or the store is damaged.

    >>> import tempfile, torch
    >>> from iai_tasks import Backbone, ImageClasses
    >>> images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 8, 8)
    >>> photos = ImageClasses(
    ...     images=images, labels=torch.tensor([0, 1, 1]), class_names=("night", "day")
    ... )
    >>> pooled = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    >>> colour = Backbone(name="colour", module=pooled, size=8, mean=(0, 0, 0), std=(1, 1, 1))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = embed(photos, colour, f"{folder}/photos")
    >>> store.embeddings[:, 0], store.labels
    (tensor([0.0000, 0.2000, 1.0000]), tensor([0, 1, 1]))
    """
    if unreadable not in ("refuse", "skip"):
        raise ValueError(f"`unreadable` must be 'refuse' or 'skip'; got {unreadable!r}.")
    if not len(source):
        raise ValueError("`source` must have an image; it has none.")
    folder = Path(folder)
    origin = Origin(backbone.name, backbone.fingerprint, source.fingerprint)
    if not (folder / STORE).exists():
        _make_folder(folder)
        with FileLock(folder / _LOCK):
            if not (folder / STORE).exists():
                skip = unreadable == "skip"
                build = Build(
                    source=source, backbone=backbone, folder=folder, origin=origin, skip=skip
                )
                build.run(progress or (lambda done, total: None))
    store = EmbeddingStore.open(folder)
    made_from = Origin(store.backbone, store.backbone_fingerprint, store.source_fingerprint)
    made_from.check(origin, folder)
    remove_shards(folder)
    if store.skipped and unreadable == "refuse":
        raise ValueError(
            f"{folder} was made without {listed(store.skipped)}, which could not be read; pass "
            "unreadable='skip' to open it so, or delete the folder to embed anew."
        )
    if store.skipped:
        warnings.warn(
            f"{len(store.skipped)} of {len(source)} images could not be read and were left out: "
            f"{listed(store.skipped)}.",
            stacklevel=2,
        )
    return store


def _make_folder(folder: Path) -> None:
    """Makes the folder, unless it holds files that are not of an unfinished store."""
    _check_format(folder)
    if folder.exists():
        inside = folder.iterdir() if folder.is_dir() else [folder]
        others = [one.name for one in inside if not (one.name[0] == "." or one.match(SHARDS))]
        if others:
            raise ValueError(
                f"`folder` must be a store, an empty folder or a new one; {folder} holds "
                f"{others[0]}."
            )
    folder.mkdir(parents=True, exist_ok=True)


def _check_format(folder: Path) -> None:
    if (folder / "embeddings.npy").exists():
        raise ValueError(
            f"`folder` must be of this version of iai-tasks; an earlier one made {folder}. Delete "
            "it to embed anew."
        )
