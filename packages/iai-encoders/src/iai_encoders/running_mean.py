"""The mean over tokens that come one minibatch after the other."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def count_tokens(mask: Bool[Tensor, "task n"], seen: Float[Tensor, " task"]) -> Tensor:
    """How many tokens are observed, in the dtype of an earlier count."""
    return mask.sum(1).to(seen.dtype)


def running_mean(
    mean: Float[Tensor, "task *k"],
    total: Float[Tensor, "task *k"],
    seen: Float[Tensor, " task"],
    count: Float[Tensor, " task"],
) -> Float[Tensor, "task *k"]:
    """The mean over all tokens, from the mean over those before and the sum over those that come.

    A mean stays in range where a sum over a long stream does not. Where no token comes, the mean
    stays as it was, bit for bit. A count in float32 stops at 2^24 where tokens come one by one.

    Args:
        mean: The mean over the `seen` tokens before; zero where there is none.
        total: The sum over the `count` tokens that come.
        seen: Tokens before.
        count: Tokens that come.

    >>> import torch
    >>> running_mean(torch.tensor([[2.0]]), torch.tensor([[14.0]]), *torch.tensor([[3.0], [1.0]]))
    tensor([[5.]])
    """
    after = (seen + count).clamp(min=1).view(-1, *[1] * (mean.dim() - 1))
    # mean + (total - mean * count) / after, in two passes over memory in place of four
    moved = torch.addcmul(total.to(mean.dtype), mean, count.view_as(after), value=-1)
    return torch.addcdiv(mean, moved, after)
