"""Tasks whose examples are points on a letter: alphabets as distributions in the plane."""

import math
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from iai_tasks._tensor_file import checksum
from iai_tasks._validators import check_at_least
from iai_tasks.examples import Examples
from iai_tasks.flow_matching import straight_path
from iai_tasks.letters._font import Font, read_fonts
from iai_tasks.letters._glyph_picture import Pen
from iai_tasks.sampler import AbstractSampler
from iai_tasks.spec import Real, TaskSpec

Glyphs = Float[Tensor, "task 2"]  # number, angle
_RESOLUTION = 64  # pixels along the longer side of a letter


class GlyphClouds(AbstractSampler):
    """Tasks that show points on a rotated letter, and ask for the velocity from noise to them.

    Each letter is drawn and scaled so that its longer side goes from -scale to scale; the aspect is
    kept. A point is uniform over the inked pixels, plus Gaussian noise. The support holds points
    and no targets; a query is [x_t, t], and its target the mean velocity there: see
    `straight_path`.

    The latent of a task is [number of the glyph, angle]. Glyphs are counted through the letters of
    the first font, then of the next; the angle is uniform on the circle. Needs fontTools and
    Pillow: `pip install "iai-tasks[fonts]"`.

    Args:
        fonts: Font files.
        letters: Characters, all in every font.
        scale: Half the longer side in the plane.
        noise: Standard deviation of the noise.

    Raises:
        ImportError: If fontTools or Pillow is not installed.
        ValueError: If there is no font or no letter, a file is no font, a font has not got a
            letter, or a number is out of range.

    Source:
        Atanackovic et al., 2024, "Meta Flow Matching", arXiv 2408.14608, whose letters have ten
        angles each.

    >>> letters = GlyphClouds(["DejaVuSans.ttf"], "ABC")  # doctest: +SKIP
    """

    latent_shape = (2,)

    def __init__(
        self,
        fonts: Sequence[str | PathLike[str]],
        letters: str,
        *,
        scale: float = 3.0,
        noise: float = 0.05,
    ) -> None:
        if isinstance(fonts, (str, PathLike)) or not fonts:
            raise ValueError(f"`fonts` must be a list of at least one font file; got {fonts!r}.")
        if not letters:
            raise ValueError("`letters` must hold at least one character; got none.")
        if not scale > 0:
            raise ValueError(f"`scale` must be above 0; got {scale}.")
        check_at_least(0, noise=noise)
        pen = Pen(_RESOLUTION)
        read = [read_fonts([Path(path)], skip_broken=False)[0] for path in fonts]
        clouds = [scale * _inked(pen, font, letter) for font in read for letter in letters]
        self._counts = torch.tensor([len(cloud) for cloud in clouds])
        self._clouds = pad_sequence(clouds, batch_first=True)
        self._noise = noise

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the points of all letters; that of the same letters in other fonts differs."""
        return checksum("", {"clouds": self._clouds, "counts": self._counts})

    @property
    def spec(self) -> TaskSpec:
        """Points of the plane; a query has the time beside them, and a target of two numbers."""
        return TaskSpec(support_x_shape=(2,), query_x_shape=(3,), target=Real(2))

    def draw_latent(self, num_tasks: int, generator: torch.Generator) -> Glyphs:
        """Draws glyphs and angles."""
        device, shape = generator.device, (num_tasks,)
        glyph = torch.randint(len(self._clouds), shape, generator=generator, device=device)
        turn = torch.rand(shape, generator=generator, device=device)
        return torch.stack([glyph.to(turn), 2 * math.pi * turn], dim=1)

    def check_latent(self, latent: Glyphs) -> None:
        """Raises a ValueError if a number names no glyph."""
        glyph = latent[:, 0].long()
        if not ((glyph >= 0) & (glyph < len(self._clouds))).all():
            raise ValueError(
                f"`latent` must name glyphs from 0 to {len(self._clouds) - 1}; "
                f"got {glyph.tolist()}."
            )

    def draw_examples(
        self, latent: Glyphs, num_support: int, num_query: int, generator: torch.Generator
    ) -> tuple[Examples, Examples]:
        """Draws points of the rotated letters, and points on the paths to other points."""
        glyph, angle = latent[:, 0].long(), latent[:, 1]
        shape = (len(latent), num_support + num_query)
        uniform = torch.rand(shape, generator=generator, device=latent.device)
        count = self._counts.to(latent.device)[glyph, None]
        pixel = (uniform * count).long().clamp(max=count - 1)
        points = self._clouds.to(latent)[glyph[:, None], pixel]
        cos, sin = angle.cos(), angle.sin()
        rotated = points @ torch.stack([cos, sin, -sin, cos], dim=1).view(-1, 2, 2)
        noise = torch.empty_like(rotated).normal_(generator=generator)
        samples = Examples(x=rotated + self._noise * noise)
        return samples[:, :num_support], straight_path(samples[:, num_support:], generator)


def _inked(pen: Pen, font: Font, letter: str) -> Float[Tensor, "pixel 2"]:
    """Centres of a letter's inked pixels, within [-1, 1], the second number growing upwards."""
    picture = pen.draw(font, ord(letter))
    if picture is None:
        raise ValueError(f"`letters` must all be in every font; {font.path} has no {letter!r}.")
    row, column = np.nonzero(picture >= 128)
    centre = (np.stack([column, len(picture) - 1 - row], axis=1) + 0.5) / len(picture)
    return torch.from_numpy(2 * centre - 1).to(torch.get_default_dtype())
