"""Bounds that keep a learned part finite at any scale of what it reads.

Numbers within the bounds stay as they are, bit for bit.
"""

import torch
from jaxtyping import Float
from torch import Tensor

_FAR = 1e5  # its fourth power, the square of a product of two, is finite in float32
_MOST = 4.0  # root mean square, which is 1 after normalisation


def within_reach(values: Tensor) -> Tensor:
    """The values clipped to [-1e5, 1e5], in float16 to [-40, 40].

    >>> within_reach(torch.tensor([3.0, -1e9])).tolist()
    [3.0, -100000.0]
    """
    far = min(_FAR, torch.finfo(values.dtype).max ** (1 / 3))
    return values.clamp(-far, far)


def shortened(answers: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
    """Answers whose root mean square is above 4 are scaled down to it.

    An encoder that multiplies tokens has answers of any size. A linear head on them would turn its
    first change in training into a change of the state that is as large.

    Returns:
        Vectors in the same directions. Gradients flow; the factor is a constant.

    >>> shortened(torch.tensor([[8.0, -8.0], [1.0, 2.0]])).tolist()
    [[4.0, -4.0], [1.0, 2.0]]
    """
    fixed = answers.detach()
    largest = fixed.abs().amax(-1, keepdim=True).clamp(min=1.0)
    size = (fixed / largest).square().mean(-1, keepdim=True).sqrt() * largest
    return answers * (_MOST / size.clamp(min=_MOST))
