"""Attention without a softmax, as two running sums."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from iai_encoders.running_mean import count_tokens, running_mean
from iai_encoders.validation import check_sizes

Heads = Float[Tensor, "task head n key"]


class LinearAttentionMoments(NamedTuple):
    """The state of a `LinearAttention`: means over all stored pairs, zero where there is none.

    Attributes:
        feature: ``task head key``, the mean of f(k).
        feature_value: ``task head key key``, the mean of f(k) v'.
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
        key_dim: Numbers a key, and a value.

    Raises:
        ValueError: If a size is below 1.

    Source:
        Katharopoulos et al. (2020), arXiv 2006.16236. Ours: the value of zero, which defines what
        an empty memory recalls, and the scale.
    """

    def __init__(self, num_heads: int, key_dim: int) -> None:
        super().__init__()
        check_sizes(num_heads=num_heads, key_dim=key_dim)
        self.key_dim = key_dim
        self.log_scale = nn.Parameter(torch.zeros(num_heads))

    def empty(self, num_tasks: int) -> LinearAttentionMoments:
        """Zeros, in float32 at least."""
        dtype = torch.promote_types(self.log_scale.dtype, torch.float32)
        shape = num_tasks, len(self.log_scale), self.key_dim, self.key_dim
        zeros = self.log_scale.new_zeros(shape, dtype=dtype)
        return LinearAttentionMoments(torch.zeros_like(zeros[..., 0]), zeros)

    def store(
        self,
        state: LinearAttentionMoments,
        keys: Heads,
        values: Heads,
        mask: Bool[Tensor, "task n"],
        seen: Float[Tensor, " task"],
    ) -> LinearAttentionMoments:
        """The means over the pairs before and the observed ones of these."""
        features, count = self._features(keys) * mask[:, None, :, None], count_tokens(mask, seen)
        total = features.transpose(2, 3) @ values.to(features.dtype)
        return LinearAttentionMoments(
            running_mean(state.feature, features.sum(2), seen, count),
            running_mean(state.feature_value, total, seen, count),
        )

    def recall(
        self, state: LinearAttentionMoments, queries: Heads, seen: Float[Tensor, " task"]
    ) -> Heads:
        """The weighted mean of the values; zero where nothing is stored."""
        features = self._features(queries)
        weight = (features * state.feature[:, :, None]).sum(3, keepdim=True)
        return (
            features @ state.feature_value / (weight + 1 / seen.clamp(min=1)[:, None, None, None])
        )

    def _features(self, x: Heads) -> Heads:
        scale = self.log_scale.exp()[:, None, None] * self.key_dim**-0.5
        scaled = x.to(torch.promote_types(x.dtype, torch.float32)) * scale
        return F.elu(scaled) + 1
