"""Image files of any format, read as bytes, all of one size."""

import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from iai_tasks._extra import extra

_ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_MODE = {1: "L", 3: "RGB"}
_TRANSIENT = (errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT)


def import_pillow() -> tuple[ModuleType, ModuleType]:
    """Returns the modules `PIL.Image` and `PIL.ImageOps`.

    Raises:
        ImportError: If Pillow is not installed.
    """
    with extra("images"):
        from PIL import Image, ImageOps
    return Image, ImageOps


def list_images(folders: Sequence[Path]) -> tuple[list[Path], Int64[Tensor, " image"]]:
    """The image files in folders.

    Args:
        folders: A folder for each class, with its images in it or in folders within. Files without
            the ending of an image, and files and folders whose name begins with a dot, are ignored.

    Returns:
        The files, folder after folder in the order of their paths, and the index of each file's
        folder.

    Raises:
        ValueError: If a folder has no image; the text names it.
    """
    files: list[Path] = []
    counts = []
    for folder in folders:
        inside = sorted(_images_in(folder))
        if not inside:
            endings = ", ".join(_ENDINGS)
            raise ValueError(
                f"`root` must hold images of every class; {folder} holds none that ends with "
                f"{endings}."
            )
        files += inside
        counts.append(len(inside))
    return files, torch.arange(len(folders)).repeat_interleave(torch.tensor(counts))


def read_images(
    files: Sequence[Path], *, size: int, channels: int
) -> UInt8[Tensor, "image channels size size"]:
    """Reads files, each as `read_image` does."""
    images = torch.empty(len(files), channels, size, size, dtype=torch.uint8)
    for image, file in zip(images, files, strict=True):
        image.copy_(read_image(file, size=size, channels=channels))
    return images


def read_image(file: Path, *, size: int, channels: int) -> UInt8[Tensor, "channels size size"]:
    """Reads an image, rotated as its camera noted, cropped to its middle square and scaled.

    Args:
        file: An image of any format that Pillow reads; what is transparent becomes white.
        size: Height and width of the result.
        channels: 1 for grey, 3 for red, green, blue.

    Raises:
        ImportError: If Pillow is not installed.
        OSError: If reading fails for a reason that may pass, such as too many open files.
        ValueError: If the file cannot be read; the text names it.
    """
    import_pillow()
    try:
        numbers = _read(file, size, _MODE[channels])
    except Exception as error:  # Pillow's decoders raise errors of many kinds
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in _TRANSIENT:
            raise
        raise ValueError(f"{file} cannot be read as an image: {reason(error)}") from error
    return torch.from_numpy(numbers.reshape(size, size, channels)).movedim(2, 0).contiguous()


def reason(error: Exception) -> str:
    """What a decoder says, as the end of a sentence of ours."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:300].rstrip(".") + "."


def _images_in(folder: Path) -> Iterator[Path]:
    """Image files in a folder and the folders within, also behind links, each folder once."""
    entered = set()
    for path, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        real = os.path.realpath(path)
        if real in entered:  # a link that leads back
            folders.clear()
            continue
        entered.add(real)
        for name in files:
            if name.lower().endswith(_ENDINGS) and not name.startswith("."):
                yield Path(path, name)


def _read(file: Path, size: int, mode: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    pillow, operations = import_pillow()
    with pillow.open(file) as opened:
        image = operations.exif_transpose(opened)
        wide = image.mode == "I" and opened.format == "PPM"  # 16 bits that Pillow keeps in 32
        if image.mode.startswith("I;16") or wide:  # Pillow would clip them at 255
            image = pillow.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        elif image.mode in ("I", "F"):
            raise ValueError(f"its numbers are of 32 bits (mode {image.mode}), not of 8 or 16.")
        if image.has_transparency_data:
            clear = image.convert("RGBA")
            image = pillow.new("RGBA", clear.size, "white")
            image.alpha_composite(clear)
        resampling = pillow.Resampling.LANCZOS
        return np.array(operations.fit(image.convert(mode), (size, size), method=resampling))
