"""A share that fades with the number of tokens read, at a learned rate."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def fading_share(
    seen: Float[Tensor, " task"], rate: Float[Tensor, ""]
) -> Float[Tensor, "task 1 1"]:
    """(1 + n)^-r after n tokens, with r = softplus(rate).

    >>> import torch
    >>> fading_share(torch.tensor([0.0, 3.0]), torch.tensor(0.541325)).flatten()  # r = 1
    tensor([1.0000, 0.2500])
    """
    return (1 + seen)[:, None, None] ** -F.softplus(rate).to(seen.dtype)
