"""Embeddings of images by a frozen backbone: made once, kept in a folder, mapped to memory."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import attrs
from filelock import FileLock
from jaxtyping import Float32, Int64
from torch import Tensor

from iai_tasks._listing import listed
from iai_tasks.embeddings._embedding_build import STORE, Build, Origin, read_store, remove_shards
from iai_tasks.interfaces import Embedder, ImageSource

_LOCK = ".lock"


def _words(found: Any) -> Any:
    """A list of JSON as a tuple; anything else as it is, for the validator to refuse."""
    return tuple(found) if isinstance(found, list) else found


def _names(_: Any, attribute: "attrs.Attribute[Any]", value: Any) -> None:
    if not isinstance(value, tuple) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"`{attribute.name}` must be a tuple of words.")


@attrs.frozen(eq=False, kw_only=True)
class EmbeddingStore:
    """Embeddings of images, and the classes of the images; `embed` makes a store.

    Attributes:
        embeddings: `image dim`, float32, mapped to memory: read from the disk when they are used,
            by any number of processes, so they may be larger than memory. What is written to them
            stays in this process.
        labels: `image`, int64, the class of each image.
        class_names: What each class is called.
        backbone: Name of the network.
        backbone_fingerprint: Fingerprint of the network.
        source_fingerprint: Fingerprint of the images.
        skipped: Names of the images that could not be read and have no embedding.

    Raises:
        ValueError: If the shapes disagree, a label has no name, a class no image, or a name is no
            text.
    """

    embeddings: Float32[Tensor, "image dim"] = attrs.field(repr=False)
    labels: Int64[Tensor, " image"] = attrs.field(repr=False)
    class_names: tuple[str, ...] = attrs.field(validator=_names)
    backbone: str
    backbone_fingerprint: str
    source_fingerprint: str
    skipped: tuple[str, ...] = attrs.field(validator=_names)

    def __attrs_post_init__(self) -> None:
        if self.embeddings.ndim != 2 or self.embeddings.numel() == 0:
            raise ValueError(
                "`embeddings` must have shape (image, dim) and hold at least one number; got "
                f"{tuple(self.embeddings.shape)}."
            )
        if self.labels.shape != self.embeddings.shape[:1]:
            raise ValueError(
                f"`labels` must be one for each of {len(self.embeddings)} embeddings; got "
                f"{tuple(self.labels.shape)}."
            )
        num_classes, (first, last) = len(self.class_names), self.labels.aminmax()
        within = int(first) >= 0 and int(last) < num_classes
        if not within or not bool(self.labels.bincount(minlength=num_classes).all()):
            raise ValueError(
                f"`labels` must be from 0 to {num_classes - 1}, the classes of `class_names`, and "
                f"use each; got {int(first)} to {int(last)}."
            )

    @classmethod
    def open(
        cls, folder: str | PathLike[str], *, backbone: Embedder | None = None
    ) -> "EmbeddingStore":
        """Opens a finished store and compares it with its checksum. Takes no lock.

        Args:
            folder: What was given to `embed`.
            backbone: If given, it must be the one that the store was made with.

        Raises:
            FileNotFoundError: If there is no store, or it is not finished.
            OSError: If the store cannot be read.
            ValueError: If the store is damaged, its format is unknown, its numbers are not finite,
                its labels are not those of its classes, or the backbone is another.
        """
        folder = Path(folder)
        if not (folder / STORE).is_file():
            raise FileNotFoundError(
                f"`folder` must be a finished store; {folder} has no {STORE}. Call `embed`, which "
                "builds the store, or goes on from where an earlier call stopped."
            )
        tensors, origin, record = read_store(folder / STORE)
        if backbone is not None:
            given = attrs.evolve(
                origin, backbone=backbone.name, backbone_fingerprint=backbone.fingerprint
            )
            origin.check(given, folder)
        try:
            return cls(
                embeddings=tensors["embeddings"],
                labels=tensors["labels"],
                class_names=_words(record.get("class_names")),
                skipped=_words(record.get("skipped")),
                **attrs.asdict(origin),
            )
        except ValueError as error:
            raise ValueError(
                f"{folder / STORE} is no store that `embed` made: {error} Delete it to have it "
                "made anew."
            ) from error


def embed(
    source: ImageSource,
    backbone: Embedder,
    folder: str | PathLike[str],
    *,
    unreadable: Literal["refuse", "skip"] = "refuse",
    progress: Callable[[int, int], None] | None = None,
) -> EmbeddingStore:
    """Embeds every image once, and keeps the embeddings in a folder.

    If the folder is a finished store of these images and this backbone, it is opened. Otherwise the
    store is built in the sub-folder `.shards`, in one file for every 64 images. If the process is
    stopped, even killed, at most 64 embeddings are lost: the next call continues from the files
    that are there. At the end the files are joined to one, whose bytes do not depend on
    interruptions, and removed; joining them needs three times the store's size on the disk. Of
    two processes that build the same store, one waits for the other.

    Args:
        source: The images. Their fingerprint is taken first, which reads every file once.
        backbone: The network.
        folder: Where to keep the store: a new folder, an empty one, or one of an earlier call.
        unreadable: Whether an image that cannot be read stops the work ("refuse") or is left out
            with a warning ("skip").
        progress: Called with the number of images that are done and the number of all, before every
            64 images and at the end.

    Raises:
        OSError: If a file cannot be written. Earlier files stay.
        ValueError: If `unreadable` is another word; the folder holds other files (hidden files may
            be there, and stay), or was made from other images or with another backbone; an image
            cannot be read or its embedding is not finite, and the text names the image; a class has
            no image that can be read; or the store is damaged.

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
        with _locked(folder):
            if not (folder / STORE).exists():
                build = Build(source, backbone, folder, origin, skip=unreadable == "skip")
                build.run(progress or (lambda done, total: None))
    store = EmbeddingStore.open(folder)
    made_from = Origin(store.backbone, store.backbone_fingerprint, store.source_fingerprint)
    made_from.check(origin, folder)
    remove_shards(folder)
    if store.skipped and unreadable == "refuse":
        raise ValueError(
            f"{folder} was made without {listed(store.skipped)}, which could not be read; pass "
            "unreadable='skip' to open it anyway, or delete the folder to embed anew."
        )
    if store.skipped:
        warnings.warn(
            f"{len(store.skipped)} of {len(source)} images could not be read and were left out: "
            f"{listed(store.skipped)}.",
            stacklevel=2,
        )
    return store


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Waits for the lock of the folder, which is never opened through a link."""
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire()
    except OSError as error:
        raise OSError(
            error.errno, f"`{folder / _LOCK}` could not be locked: {error.strerror}."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _make_folder(folder: Path) -> None:
    """Makes the folder, unless it holds other files; another process may finish the store here."""
    if folder.exists():
        inside = folder.iterdir() if folder.is_dir() else [folder]
        others = [one.name for one in inside if one.name[0] != "." and one.name != STORE]
        if others:
            raise ValueError(
                f"`folder` must be a store, an empty folder or a new one; {folder} holds "
                f"{min(others)}. If an earlier version of iai-tasks made it, delete it to embed "
                "anew."
            )
    folder.mkdir(parents=True, exist_ok=True)
