"""Letters of many scripts, drawn from fonts: many classes, few images of each, no download."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from iai_tasks._tensor_file import load_tensors, save_tensors
from iai_tasks.image_classes import ImageClasses
from iai_tasks.letters._font import (
    Font,
    font_files,
    import_font_tools,
    installed_fonts,
    read_fonts,
    script_of,
)
from iai_tasks.letters._glyph_picture import LOOK, Pen, Picture, unit_vectors
from iai_tasks.letters._glyph_warp import warp

_FORMAT = 1  # to be raised when the same fonts and settings give other images
_ALIKE = 0.96  # cosine of looks: in DejaVu Sans C and c have 0.966, Hebrew samekh and mem 0.948
_CHUNK = 16  # letters drawn at once


def glyphs(
    fonts: Iterable[str | PathLike[str]] | None = None,
    *,
    size: int = 28,
    images_per_class: int = 20,
    min_letters: int = 10,
    max_letters: int = 60,
    cache: str | PathLike[str] | None = None,
) -> ImageClasses:
    """Draws the letters of all scripts that the fonts have.

    One letter is a class and its script the group. Its images take turns among the fonts and
    styles that have the letter; each is turned, sheared, scaled, shifted and bent a little, with
    strokes a little thicker or thinner, as a function of the letter and the number of the image
    alone. White ink on black, scaled so that the clean letter fits 20 pixels of 28, centred.

    Left out are marks, digits, letters that Unicode composes of others (with accents, ligatures),
    empty glyphs and placeholders, and letters that look like an earlier one when scaled alike: the
    Greek and Cyrillic ones that Latin has, small ones that are their capitals. So no test letter
    of a split by script is a training letter by another name.

    Needs fontTools and Pillow: `pip install "iai-tasks[fonts]"`.

    Args:
        fonts: Font files, and folders that hold some. By default the folders of the operating
            system, and the DejaVu fonts if matplotlib is installed; which letters there are then
            depends on the machine.
        size: Height and width of an image.
        images_per_class: Images of every letter.
        min_letters: Scripts with fewer letters left are left out.
        max_letters: Letters of a script at most, the first ones by code point.
        cache: Folder to keep the images in, and to take them from when the same fonts (by name,
            version and checksum) are drawn with the same settings. Nothing is written if None.

    Returns:
        The images, `image 1 size size` (uint8), class after class; names are the characters.

    Raises:
        ImportError: If fontTools or Pillow is not installed.
        ValueError: If a number is too small, a file is no font, or the fonts have no script of
            `min_letters` letters.

    Source:
        The shape of Lake, Salakhutdinov, Tenenbaum, 2015, "Human-level concept learning through
        probabilistic program induction" (Omniglot): alphabets, letters, 20 drawings of each.

    >>> letters = glyphs()  # doctest: +SKIP
    >>> letters.groups[0], letters.class_names[0], letters.image_shape  # doctest: +SKIP
    ('Latin', 'A', (1, 28, 28))
    """
    numbers = {"size": size, "images_per_class": images_per_class, "min_letters": min_letters}
    for name, value in (*numbers.items(), ("max_letters", max_letters)):
        least = min_letters if name == "max_letters" else 8 if name == "size" else 1
        if value < least:
            raise ValueError(f"`{name}` must be at least {least}; got {value}.")
    import_font_tools()
    if fonts is None:
        found = read_fonts(installed_fonts(), skip_broken=True)
    else:
        found = read_fonts(font_files(*fonts), skip_broken=False)
    settings = (size, images_per_class, min_letters, max_letters)
    if cache is None:
        drawn = _draw(found, *settings)
    else:
        file = Path(cache) / f"glyphs-{_key(found, settings)}.safetensors"
        try:
            drawn, _ = load_tensors(file)
        except (FileNotFoundError, ValueError):
            drawn = _draw(found, *settings)
            file.parent.mkdir(parents=True, exist_ok=True)
            save_tensors(file, drawn, {})
    codes = drawn["codes"].tolist()
    return ImageClasses(
        images=drawn["images"],
        labels=torch.arange(len(codes)).repeat_interleave(images_per_class),
        class_names=[chr(code) for code in codes],
        groups=[script_of(code) for code in codes],
    )


def _key(fonts: list[Font], settings: tuple[int, ...]) -> str:
    """Of all that the images follow from, this version of Unicode included."""
    letters = sorted(set().union(*(font.letters for font in fonts)))
    scripts = [(code, script_of(code)) for code in letters]
    key = json.dumps([_FORMAT, settings, [font.identity for font in fonts], scripts])
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def _draw(
    fonts: list[Font], size: int, images_per_class: int, min_letters: int, max_letters: int
) -> dict[str, Tensor]:
    """The images and, in the same order, the code points of their classes."""
    fonts_of: dict[int, list[Font]] = defaultdict(list)
    for font in fonts:
        for code in font.letters:
            fonts_of[code].append(font)
    pen, looker = Pen(2 * size), Pen(LOOK)
    codes: list[int] = []
    seen = torch.zeros(0, LOOK**2 // 4)
    for letters in _scripts(fonts_of):
        own, looks_of_own = _distinct(letters[: 4 * max_letters], fonts_of, looker, seen)
        if len(own) >= min_letters:
            codes += own[:max_letters]
            seen = torch.cat((seen, looks_of_own[:max_letters]))
    if not codes:
        raise ValueError(
            f"`fonts` must have a script of at least {min_letters} letters; the {len(fonts)} fonts "
            "found have none."
        )
    images = [
        _images(codes[start : start + _CHUNK], fonts_of, pen, size, images_per_class)
        for start in range(0, len(codes), _CHUNK)
    ]
    return {"codes": torch.tensor(codes), "images": torch.cat(images)}


def _scripts(codes: Iterable[int]) -> list[list[int]]:
    """The letters of each script, everything in the order of code points."""
    scripts: dict[str, list[int]] = defaultdict(list)
    for code in sorted(codes):
        scripts[script_of(code)].append(code)
    return list(scripts.values())


def _distinct(
    letters: list[int], fonts_of: dict[int, list[Font]], pen: Pen, seen: Tensor
) -> tuple[list[int], Tensor]:
    """The letters that look neither like an earlier one nor like what was seen, and their looks."""
    drawn = [(code, pen.look(fonts_of[code][0], code)) for code in letters]
    looks = {code: look for code, look in drawn if look is not None}
    if not looks:
        return [], seen
    found = unit_vectors(torch.from_numpy(np.stack(list(looks.values()))))
    new = ~(found @ seen.mT >= _ALIKE).any(dim=1)
    alike = (found @ found.mT >= _ALIKE).tril(diagonal=-1)
    kept: list[int] = []
    for row in new.nonzero()[:, 0].tolist():
        if not alike[row, kept].any():
            kept.append(row)
    codes = list(looks)
    return [codes[row] for row in kept], found[kept]


def _images(
    codes: list[int],
    fonts_of: dict[int, list[Font]],
    pen: Pen,
    size: int,
    images_per_class: int,
) -> UInt8[Tensor, "image 1 size size"]:
    """The images of some classes, each a warped picture from one of the fonts in turn."""
    pictures: list[Picture] = []
    index: list[int] = []
    for code in codes:
        count = min(len(fonts_of[code]), images_per_class)
        spread = [fonts_of[code][i * len(fonts_of[code]) // count] for i in range(count)]
        drawn = [picture for font in spread if (picture := pen.draw(font, code)) is not None]
        index += [len(pictures) + image % len(drawn) for image in range(images_per_class)]
        pictures += drawn
    number = torch.arange(images_per_class).repeat(len(codes))
    seeds = torch.tensor(codes).repeat_interleave(images_per_class)
    stacked = torch.from_numpy(np.stack(pictures))
    return warp(stacked, torch.tensor(index), seeds, number, size)[:, None]
