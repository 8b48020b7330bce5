"""The mean over tokens that come one minibatch after the other."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def count_tokens(mask: Bool[Tensor, "task n"], seen: Tensor) -> Float[Tensor, " task"]:
    """How many tokens are observed, in the dtype of an earlier count."""
    return mask.sum(1).to(seen.dtype)


def running_mean(mean: Tensor, total: Tensor, seen: Tensor, count: Tensor) -> Tensor:
    """The mean over all tokens, from the mean over those before and the sum over those that come.

    A mean stays in range where a sum over a long stream does not. Where no token comes, the mean
    stays as it was, bit for bit. A count in float32 stops at 2^24 where tokens come one by one.

    Args:
        mean: ``task *k``, the mean over the `seen` tokens before; zero where there is none.
        total: ``task *k``, the sum over the `count` tokens that come.
        seen: ``task``, tokens before.
        count: ``task``, tokens that come.

    Returns:
        ``task *k``. Any axes may stand in place of `task`, of size 1 in `mean` and `seen` where
        these are the same.

    >>> running_mean(torch.tensor([[2.0]]), torch.tensor([[14.0]]), *torch.tensor([[3.0], [1.0]]))
    tensor([[5.]])
    """
    after = (seen + count).clamp(min=1)
    shape = *after.shape, *[1] * (mean.dim() - after.dim())
    # mean + (total - mean * count) / after, in two passes over memory in place of four
    moved = torch.addcmul(total.to(mean.dtype), mean, count.view(shape), value=-1)
    return torch.addcdiv(mean, moved, after.view(shape))
