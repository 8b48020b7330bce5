"""Pictures of letters as fonts draw them, and how much two of them look alike."""

from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from iai_tasks._extra import extra
from iai_tasks.letters._font import Font

_LARGEST = 64  # sides of a box, each half a letter of common size; a forged font has larger ones
LOOK = 56  # side of the pictures that `unit_vectors` takes

Picture = np.ndarray[Any, np.dtype[np.uint8]]


class Pen:
    """Draws letters, each as large as fits into a square box.

    Args:
        size: Side of the boxes.

    Raises:
        ImportError: If Pillow is not installed.
    """

    def __init__(self, size: int) -> None:
        with extra("fonts"):
            from PIL import Image, ImageDraw, ImageFont
        self._image, self._draw, self._font = Image, ImageDraw, ImageFont
        self._size = size
        self._open = lru_cache(64)(self._open_font)  # keeps up to 64 files open

    def draw(self, font: Font, code: int, *, exponent: float = 1.0) -> Picture | None:
        """The letter's picture, scaled to fit the box; None if it is blank or a placeholder.

        Args:
            font: A font that has the letter.
            code: The letter's code point.
            exponent: The power that the ratio of the picture's height to its width is raised to: 1
                keeps the ratio, 0.5 stretches narrow and flat letters half way to a square.

        Returns:
            `size size`, uint8, ink 255.

        Raises:
            ValueError: If the font's drawings are damaged.
        """
        try:
            opened, box = self._open(font)
            ink = self._ink(opened, chr(code))
        except Exception as error:  # FreeType's errors, and those that Pillow makes of them
            raise ValueError(
                f"`fonts` must be font files; {font.path} cannot be drawn with."
            ) from error
        if ink is None or ink.tobytes() == box:
            return None
        longer = max(ink.size)
        width, height = (
            max(1, round(self._size * (side / longer) ** exponent)) for side in ink.size
        )
        scaled = np.asarray(ink.resize((width, height), self._image.Resampling.BILINEAR))
        picture = np.zeros((self._size, self._size), dtype=np.uint8)
        top, left = (self._size - height) // 2, (self._size - width) // 2
        picture[top : top + height, left : left + width] = scaled
        return picture

    def _open_font(self, font: Font) -> tuple[Any, bytes | None]:
        """The font, and its picture for a character that no font has: its placeholder."""
        opened = self._font.truetype(
            font.path, 2 * self._size, layout_engine=self._font.Layout.BASIC
        )
        missing = self._ink(opened, "\uffff")
        return opened, None if missing is None else missing.tobytes()

    def _ink(self, opened: Any, character: str) -> Any:
        left, top, right, bottom = opened.getbbox(character)
        if max(right - left, bottom - top) > _LARGEST * self._size:
            raise ValueError("a letter is larger than any")
        canvas = self._image.new("L", (max(1, right - left), max(1, bottom - top)))
        self._draw.Draw(canvas).text((-left, -top), character, fill=255, font=opened)
        inked = canvas.getbbox()
        return None if inked is None else canvas.crop(inked)


def unit_vectors(looks: UInt8[Tensor, "letter 56 56"]) -> Float[Tensor, "letter pixel"]:
    """Blurred pictures as unit vectors: the cosine of two says how much the letters look alike."""
    blurred = F.avg_pool2d(looks[:, None].float(), 2)
    for _ in range(3):  # nearly a Gaussian with a deviation of 1.4 of the 28 pixels
        blurred = F.avg_pool2d(blurred, 3, stride=1, padding=1)
    return F.normalize(blurred.flatten(1), dim=1)
