"""CIFAR-10 as PNG files with an image in each of ten thousand rows."""

import json
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from iai_tasks.images._image_file import import_pillow, reason
from iai_tasks.images.labelled_images import LabelledImages

_ROWS, _PIXELS, _CLASSES = 10_000, 32 * 32, 10
_LABEL = 16  # bytes that a label takes at most, white space included
_TRAIN = tuple(f"data_batch_{number}.png" for number in range(1, 6))
_TEST = ("test_batch.png",)


def has_cifar_png(root: Path) -> bool:
    """Whether a folder holds any of these files; if others are missing, reading reports them."""
    return any((root / name).is_file() for name in (*_TRAIN, *_TEST))


def read_cifar_png(root: Path) -> LabelledImages:
    """Reads data_batch_1.png to data_batch_5.png, test_batch.png, and the labels.

    Raises:
        FileNotFoundError: If a file is missing.
        ImportError: If Pillow is not installed.
        ValueError: If a file is damaged; the text names it.
    """
    return LabelledImages(
        train_images=torch.cat([_read_images(root / name) for name in _TRAIN]),
        train_labels=_read_labels(root / "train_lables.json", len(_TRAIN)),  # its name
        test_images=torch.cat([_read_images(root / name) for name in _TEST]),
        test_labels=_read_labels(root / "test_lables.json", len(_TEST)),
    )


def _read_images(file: Path) -> Float32[Tensor, "image pixel"]:
    pillow, _ = import_pillow()
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing beside the other files of CIFAR-10.")
    try:
        with pillow.open(file) as image:
            if image.size != (_PIXELS, _ROWS) or image.mode != "RGB":
                width, height = image.size
                raise ValueError(
                    f"it must have {_ROWS} rows of {_PIXELS} pixels (RGB); got {height} rows of "
                    f"{width} ({image.mode})."
                )
            numbers = np.array(image)
    except Exception as error:  # Pillow's decoders raise errors of many kinds
        raise ValueError(f"{file} cannot be read as images of CIFAR-10: {reason(error)}") from error
    return torch.from_numpy(numbers).flatten(1).float()


def _read_labels(file: Path, num_files: int) -> Int64[Tensor, " image"]:
    expected = (num_files * _ROWS,)
    try:
        if file.stat().st_size > _LABEL * expected[0] + _LABEL:
            raise ValueError(f"it is longer than {expected[0]} labels.")
        labels = np.asarray(json.loads(file.read_text()))
    except FileNotFoundError:
        raise
    except (OSError, RecursionError, ValueError) as error:
        raise ValueError(f"{file} cannot be read as labels of CIFAR-10: {reason(error)}") from error
    whole = labels.shape == expected and np.issubdtype(labels.dtype, np.integer)
    if not whole or labels.min() < 0 or labels.max() >= _CLASSES:
        raise ValueError(
            f"{file} cannot be read as labels of CIFAR-10: it must hold {expected[0]} whole "
            f"numbers from 0 to {_CLASSES - 1}."
        )
    return torch.from_numpy(labels.astype(np.int64))
