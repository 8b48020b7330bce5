"""Omniglot: characters of fifty alphabets, each drawn by twenty people."""

from os import PathLike
from pathlib import Path

from iai_tasks._torchvision import import_torchvision
from iai_tasks._validators import check_at_least
from iai_tasks.image_classes import ImageClasses
from iai_tasks.images._image_file import list_images, read_images

_FOLDER = "omniglot-py"
_PARTS = ("images_background", "images_evaluation")


def omniglot(root: str | PathLike[str], *, size: int = 28, download: bool = False) -> ImageClasses:
    """Reads the 1,623 characters of Omniglot, the 964 of the background set first.

    Alphabets are the groups. White ink on black, scaled from 105 x 105 pixels.

    Needs Pillow, `pip install "iai-tasks[images]"`, and torchvision for a download,
    `pip install "iai-tasks[vision]"`.

    Args:
        root: Folder that holds `omniglot-py/images_background/` and
            `omniglot-py/images_evaluation/`, as `torchvision.datasets.Omniglot` leaves it.
        size: Height and width of an image.
        download: Whether to download what is missing.

    Returns:
        The images, `image 1 size size` (uint8); names are "alphabet/character01".

    Raises:
        FileNotFoundError: If images are missing and `download` is False.
        ImportError: If Pillow is not installed, or torchvision where a download needs it.
        ValueError: If `size` is below 1, or an image cannot be read; the text names it.

    Source:
        Lake, Salakhutdinov, Tenenbaum, 2015, "Human-level concept learning through probabilistic
        program induction", Science 350.

    >>> characters = omniglot("data")  # doctest: +SKIP
    >>> characters.num_classes, characters.groups[0]  # doctest: +SKIP
    (1623, 'Alphabet_of_the_Magi')
    """
    check_at_least(1, size=size)
    classes: list[Path] = []
    for part in _PARTS:
        folder = Path(root) / _FOLDER / part
        characters = _characters(folder)
        if not characters and download:
            datasets = import_torchvision("datasets")
            datasets.Omniglot(root, background=part == _PARTS[0], download=True)
            characters = _characters(folder)
        if not characters:
            raise FileNotFoundError(
                f"{folder} holds no Omniglot. Pass `download=True`, or unpack {part}.zip from "
                f"github.com/brendenlake/omniglot, folder python, in {folder.parent}."
            )
        classes += characters
    files, labels = list_images(classes)
    return ImageClasses(
        images=255 - read_images(files, size=size, channels=1),
        labels=labels,
        class_names=[f"{one.parent.name}/{one.name}" for one in classes],
        groups=[one.parent.name for one in classes],
    )


def _characters(folder: Path) -> list[Path]:
    return sorted(one for one in folder.glob("*/*") if one.is_dir())
