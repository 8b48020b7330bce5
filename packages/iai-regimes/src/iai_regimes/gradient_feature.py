"""How a learned rule reads a gradient, whose size may span many orders of magnitude."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

GradientFeature = Callable[[Float[Tensor, "task p"]], Float[Tensor, "task p features"]]


def raw(gradient: Float[Tensor, "task p"]) -> Float[Tensor, "task p 1"]:
    """The gradient itself.

    >>> raw(torch.tensor([[0.5, -2.0]])).tolist()
    [[[0.5], [-2.0]]]
    """
    return gradient[..., None]


def rms_normalised(gradient: Float[Tensor, "task p"]) -> Float[Tensor, "task p 1"]:
    """The gradient over its root mean square in each task; a zero gradient stays zero.

    >>> rms_normalised(torch.tensor([[3.0, -3.0]])).tolist()
    [[[1.0], [-1.0]]]
    """
    square = gradient.square().mean(-1, keepdim=True)
    scale = torch.where(square > 0, square, 1.0).sqrt()  # a root has no derivative at zero
    return (gradient / scale)[..., None]


def log_and_sign(gradient: Float[Tensor, "task p"]) -> Float[Tensor, "task p 2"]:
    """`(log(|g| + 1e-5), sign g)`.

    Source: Marino, Yue and Mandt (2018), arXiv 1807.09356.

    >>> log_and_sign(torch.tensor([[1.0, -1.0]]))[0, :, 1].tolist()
    [1.0, -1.0]
    """
    return torch.stack([(gradient.abs() + 1e-5).log(), gradient.sign()], dim=-1)


def clipped_log(gradient: Float[Tensor, "task p"]) -> Float[Tensor, "task p 2"]:
    """`(log|g| / 10, sign g)` where `|g| >= e^-10`, else `(-1, e^10 g)`.

    Source: Andrychowicz et al. (2016), arXiv 1606.04474, appendix A, with p = 10.

    >>> clipped_log(torch.tensor([[1.0, 0.0]])).tolist()
    [[[0.0, 1.0], [-1.0, 0.0]]]
    """
    p = 10.0
    size = gradient.abs()
    large = size >= math.exp(-p)
    log = torch.where(large, size.clamp(min=math.exp(-p)).log() / p, -1.0)
    sign = torch.where(large, gradient.sign(), gradient * math.exp(p))
    return torch.stack([log, sign], dim=-1)
