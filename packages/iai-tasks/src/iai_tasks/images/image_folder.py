"""Images in folders, a class each."""

from os import PathLike
from pathlib import Path

from iai_tasks._image_file import class_folders, read_folders
from iai_tasks.image_classes import ImageClasses


def image_folder(root: str | PathLike[str], *, size: int, channels: int = 3) -> ImageClasses:
    """Reads a folder that has a folder of images for each class, as `torchvision`'s ImageFolder.

    Each image is turned as its camera noted, cut to its middle square, scaled, and turned grey or
    coloured as asked; what is transparent becomes white. Folders within a class's folder are
    looked into, links as well. Files are images that end with .bmp, .gif, .jpeg, .jpg, .pgm, .png,
    .ppm, .tif, .tiff or .webp; others are passed over. All are held in memory, a byte a number.

    Needs Pillow: `pip install "iai-tasks[images]"`.

    Args:
        root: Folder of folders. The name of a folder names a class; those with a dot in front and
            files beside them are passed over.
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
    if size < 1:
        raise ValueError(f"`size` must be at least 1; got {size}.")
    if channels not in (1, 3):
        raise ValueError(f"`channels` must be 1 or 3; got {channels}.")
    classes = class_folders(Path(root))
    images, labels = read_folders(classes, size=size, channels=channels)
    return ImageClasses(images=images, labels=labels, class_names=[one.name for one in classes])
