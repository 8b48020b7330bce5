"""Softmax attention over tokens that come one minibatch after the other."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iai_encoders.precision import without_autocast

Heads = Float[Tensor, "task head m key"]

_NOTHING = -1e30  # the logarithm of a sum over no tokens: finite, and its exponential is 0


class Found(NamedTuple):
    """What the attention of a layer has found in all tokens read so far.

    Attributes:
        log_normaliser: ``task head m``, the logarithm of the softmax's sum over the tokens.
        value: ``task head m key``, the softmax's weighted mean of their values; zero for no tokens.
    """

    log_normaliser: Tensor
    value: Tensor


def nothing_found(value: Heads) -> Found:
    """What attention finds in no tokens, from the zeros that are its value."""
    return Found(value.new_full(value.shape[:3], _NOTHING), value)


def attend_further(
    found: Found,
    queries: Heads,
    keys: Float[Tensor, "task head n key"],
    values: Float[Tensor, "task head n key"],
    mask: Bool[Tensor, "task n"],
) -> Found:
    """Adds the observed tokens to what was found, which is one more slot of their softmax.

    Where none is observed, it stays as it was, bit for bit.

    Args:
        found: In the tokens before. Its dtype is that of all sums, under autocast as well.
        queries: Scaled: the score of a token is ``queries @ keys``.
        keys: Keys of the tokens.
        values: Their values; finite where they are masked, too.
        mask: True where a token is observed.

    Two tokens of the values 1 and 5, read one by one, with scores of 0:

    >>> zero, mask = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, dtype=torch.bool)
    >>> found = attend_further(nothing_found(zero), zero, zero, zero + 1, mask)
    >>> attend_further(found, zero, zero, zero + 5, mask).value.item()
    3.0
    """
    dtype = found.value.dtype
    with without_autocast(queries.device):
        scores = queries.to(dtype) @ keys.to(dtype).transpose(2, 3)
        scores = scores.masked_fill(~mask[:, None, None], -torch.inf)
        scores = torch.cat([found.log_normaliser[..., None], scores], 3)
        weights = scores.softmax(3)
        value = weights[..., :1] * found.value + weights[..., 1:] @ values.to(dtype)
        return Found(scores.logsumexp(3), value)


def with_itself(found: Found, queries: Heads, keys: Heads, values: Heads) -> Heads:
    """What each query finds in all tokens and in itself.

    Args:
        found: In the tokens.
        queries: Scaled, as above.
        keys: The key of each query.
        values: The value of each query.
    """
    share = ((queries * keys).sum(3) - found.log_normaliser).sigmoid()[..., None]
    return found.value.lerp(values.to(found.value.dtype), share)
