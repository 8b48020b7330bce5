"""An online ridge regression from keys to values."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from iai_encoders.validation import check_sizes

Heads = Float[Tensor, "task head n key"]
Values = Float[Tensor, "task head n value"]


class RidgeMoments(NamedTuple):
    """Sums or means over pairs, zero where there is none.

    Attributes:
        key_key: ``task head key key``, of k k'.
        key_value: ``task head key value``, of k v'.
    """

    key_key: Tensor
    key_value: Tensor


class Ridge(nn.Module):
    """Ridge regression of values on keys, online: a query q recalls q' (A + lambda / n I)^-1 B.

    A is the mean of k k' over the n pairs stored so far, and B the mean of k v'. So the state has
    the same size for any n and does not depend on the order of the pairs. But for rounding (below),
    its shrinkage fades as 1 / n: if the prior of the map from keys to values is N(0, s^2 I) and the
    noise of the values has the variance ``lambda s^2``, what is recalled is the posterior mean.
    Each head learns its own lambda, from ``max(key_dim / 32, 1)`` on.

    A map on more inputs than a key has numbers is not found: the head then regresses on a
    projection of the inputs. For regression on d inputs and a constant, give keys ``d + 1`` numbers
    or more.

    A is singular while there are fewer pairs than numbers a key, or pairs that repeat, and rounding
    then makes it indefinite. So its diagonal is multiplied by ``1 + (8 + d + sqrt(d n) / 2) eps``,
    for keys of d numbers: the rounding errors of n pairs, stored one by one, add up like sqrt(n),
    and this is twice their largest measured effect on the smallest eigenvalue. In float32 it
    outweighs lambda / n beyond some 10^4 pairs, and shrinks what is recalled by a thousandth or so
    at 10^7. The factor is relative, so numbers of a key may differ in scale. Keys that are not
    finite recall NaN, in their task alone.

    Args:
        num_heads: Heads.
        key_dim: Numbers a key.
        value_dim: Numbers a value; `key_dim` where None.

    Raises:
        ValueError: If a size is below 1.

    Source:
        Bertinetto et al. (2019), arXiv 1805.08136; ALPaCA, Harrison et al. (2018),
        arXiv 1807.08912; the mesa layer, von Oswald et al. (2023), arXiv 2309.05858, which is
        causal, while this one regresses on all pairs stored.

    Two pairs on the line v = 2 k, with a weak prior:

    >>> ridge = Ridge(num_heads=1, key_dim=1)
    >>> _ = nn.init.constant_(ridge.log_lambda, -20.0)
    >>> keys = torch.tensor([[[[1.0], [3.0]]]])
    >>> mask = torch.ones(1, 2, dtype=torch.bool)
    >>> means = RidgeMoments(*(total / 2 for total in ridge.sums(keys, 2 * keys, mask)))
    >>> round(ridge.recall(means, torch.tensor([[[[5.0]]]]), seen=torch.tensor([2.0])).item(), 3)
    10.0
    """

    def __init__(self, num_heads: int, key_dim: int, value_dim: int | None = None) -> None:
        super().__init__()
        value_dim = key_dim if value_dim is None else value_dim
        check_sizes(num_heads=num_heads, key_dim=key_dim, value_dim=value_dim)
        self.key_dim = key_dim
        # Of many numbers a key, each has to count for less.
        self.log_lambda = nn.Parameter(torch.full((num_heads,), math.log(max(key_dim / 32, 1))))

    def sums(self, keys: Heads, values: Values, mask: Bool[Tensor, "task n"]) -> RidgeMoments:
        """The sums of k k' and k v' over the observed pairs."""
        dtype = torch.promote_types(self.log_lambda.dtype, torch.float32)
        keys = keys.to(dtype) * mask[:, None, :, None]
        transposed = keys.transpose(2, 3)
        return RidgeMoments(transposed @ keys, transposed @ values.to(dtype))

    def recall(self, means: RidgeMoments, queries: Heads, seen: Float[Tensor, " task"]) -> Values:
        """The value that the regression gives each query; zero where nothing is stored."""
        key_key, key_value = means
        diagonal = key_key.diagonal(dim1=2, dim2=3)
        seen = seen.clamp(min=1)[:, None, None]
        strength = self.log_lambda.to(key_key.dtype).exp()[:, None] / seen
        rounding = 8 + self.key_dim + (self.key_dim * seen).sqrt() / 2
        ridge = strength + torch.finfo(key_key.dtype).eps * rounding * diagonal
        # cholesky would wait for the device to say whether it failed, and stop for one bad task.
        factor, failed = torch.linalg.cholesky_ex(key_key + torch.diag_embed(ridge))
        factor = factor.masked_fill((failed > 0)[..., None, None], torch.nan)
        return queries.to(key_key.dtype) @ torch.cholesky_solve(key_value, factor)
