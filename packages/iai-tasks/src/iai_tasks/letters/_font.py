"""Finds fonts, and the letters that each can draw."""

import importlib.util
import os
import sys
from collections import Counter
from collections.abc import Iterable
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any

import attrs

_ENDINGS = (".ttf", ".otf", ".ttc", ".otc")
_LETTERS = ("Lu", "Ll", "Lo")  # Unicode's categories: upper and lower case, and letters of no case
_MIXED = ("Zyyy", "Zinh", "Zzzz")  # letters of many scripts at once, or of none
_SHARED = 8  # characters that one glyph may stand for; a glyph for more is a placeholder


@attrs.frozen(eq=False)
class Font:
    """A font file and the letters in it.

    Attributes:
        path: The file; of a collection, its first font.
        identity: Name, version and checksum, which the font's maker wrote into it.
        plainness: Sorts upright, regular fonts first.
        letters: Code points of the letters that it has a glyph for.
    """

    path: Path
    identity: tuple[str, str, int]
    plainness: tuple[bool, int, str]
    letters: frozenset[int]


def import_font_tools() -> tuple[Any, Any]:
    """Returns the modules `fontTools.ttLib` and `fontTools.unicodedata`.

    Raises:
        ImportError: If fontTools is not installed.
    """
    try:
        from fontTools import ttLib, unicodedata
    except ModuleNotFoundError as error:
        raise ImportError("`glyphs` needs fontTools: pip install 'iai-tasks[fonts]'.") from error
    return ttLib, unicodedata


def installed_fonts() -> list[Path]:
    """Font files in the folders of the operating system, and the DejaVu fonts of matplotlib."""
    home = Path.home()
    if sys.platform == "win32":
        local = Path(os.environ.get("LOCALAPPDATA", home))
        folders = [
            Path(os.environ.get("WINDIR", "C:/Windows")) / "Fonts",
            local / "Microsoft" / "Windows" / "Fonts",
        ]
    elif sys.platform == "darwin":
        folders = [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts"]
    else:
        folders = [
            Path("/usr/share/fonts"),
            Path("/usr/local/share/fonts"),
            home / ".local/share/fonts",
            home / ".fonts",
        ]
    found = font_files(*(folder for folder in folders if folder.is_dir()))
    matplotlib = importlib.util.find_spec("matplotlib")  # found, and not imported
    for location in (matplotlib and matplotlib.submodule_search_locations) or ():
        found += sorted(Path(location, "mpl-data", "fonts", "ttf").glob("DejaVu*.ttf"))
    return found


def font_files(*paths: str | PathLike[str]) -> list[Path]:
    """The files among the paths, and the font files in the folders among them, in order."""
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found += sorted(one for one in path.rglob("*") if one.suffix.lower() in _ENDINGS)
        else:
            found.append(path)
    return found


def read_fonts(paths: Iterable[Path], *, skip_broken: bool) -> list[Font]:
    """Reads what fonts there are: each font once, plain ones first.

    Args:
        paths: Font files.
        skip_broken: Whether a file that is no font is left out rather than an error.

    Raises:
        ImportError: If fontTools is not installed.
        ValueError: If a file cannot be read as a font.
    """
    fonts: dict[tuple[str, str, int], Font] = {}
    for path in paths:
        try:
            font = _read_font(path)
        except ImportError:
            raise
        except Exception as error:  # fontTools raises its own, and those of struct and of Python
            if skip_broken:
                continue
            raise ValueError(f"`fonts` must be font files; {path} cannot be read.") from error
        fonts.setdefault(font.identity, font)
    return sorted(fonts.values(), key=lambda font: font.plainness)


def _read_font(path: Path) -> Font:
    tt_lib, _ = import_font_tools()
    # The file is ours to close: fontTools leaves it open when it is no font.
    with path.open("rb") as file, tt_lib.TTFont(file, fontNumber=0, lazy=True) as font:
        glyph_of: dict[int, str] = font.getBestCmap() or {}  # None: a font of symbols
        name = font["name"].getDebugName(4) or path.stem
        version = font["name"].getDebugName(5) or ""
        weight = font["OS/2"].usWeightClass if "OS/2" in font else 400
        identity = (name, version, font["head"].checkSumAdjustment)
        plainness = (bool(font["head"].macStyle & 2), abs(weight - 400), name)
        shared = Counter(glyph_of.values())
        missing = font.getGlyphOrder()[0]
    letters = frozenset(
        code
        for code, glyph in glyph_of.items()
        if glyph != missing and shared[glyph] <= _SHARED and script_of(code)
    )
    return Font(path, identity, plainness, letters)


@cache
def script_of(code: int) -> str:
    """The English name of a letter's script; empty for what is no letter of one script.

    Letters that Unicode takes apart, such as e with an accent or a ligature, are none either.

    >>> script_of(0x3b1), script_of(0xe9), script_of(0x33)  # doctest: +SKIP
    ('Greek', '', '')
    """
    _, unicodedata = import_font_tools()
    character = chr(code)
    script: str = unicodedata.script(character)
    if (
        unicodedata.category(character) not in _LETTERS
        or script in _MIXED
        or unicodedata.decomposition(character)
    ):
        return ""
    name: str = unicodedata.script_name(script)
    return name
