"""One letter drawn by many hands: small smooth distortions of clean pictures."""

import math

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F

from iai_tasks import counter_random

_BOX = 5 / 7  # side of the box that a clean picture fills, of the image's: 20 of 28 pixels
# Standard deviations: of an angle, a slant, the logarithm of a width, and a part of half a side.
_TURN, _SHEAR, _SCALE, _SHIFT = 0.12, 0.12, 0.08, 0.04
_BEND = 0.06  # of the amplitude of each wave, as a part of half a side over the wave's number
_WEIGHT = 0.22  # of the level at which blurred strokes are cut, as a part of it
_WAVES = tuple((i, j) for i in range(3) for j in range(3) if i + j)


def warp(
    pictures: UInt8[Tensor, "picture box box"],
    index: Int64[Tensor, " image"],
    seeds: Int64[Tensor, " image"],
    counters: Int64[Tensor, " image"],
    size: int,
) -> UInt8[Tensor, "image size size"]:
    """Turns, shears, scales, shifts and bends pictures, and varies the weight of their strokes.

    Args:
        pictures: Clean pictures, ink 255.
        index: Which picture each image is made of.
        seeds: What the distortion of an image is a function of,
        counters: together with this number.
        size: Side of the images.

    Returns:
        The images, the ink in their middle.
    """
    num, fine = len(index), 2 * size  # twice the size, then pairs of pixels are averaged
    number = _normal(seeds, counters, 8 + 2 * len(_WAVES))
    grid = _coefficients(number) @ _basis(fine)
    # A blurred stroke cut at a low level is thick, at a high level thin.
    blurred = F.avg_pool2d(pictures[:, None].float(), 3, stride=1, padding=1)
    level = 0.45 * blurred.amax(dim=(1, 2, 3))[index] * (1 - _WEIGHT * number[:, 6])
    drawn = F.grid_sample(
        blurred[index],
        grid.reshape(num, 2, fine, fine).movedim(1, 3),
        padding_mode="zeros",
        align_corners=False,
    )
    drawn.sub_(level[:, None, None, None]).mul_(3).add_(127.5).clamp_(0, 255)
    return F.avg_pool2d(drawn, 2)[:, 0].round_().to(torch.uint8)


def _coefficients(number: Float[Tensor, "image number"]) -> Float[Tensor, "image 2 basis"]:
    """Of the map from a place in the image to a place in the picture, as weights of the basis."""
    turn, slant = _TURN * number[:, 0], _SHEAR * number[:, 1]
    cos, sin = turn.cos(), turn.sin()
    columns = torch.stack((cos, sin, slant * cos - sin, slant * sin + cos), dim=1)
    linear = columns.reshape(-1, 2, 2).mT * torch.exp(_SCALE * number[:, None, 2:4])
    shift = _SHIFT * number[:, 4:6, None]
    order = torch.tensor([i + j for i, j in _WAVES])
    bend = _BEND / order * number[:, 8:].reshape(len(number), 2, -1)
    return torch.cat((linear, shift, bend), dim=2) / _BOX


def _basis(side: int) -> Float[Tensor, "basis pixel"]:
    """Functions of a place in the image: x, y, 1 and slow waves, each from -1 to 1."""
    at = (torch.arange(side) + 0.5) * (2 / side) - 1
    y, x = torch.meshgrid(at, at, indexing="ij")
    quarter = math.pi / 2
    waves = [torch.cos(i * quarter * (x + 1)) * torch.cos(j * quarter * (y + 1)) for i, j in _WAVES]
    return torch.stack((x, y, torch.ones_like(x), *waves)).flatten(1)


def _normal(
    seeds: Int64[Tensor, " image"], counters: Int64[Tensor, " image"], num: int
) -> Float[Tensor, "image num"]:
    """Normal numbers, cut at two standard deviations."""
    own = counter_random.bits(seeds, counters)
    return counter_random.normal(own, torch.arange(num // 2)).flatten(1).clamp_(-2, 2)
