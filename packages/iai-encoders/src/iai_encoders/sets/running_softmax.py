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
    queries: Float[Tensor, "row head m key"],
    keys: Float[Tensor, "row head n key"],
    values: Float[Tensor, "row head n key"],
    mask: Bool[Tensor, "row n"],
) -> Found:
    """What attention has found after each of several minibatches of a task.

    A minibatch is one slot of a softmax: its score is the log-normaliser of attention to its
    tokens, its value what that attention finds; what was found before is one more slot. Step `j`
    attends to the minibatches up to `j`. Where no token is observed, what was found stays as it
    was, bit for bit.

    Args:
        found: In the tokens before. Its dtype is that of all sums, under autocast as well.
        queries: Scaled: the score of a token is ``queries @ keys``. Those of step `j` of task `i`
            are in row ``i * step + j``.
        keys: Keys of the tokens of each minibatch.
        values: Their values; finite where they are masked, too.
        mask: True where a token is observed.

    Returns:
        What is found after each step, led by rows.

    Two tokens of the values 1 and 5, one a minibatch, with scores of 0:

    >>> zero, mask = torch.zeros(2, 1, 1, 1), torch.ones(2, 1, dtype=torch.bool)
    >>> values = torch.tensor([1.0, 5.0]).view(2, 1, 1, 1)
    >>> attend_further(nothing_found(zero[:1]), zero, zero, values, mask).value.flatten().tolist()
    [1.0, 3.0]
    """
    dtype, num_tasks = found.value.dtype, len(found.value)
    with without_autocast(queries.device):
        scores = queries.to(dtype) @ keys.to(dtype).transpose(2, 3)
        scores = scores.masked_fill(~mask[:, None, None], _NOTHING)
        nothing = ~mask.any(1)[:, None, None]
        score = scores.logsumexp(3).masked_fill(nothing, _NOTHING)
        value = (scores.softmax(3) @ values.to(dtype)).masked_fill(nothing[..., None], 0.0)
        score = torch.cat([found.log_normaliser[:, None], _steps(score, num_tasks)], 1)
        value = torch.cat([found.value[:, None], _steps(value, num_tasks)], 1)
        # From (task, slot, head, m) to (task, head, m, step, slot); step j sees the slots to j + 1.
        num_slots = score.shape[1]
        later = torch.ones(num_slots - 1, num_slots, dtype=torch.bool, device=mask.device).triu(2)
        score = score.movedim(1, 3)[..., None, :].masked_fill(later, -torch.inf)
        value = score.softmax(4) @ value.movedim(1, 3)
        return Found(
            score.logsumexp(4).movedim(3, 1).flatten(0, 1), value.movedim(3, 1).flatten(0, 1)
        )


def _steps(rows: Tensor, num_tasks: int) -> Tensor:
    return torch.unflatten(rows, 0, (num_tasks, -1) if num_tasks else (0, 1))


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
