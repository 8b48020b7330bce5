"""Where images of many classes come from: settings of a program."""

from pathlib import Path
from typing import Literal

import attrs

from iai_tasks._validators import one_of
from iai_tasks.image_classes import ImageClasses
from iai_tasks.images.image_folder import image_folder
from iai_tasks.images.omniglot import omniglot
from iai_tasks.letters.glyphs import glyphs


@attrs.frozen(kw_only=True)
class ImageClassSource:
    """Images of many classes that a program can be told to use.

    Raises:
        ValueError: If `source` is unknown.

    >>> ImageClassSource(source="imagenet")
    Traceback (most recent call last):
    ValueError: `source` must be one of 'glyphs', 'omniglot', 'folder'; got 'imagenet'.
    """

    source: Literal["glyphs", "omniglot", "folder"] = attrs.field(
        default="glyphs", validator=one_of("glyphs", "omniglot", "folder")
    )
    """glyphs draws letters from fonts; omniglot is downloaded where it is not there; folder is a
    folder of images for each class."""
    data: Path | None = None
    """Folder of TrueType fonts for glyphs, by default those installed; otherwise of the images, by
    default the cache."""
    cache: Path | None = None
    """Folder that keeps what was drawn or downloaded."""
    size: int = 28
    """Height and width of an image."""
    letters: int = 60
    """Letters of a script at most, for glyphs."""

    def load(self, cache: Path) -> ImageClasses:
        """Draws, downloads or reads the images.

        Args:
            cache: The cache where none is set.

        Raises:
            ImportError: If a package that the source needs is not installed.
            ValueError: If there are no such images: see `glyphs`, `omniglot` and `image_folder`.
        """
        cache = self.cache or cache
        if self.source == "glyphs":
            fonts = None if self.data is None else sorted(self.data.rglob("*.ttf"))
            return glyphs(fonts, size=self.size, max_letters=self.letters, cache=cache)
        if self.source == "omniglot":
            return omniglot(self.data or cache, size=self.size, download=True)
        return image_folder(self.data or cache, size=self.size)
