"""Labelled images, read one at a time: from arrays, or from more files than memory holds."""

import functools
import hashlib
import json
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Protocol, runtime_checkable

import attrs
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from iai_tasks._image_file import class_folders, import_pillow, list_images, read_image


def _to_names(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(names)


@runtime_checkable
class ImageSource(Protocol):
    """Images in a fixed order, their classes and names. `len` is the number of images."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """What each class is called."""
        ...

    @property
    def labels(self) -> Int64[Tensor, " image"]:
        """The class of each image, on the CPU."""
        ...

    @property
    def fingerprint(self) -> str:
        """Another one as soon as an image, a label, a name or the order is another."""
        ...

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What an image is called in an error."""
        ...

    def read(self, index: int, size: int) -> UInt8[Tensor, "3 height width"]:
        """A square image for a network that sees `size` x `size` pixels; all have one shape.

        A source that scales no images gives them as large as they are.

        Raises:
            ValueError: If the image cannot be read; the text names it.
        """
        ...


@attrs.frozen(eq=False, kw_only=True)
class ImageArrays:
    """Images in memory as an `ImageSource`, which gives them as large as they are.

    Attributes:
        images: `image channel height width`, uint8, square, of one channel (grey) or three.
        labels: `image`, int64, on the CPU, the class of each image; every class has at least one.
        class_names: What each class is called.

    Raises:
        TypeError: If a dtype is wrong.
        ValueError: If the shapes disagree, a label has no name, or a class no image.

    >>> grey = ImageArrays(
    ...     images=torch.full((2, 1, 8, 8), 7, dtype=torch.uint8),
    ...     labels=torch.tensor([0, 1]),
    ...     class_names=("cat", "dog"),
    ... )
    >>> len(grey), grey.name(1), grey.read(1, size=4)[:, 0, 0]
    (2, 'image 1', tensor([7, 7, 7], dtype=torch.uint8))
    """

    images: UInt8[Tensor, "image channel height width"] = attrs.field(repr=False)
    labels: Int64[Tensor, " image"] = attrs.field(repr=False)
    class_names: tuple[str, ...] = attrs.field(converter=_to_names)

    def __attrs_post_init__(self) -> None:
        if self.images.dtype != torch.uint8:
            raise TypeError(f"`images` must be uint8; got {self.images.dtype}.")
        if self.labels.dtype != torch.int64:
            raise TypeError(f"`labels` must be int64; got {self.labels.dtype}.")
        shape = tuple(self.images.shape)
        if len(shape) != 4 or shape[1] not in (1, 3) or shape[2] != shape[3] or 0 in shape:
            raise ValueError(
                "`images` must have shape (image, 1 or 3, height, width), be square and hold at "
                f"least one number; got {shape}."
            )
        if tuple(self.labels.shape) != shape[:1]:
            raise ValueError(
                f"`labels` must have shape (image,) = ({shape[0]},), one for each image; "
                f"got {tuple(self.labels.shape)}."
            )
        missing = sorted(
            set(range(len(self.class_names))).symmetric_difference(self.labels.tolist())
        )
        if missing:
            raise ValueError(
                f"`labels` must be from 0 to {len(self.class_names) - 1}, the classes of "
                f"`class_names`, and use each; {missing[0]} is unused or has no name."
            )

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the images, labels and class names."""
        digest = _begin_digest("arrays", self.class_names)
        for tensor in (self.images, self.labels):
            digest.update(f"{tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        """The word image and the index."""
        return f"image {index}"

    def read(self, index: int, size: int) -> UInt8[Tensor, "3 height width"]:
        """The image as it is, whatever `size`; a grey one three times."""
        return self.images[index].expand(3, -1, -1)


@attrs.frozen(eq=False, kw_only=True)
class ImageFiles:
    """Image files as an `ImageSource`: what `image_files` found.

    Attributes:
        root: Folder that the files are in.
        files: Their paths from there, parts joined by "/".
        labels: `image`, int64, the class of each file.
        class_names: What each class is called.
    """

    root: Path
    files: tuple[str, ...] = attrs.field(converter=_to_names, repr=False)
    labels: Int64[Tensor, " image"] = attrs.field(repr=False)
    class_names: tuple[str, ...] = attrs.field(converter=_to_names)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the paths from `root`, the files' bytes, and the labels and class names.

        Every file is read when it is first asked for: a copy of the folder has the same one, and a
        file that was changed in place has not.
        """
        digest = _begin_digest("files", self.class_names, self.files)
        digest.update(self.labels.numpy().data)
        for file in self.files:
            try:
                with open(self.root / file, "rb") as opened:
                    digest.update(hashlib.file_digest(opened, "sha256").digest())
            except OSError:  # to be refused, or left out, when it is its turn
                digest.update(b"unreadable")
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        """The path of a file from `root`."""
        return self.files[index]

    def read(self, index: int, size: int) -> UInt8[Tensor, "3 size size"]:
        """Reads a file, as `image_folder` does: its middle square, scaled, in colour."""
        return read_image(self.root / self.files[index], size=size, channels=3)


def image_files(root: str | PathLike[str]) -> ImageFiles:
    """Lists the images in a folder that has a folder for each class; each is read when asked for.

    What counts as a class and as an image is said at `image_folder`, which holds all in memory.

    Needs Pillow: `pip install "iai-tasks[images]"`.

    Args:
        root: Folder of folders. The name of a folder names a class.

    Returns:
        The files, classes in the order of their names.

    Raises:
        ImportError: If Pillow is not installed.
        ValueError: If there is no class, or a class has no image; the text names it.

    >>> pets = image_files("pets")  # doctest: +SKIP
    >>> pets.class_names, len(pets), pets.name(0)  # doctest: +SKIP
    (('cat', 'dog'), 7349, 'cat/Abyssinian_1.jpg')
    """
    import_pillow()
    folder = Path(root)
    classes = class_folders(folder)
    files, labels = list_images(classes)
    return ImageFiles(
        root=folder,
        files=[file.relative_to(folder).as_posix() for file in files],
        labels=labels,
        class_names=[one.name for one in classes],
    )


def _begin_digest(*words: str | tuple[str, ...]) -> "hashlib._Hash":
    return hashlib.sha256(json.dumps(words).encode("ascii"))
