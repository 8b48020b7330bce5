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

from iai_tasks._tensor_file import Kinds, load_tensors, save_tensors
from iai_tasks._validators import check_at_least
from iai_tasks.image_classes import ImageClasses
from iai_tasks.letters._font import (
    Font,
    font_files,
    installed_fonts,
    read_fonts,
    script_of,
)
from iai_tasks.letters._glyph_picture import LOOK, Pen, Picture, unit_vectors
from iai_tasks.letters._glyph_warp import warp

_FORMAT = 1  # raise it when the same fonts and settings give other images
_DRAWN: Kinds = {"codes": (torch.int64, 1), "images": (torch.uint8, 4)}  # what a cache holds
_MIN_LETTERS = 10  # of a script that is kept
_ALIKE = 0.96  # cosine of looks: in DejaVu Sans C and c have 0.966, Hebrew samekh and mem 0.948
_CHUNK = 16  # letters drawn at once


def glyphs(
    fonts: Iterable[str | PathLike[str]] | None = None,
    *,
    size: int = 28,
    images_per_class: int = 20,
    max_letters: int = 60,
    cache: str | PathLike[str] | None = None,
) -> ImageClasses:
    """Draws the letters of all scripts that the fonts have.

    Each letter is a class, and its script the group. Its images take turns among the fonts that
    have the letter. Each image is rotated, sheared, scaled, shifted and bent a little, its strokes
    made a little thicker or thinner, as a function of the letter and the image's number alone.
    White ink on black; a clean letter fits 20 pixels of 28, in the middle.

    Left out are marks, digits, letters that Unicode composes of others (with accents, ligatures),
    blank glyphs, placeholders, and scripts with fewer than 10 letters. So are letters that look
    like an earlier one when scaled alike: Greek and Cyrillic letters that Latin has, small letters
    that look like their capitals. A test letter of a split by script is then never a training
    letter by another name.

    Needs fontTools and Pillow: `pip install "iai-tasks[fonts]"`.

    Args:
        fonts: Font files, and folders that hold some. By default the folders of the operating
            system, and the DejaVu fonts if matplotlib is installed, so the letters depend on the
            machine.
        size: Height and width of an image.
        images_per_class: Images of every letter.
        max_letters: Letters of a script at most, the first ones by code point.
        cache: Folder to keep the images in. They are taken from there when the same fonts (by name,
            version and checksum) are drawn with the same settings. If None, nothing is written.

    Returns:
        The images, `image 1 size size` (uint8), class after class; names are the characters.

    Raises:
        ImportError: If fontTools or Pillow is not installed.
        ValueError: If a number is too small, a file is no font, or no script has 10 letters.

    Source:
        The shape of Lake, Salakhutdinov, Tenenbaum, 2015, "Human-level concept learning through
        probabilistic program induction" (Omniglot): alphabets, letters, 20 drawings of each.

    >>> letters = glyphs()  # doctest: +SKIP
    >>> letters.groups[0], letters.class_names[0], letters.image_shape  # doctest: +SKIP
    ('Latin', 'A', (1, 28, 28))
    """
    check_at_least(8, size=size)
    check_at_least(1, images_per_class=images_per_class)
    check_at_least(_MIN_LETTERS, max_letters=max_letters)
    paths = installed_fonts() if fonts is None else font_files(*fonts)
    read = read_fonts(paths, skip_broken=fonts is None)
    settings = (size, images_per_class, max_letters)
    if cache is None:
        drawn = _draw(read, *settings)
    else:
        file = Path(cache) / f"glyphs-{_key(read, settings)}.safetensors"
        kept = _kept(file, read, *settings)
        drawn = _draw(read, *settings) if kept is None else kept
        if kept is None:
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
    """A hash of all that the images depend on, this version of Unicode included."""
    letters = sorted(set().union(*(font.letters for font in fonts)))
    scripts = [(code, script_of(code)) for code in letters]
    key = json.dumps([_FORMAT, settings, [font.identity for font in fonts], scripts])
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def _kept(
    file: Path, fonts: list[Font], size: int, images_per_class: int, max_letters: int
) -> dict[str, Tensor] | None:
    """What an earlier call drew; None if there is no such file, or it is not what is drawn here."""
    try:
        drawn, _ = load_tensors(file, _DRAWN)
    except (FileNotFoundError, ValueError):
        return None
    codes = drawn["codes"].tolist()
    known = len(codes) > 0 and set(codes) <= set().union(*(font.letters for font in fonts))
    shape = (len(codes) * images_per_class, 1, size, size)
    fits = drawn["images"].shape == shape and len(set(codes)) == len(codes)
    return drawn if known and fits else None


