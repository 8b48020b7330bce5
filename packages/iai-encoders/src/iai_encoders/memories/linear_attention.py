"""Attention without a softmax, as two running sums."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from iai_encoders.validation import check_sizes

Heads = Float[Tensor, "task head n key"]
Values = Float[Tensor, "task head n value"]


class LinearAttentionMoments(NamedTuple):
    """Sums or means over pairs, zero where there is none.

    Attributes:
        feature: ``task head key``, of f(k).
        feature_value: ``task head key value``, of f(k) v'.
    """

    feature: Tensor
    feature_value: Tensor


class LinearAttention(nn.Module):
    """Attention with weights f(q)' f(k) in place of exp(q' k), where f(x) = elu(c x) + 1.

    A query recalls sum f(q)'f(k) v / (sum f(q)'f(k) + 1): the mean of the values, weighted, and a
    value of zero with the weight 1. Sums are kept as means, so that they stay in range. Each head
    learns the scale c.

    Args:
        num_heads: Heads.
        key_dim: Numbers a key.
        value_dim: Numbers a value; `key_dim` where None.

    Raises:
        ValueError: If a size is below 1.

    Source:
        Katharopoulos et al. (2020), arXiv 2006.16236. Ours: the value of zero, which defines what
        an empty memory recalls, and the scale.
    """

    def __init__(self, num_heads: int, key_dim: int, value_dim: int | None = None) -> None:
        super().__init__()
        value_dim = key_dim if value_dim is None else value_dim
        check_sizes(num_heads=num_heads, key_dim=key_dim, value_dim=value_dim)
        self.key_dim = key_dim
        self.log_scale = nn.Parameter(torch.zeros(num_heads))

    def sums(
        self, keys: Heads, values: Values, mask: Bool[Tensor, "task n"]
    ) -> LinearAttentionMoments:
        """The sums of f(k) and f(k) v' over the observed pairs."""
        features = self._features(keys) * mask[:, None, :, None]
        values = values.to(features.dtype)
        return LinearAttentionMoments(features.sum(2), features.transpose(2, 3) @ values)

    def recall(
        self, means: LinearAttentionMoments, queries: Heads, seen: Float[Tensor, " task"]
    ) -> Values:
        """The weighted mean of the values; zero where nothing is stored."""
        features = self._features(queries)
        weight = (features * means.feature[:, :, None]).sum(3, keepdim=True)
        return (
            features @ means.feature_value / (weight + 1 / seen.clamp(min=1)[:, None, None, None])
        )

    def _features(self, x: Heads) -> Heads:
        scale = self.log_scale.exp()[:, None, None] * self.key_dim**-0.5
        scaled = x.to(torch.promote_types(x.dtype, torch.float32)) * scale
        return F.elu(scaled) + 1
