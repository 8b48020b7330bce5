"""Finds fonts, and the letters that each can draw."""

import importlib.util
import os
from collections import Counter
from collections.abc import Iterable
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any

import attrs

from iai_tasks._extra import extra

# Where Windows, macOS and Linux keep fonts; "~" is the user's home.
_FOLDERS = (
    *("$WINDIR/Fonts", "$LOCALAPPDATA/Microsoft/Windows/Fonts"),
    *("/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts"),
    *("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts"),
)
_ENDINGS = (".ttf", ".otf", ".ttc", ".otc")
_LETTERS = ("Lu", "Ll", "Lo")  # Unicode's categories: upper and lower case, and letters of no case
_MIXED = ("Zyyy", "Zinh", "Zzzz")  # Unicode's scripts for letters of several scripts, or of none
_SHARED = 8  # characters that one glyph may stand for; a glyph for more is a placeholder


@attrs.frozen(eq=False)
class Font:
    """A font file and the letters in it.

    Attributes:
        path: The file; of a collection, its first font counts.
        identity: Name, version and checksum, as the font's maker wrote them into it.
        plainness: A key that sorts upright, regular fonts first.
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
    with extra("fonts"):
        from fontTools import ttLib, unicodedata
    return ttLib, unicodedata


def installed_fonts() -> list[Path]:
    """Font files in the folders of the operating system, and the DejaVu fonts of matplotlib."""
    folders = (Path(os.path.expandvars(folder)).expanduser() for folder in _FOLDERS)
    files = font_files(*(folder for folder in folders if folder.is_dir()))
    matplotlib = importlib.util.find_spec("matplotlib")  # located, not imported
    for location in (matplotlib and matplotlib.submodule_search_locations) or ():
        files += sorted(Path(location, "mpl-data", "fonts", "ttf").glob("DejaVu*.ttf"))
    return files


def font_files(*paths: str | PathLike[str]) -> list[Path]:
    """The files among the paths, and the font files in the folders among them, in order."""
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            files += sorted(one for one in path.rglob("*") if one.suffix.lower() in _ENDINGS)
        else:
            files.append(path)
    return files


def read_fonts(paths: Iterable[Path], *, skip_broken: bool) -> list[Font]:
    """Reads fonts: each once, even if several files hold it, and plain ones first.

    Args:
        paths: Font files.
        skip_broken: Whether a file that is no font is left out instead of an error.

    Raises:
        ImportError: If fontTools is not installed.
        ValueError: If a file cannot be read as a font.
    """
    import_font_tools()
    fonts: dict[tuple[str, str, int], Font] = {}
    for path in paths:
        try:
            font = _read_font(path)
        except Exception as error:  # fontTools raises its own, and those of struct and of Python
            if skip_broken:
                continue
            raise ValueError(f"`fonts` must be font files; {path} cannot be read.") from error
        fonts.setdefault(font.identity, font)
    return sorted(fonts.values(), key=lambda font: font.plainness)


def _read_font(path: Path) -> Font:
    tt_lib, _ = import_font_tools()
    # Opened here because fontTools leaves a file open when it is no font.
    with path.open("rb") as file, tt_lib.TTFont(file, fontNumber=0, lazy=True) as font:
        glyph_of: dict[int, str] = font.getBestCmap() or {}  # None in a font of symbols
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
    """The English name of a letter's script; empty if it is no letter, or not of one script.

    Also empty for letters that Unicode decomposes, such as ligatures and letters with accents.

    >>> script_of(0x3b1), script_of(0xe9), script_of(0x33)  # doctest: +SKIP
    ('Greek', '', '')
    """
    _, unicodedata = import_font_tools()
    character = chr(code)
    script: str = unicodedata.script(character)
    is_letter = unicodedata.category(character) in _LETTERS
    if not is_letter or script in _MIXED or unicodedata.decomposition(character):
        return ""
    name: str = unicodedata.script_name(script)
    return name
