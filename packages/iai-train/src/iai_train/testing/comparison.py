"""Trees of tensors that must be equal."""

import torch
from torch import Tensor

from iai_train.training.tree import leaves


def equal(a: object, b: object) -> bool:
    """Whether all tensors and numbers of two trees are the same, bit for bit."""
    pairs = list(leaves(a)), list(leaves(b))
    return len(pairs[0]) == len(pairs[1]) and all(map(_same, *pairs))


def _same(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        alike = a.dtype == b.dtype and a.shape == b.shape
        return alike and torch.equal(_bytes(a), _bytes(b))
    return type(a) is type(b) and a == b


def _bytes(tensor: Tensor) -> Tensor:
    """Its memory, in which NaN equals itself."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
