"""Positions as rotations, so that attention depends on the distance of two tokens alone."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Rotation(NamedTuple):
    """The angles by which a token's queries and keys are rotated, the same in all heads.

    Attributes:
        cos: ``task 1 n half``, the cosine of the angle of each pair of numbers.
        sin: ``task 1 n half``, the sine of it.
    """

    cos: Tensor
    sin: Tensor


def rotation(positions: Int[Tensor, "task n"], key_dim: int, dtype: torch.dtype) -> Rotation:
    """The rotations of tokens at these positions.

    Pair `i` of a head is rotated by ``position * 10_000 ** (-2 i / key_dim)``. A query at `p` and a
    key at `q` then have the inner product of a query at ``p - q`` and a key at 0.

    Args:
        positions: Whole numbers.
        key_dim: Numbers a head, an even number.
        dtype: Of the tokens. Angles are computed in float32 at least, as half precision does not
            distinguish the positions of a long sequence.

    Returns:
        The rotations, to hand to `rotate`.

    Source:
        Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021, with the
        two halves of a head for the pairs.
    """
    dtype = torch.promote_types(dtype, torch.float32)
    exponents = torch.arange(0, key_dim, 2, dtype=dtype, device=positions.device) / key_dim
    angles = positions[:, None, :, None] * 10_000.0**-exponents
    return Rotation(angles.cos(), angles.sin())


def rotate(x: Float[Tensor, "task head n key"], by: Rotation) -> Float[Tensor, "task head n key"]:
    """Rotates the pairs of each head: number `i` with number ``i + half``.

    At position 0 nothing changes; at position 1 the first pair is rotated by one radian:

    >>> by = rotation(torch.tensor([[0, 1]]), key_dim=2, dtype=torch.float32)
    >>> rotate(torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]]), by)
    tensor([[[[1.0000, 0.0000],
              [0.5403, 0.8415]]]])
    """
    first, second = x.chunk(2, dim=3)
    rotated = [first * by.cos - second * by.sin, first * by.sin + second * by.cos]
    return torch.cat(rotated, 3).to(x.dtype)
