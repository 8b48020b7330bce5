"""Image files of any kind, read as bytes of one kind and size."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

_ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_MODE = {1: "L", 3: "RGB"}


def import_pillow() -> tuple[ModuleType, ModuleType]:
    """Returns the modules `PIL.Image` and `PIL.ImageOps`.

    Raises:
        ImportError: If Pillow is not installed.
    """
    try:
        from PIL import Image, ImageOps
    except ModuleNotFoundError as error:
        raise ImportError("Image files need Pillow: pip install 'iai-tasks[images]'.") from error
    return Image, ImageOps


def read_folders(
    folders: Sequence[Path], *, size: int, channels: int
) -> tuple[UInt8[Tensor, "image channels size size"], Int64[Tensor, " image"]]:
    """Reads the images in folders, cut to their middle square and scaled.

    Args:
        folders: One a class, with its images in it or in folders within; files that are no images
            by their ending are passed over, and so are files and folders whose name begins with a
            dot.
        size: Height and width of the result.
        channels: 1 for grey, 3 for red, green, blue.

    Returns:
        The images, folder after folder in the order of their paths, and the number of the folder
        of each.

    Raises:
        ImportError: If Pillow is not installed.
        ValueError: If a folder has no image, or a file cannot be read; the text names it.
    """
    import_pillow()
    files: list[Path] = []
    counts = []
    for folder in folders:
        inside = sorted(path for path in folder.rglob("*") if _is_image(path, folder))
        if not inside:
            raise ValueError(f"`root` must hold images of every class; {folder} holds none.")
        files += inside
        counts.append(len(inside))
    images = np.empty((len(files), size, size, channels), dtype=np.uint8)
    for image, file in zip(images, files, strict=True):
        try:
            image[:] = _read(file, size, _MODE[channels]).reshape(size, size, channels)
        except Exception as error:  # Pillow's decoders raise errors of many kinds
            raise ValueError(f"{file} cannot be read as an image: {error}") from error
    labels = torch.arange(len(folders)).repeat_interleave(torch.tensor(counts))
    return torch.from_numpy(images).movedim(3, 1).contiguous(), labels


def _is_image(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return path.suffix.lower() in _ENDINGS and not hidden


def _read(file: Path, size: int, mode: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    pillow, operations = import_pillow()
    with pillow.open(file) as opened:
        image = operations.exif_transpose(opened)
        if image.mode.startswith("I;16"):  # Pillow would cut 16 bits off at 255
            image = pillow.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        elif image.mode in ("I", "F"):
            raise ValueError(f"its numbers have 32 bits (mode {image.mode}), not 8 or 16.")
        if image.has_transparency_data:
            clear = image.convert("RGBA")
            image = pillow.new("RGBA", clear.size, "white")
            image.alpha_composite(clear)
        resampling = pillow.Resampling.LANCZOS
        return np.asarray(operations.fit(image.convert(mode), (size, size), method=resampling))