def _draw(
    fonts: list[Font], size: int, images_per_class: int, max_letters: int
) -> dict[str, Tensor]:
    """The images and, in the same order, the code points of their classes."""
    fonts_of: dict[int, list[Font]] = defaultdict(list)
    for font in fonts:
        for code in font.letters:
            fonts_of[code].append(font)
    scripts: dict[str, list[int]] = defaultdict(list)
    for code in sorted(fonts_of):
        scripts[script_of(code)].append(code)
    pen, looker = Pen(2 * size), Pen(LOOK)
    codes: list[int] = []
    seen = torch.zeros(0, LOOK**2 // 4)
    for letters in scripts.values():
        kept, looks = _distinct(letters[: 4 * max_letters], fonts_of, looker, seen)
        if len(kept) >= _MIN_LETTERS:
            codes += kept[:max_letters]
            seen = torch.cat((seen, looks[:max_letters]))
    if not codes:
        raise ValueError(
            f"`fonts` must have a script of at least {_MIN_LETTERS} letters; the {len(fonts)} "
            "fonts that were read have none."
        )
    images = [
        _images(codes[start : start + _CHUNK], fonts_of, pen, size, images_per_class)
        for start in range(0, len(codes), _CHUNK)
    ]
    return {"codes": torch.tensor(codes), "images": torch.cat(images)}


def _distinct(
    letters: list[int], fonts_of: dict[int, list[Font]], pen: Pen, seen: Tensor
) -> tuple[list[int], Tensor]:
    """The letters that look neither like a seen one nor like an earlier one, and their looks."""
    # Half stretched to a square, for a small letter may be a narrower or flatter capital.
    drawn = [(code, pen.draw(fonts_of[code][0], code, exponent=0.5)) for code in letters]
    pictures = {code: picture for code, picture in drawn if picture is not None}
    if not pictures:
        return [], seen
    looks = unit_vectors(torch.from_numpy(np.stack(list(pictures.values()))))
    new = ~(looks @ seen.mT >= _ALIKE).any(dim=1)
    alike = (looks @ looks.mT >= _ALIKE).tril(diagonal=-1)
    kept: list[int] = []
    for row in new.nonzero()[:, 0].tolist():
        if not alike[row, kept].any():
            kept.append(row)
    codes = list(pictures)
    return [codes[row] for row in kept], looks[kept]


def _images(
    codes: list[int], fonts_of: dict[int, list[Font]], pen: Pen, size: int, images_per_class: int
) -> UInt8[Tensor, "image 1 size size"]:
    """The images of some classes, each a warped picture from one of the fonts in turn."""
    pictures: list[Picture] = []
    index: list[int] = []
    for code in codes:
        fonts, count = fonts_of[code], min(len(fonts_of[code]), images_per_class)
        spread = [fonts[i * len(fonts) // count] for i in range(count)]
        drawn = [picture for font in spread if (picture := pen.draw(font, code)) is not None]
        index += [len(pictures) + image % len(drawn) for image in range(images_per_class)]
        pictures += drawn
    number = torch.arange(images_per_class).repeat(len(codes))
    seeds = torch.tensor(codes).repeat_interleave(images_per_class)
    stacked = torch.from_numpy(np.stack(pictures))
    return warp(stacked, torch.tensor(index), seeds, number, size)[:, None]
