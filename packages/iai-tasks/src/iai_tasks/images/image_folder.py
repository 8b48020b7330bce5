"""Images in folders, a folder for each class: listed and read one at a time, or all in memory."""

import functools
import hashlib
import json
from os import PathLike
from pathlib import Path

import attrs
from jaxtyping import Int64, UInt8
from torch import Tensor

from iai_tasks._validators import check_at_least
from iai_tasks.image_classes import ImageClasses
from iai_tasks.images._image_file import import_pillow, list_images, read_image, read_images


@attrs.frozen(eq=False, kw_only=True)
class ImageFiles:
    """Image files as an `ImageSource`: what `image_files` lists.

    Attributes:
        root: Folder that holds the files.
        files: Their paths from there, parts joined by "/".
        labels: `image`, int64, the class of each file.
        class_names: What each class is called.
    """

    root: Path
    files: tuple[str, ...] = attrs.field(converter=tuple[str, ...], repr=False)
    labels: Int64[Tensor, " image"] = attrs.field(repr=False)
    class_names: tuple[str, ...] = attrs.field(converter=tuple[str, ...])

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the paths from `root`, the files' bytes, the labels and the class names.

        Every file is read when this is first asked for. A copy of the folder has the same
        fingerprint; a folder in which a file was changed has another.
        """
        digest = hashlib.sha256(json.dumps([self.class_names, self.files]).encode("ascii"))
        digest.update(self.labels.numpy().data)
        for file in self.files:
            try:
                with open(self.root / file, "rb") as opened:
                    digest.update(hashlib.file_digest(opened, "sha256").digest())
            except OSError:  # `read` reports it
                digest.update(b"unreadable")
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        """The path of a file from `root`."""
        return self.files[index]

    def read(self, index: int, size: int) -> UInt8[Tensor, "3 size size"]:
        """Reads a file as `image_folder` does: its middle square, scaled, in colour."""
        return read_image(self.root / self.files[index], size=size, channels=3)


def image_files(root: str | PathLike[str]) -> ImageFiles:
    """Lists the images in a folder that has a folder for each class, and reads none.

    `image_folder`, which holds all images in memory, says what counts as a class and as an image.

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
    if not folder.is_dir():
        raise ValueError(f"`root` must be a folder; there is none at {root}.")
    classes = [one for one in folder.iterdir() if one.is_dir() and not one.name.startswith(".")]
    classes.sort()
    if not classes:
        raise ValueError(f"`root` must hold a folder for each class; {root} holds none.")
    files, labels = list_images(classes)
    return ImageFiles(
        root=folder,
        files=[file.relative_to(folder).as_posix() for file in files],
        labels=labels,
        class_names=[one.name for one in classes],
    )


def image_folder(root: str | PathLike[str], *, size: int, channels: int = 3) -> ImageClasses:
    """Reads a folder that has a folder of images for each class, as `torchvision`'s ImageFolder.

    Each image is rotated as its camera noted, cropped to its middle square, scaled, and converted
    to grey or colour; what is transparent becomes white. Folders inside a class's folder are
    searched too, also through links. Images are the files that end with .bmp, .gif, .jpeg, .jpg,
    .pgm, .png, .ppm, .tif, .tiff or .webp; other files are ignored. All images are held in memory,
    a byte for each number.

    Needs Pillow: `pip install "iai-tasks[images]"`.

    Args:
        root: Folder of folders. The name of a folder names a class; folders whose name begins with
            a dot, and files beside the folders, are ignored.
        size: Height and width of an image.
        channels: 3 for red, green and blue, 1 for grey.

    Returns:
        The images, `image channels size size` (uint8), classes in the order of their names.

    Raises:
        ImportError: If Pillow is not installed.
        ValueError: If a number is wrong, there is no class, a class has no image, or an image
            cannot be read; the text names it.

    >>> pets = image_folder("pets", size=84)  # doctest: +SKIP
    >>> pets.class_names, pets.image_shape  # doctest: +SKIP
    (('cat', 'dog'), (3, 84, 84))
    """
    check_at_least(1, size=size)
    if channels not in (1, 3):
        raise ValueError(f"`channels` must be 1 or 3; got {channels}.")
    listed = image_files(root)
    files = [listed.root / file for file in listed.files]
    images = read_images(files, size=size, channels=channels)
    return ImageClasses(images=images, labels=listed.labels, class_names=listed.class_names)
