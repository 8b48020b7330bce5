"""Small smooth distortions of clean pictures, as if many hands had drawn one letter."""

import math

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F

from iai_tasks import counter_random

_BOX = 5 / 7  # side of a clean picture divided by that of the image: 20 of 28 pixels
# Standard deviations of the angle, the slant, the logarithm of the width and height, and the shift
# in units of half a side.
_TURN, _SHEAR, _SCALE, _SHIFT = 0.12, 0.12, 0.08, 0.04
_BEND = 0.06  # deviation of a wave's amplitude times its order, in units of half a side
_WEIGHT = 0.22  # relative deviation of the level at which blurred strokes are cut
_WAVES = tuple((i, j) for i in range(3) for j in range(3) if i + j)


def warp(
    pictures: UInt8[Tensor, "picture box box"],
    index: Int64[Tensor, " image"],
    seeds: Int64[Tensor, " image"],
    counters: Int64[Tensor, " image"],
    size: int,
) -> UInt8[Tensor, "image size size"]:
    """Rotates, shears, scales, shifts and bends pictures, and varies the weight of their strokes.

    The distortion of an image is a function of its seed and its counter.

    Args:
        pictures: Clean pictures, ink 255.
        index: Index of the picture that each image is made from.
        seeds: A seed for each image.
        counters: A number for each image, to tell images of one seed apart.
        size: Side of the images.

    Returns:
        The images, the ink in their middle.
    """
    num, fine = len(index), 2 * size  # drawn at twice the size, then averaged
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
    """The map from points of the image to points of the picture, as coefficients of the basis."""
    turn, slant = _TURN * number[:, 0], _SHEAR * number[:, 1]
    cos, sin = turn.cos(), turn.sin()
    columns = torch.stack((cos, sin, slant * cos - sin, slant * sin + cos), dim=1)
    linear = columns.reshape(-1, 2, 2).mT * torch.exp(_SCALE * number[:, None, 2:4])
    shift = _SHIFT * number[:, 4:6, None]
    order = torch.tensor([i + j for i, j in _WAVES])
    bend = _BEND / order * number[:, 8:].reshape(len(number), 2, -1)
    return torch.cat((linear, shift, bend), dim=2) / _BOX


def _basis(side: int) -> Float[Tensor, "basis pixel"]:
    """Functions of a point of the image: x, y, 1 and slow waves, each from -1 to 1."""
    centre = (torch.arange(side) + 0.5) * (2 / side) - 1
    y, x = torch.meshgrid(centre, centre, indexing="ij")
    quarter = math.pi / 2
    waves = [torch.cos(i * quarter * (x + 1)) * torch.cos(j * quarter * (y + 1)) for i, j in _WAVES]
    return torch.stack((x, y, torch.ones_like(x), *waves)).flatten(1)


def _normal(
    seeds: Int64[Tensor, " image"], counters: Int64[Tensor, " image"], num: int
) -> Float[Tensor, "image num"]:
    """Normal numbers, clamped at two standard deviations."""
    image_seeds = counter_random.bits(seeds, counters)
    return counter_random.normal(image_seeds, torch.arange(num // 2)).flatten(1).clamp_(-2, 2)
