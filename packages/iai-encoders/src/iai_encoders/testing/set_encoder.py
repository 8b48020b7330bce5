"""The contract of an encoder of sets."""

from typing import Any

import torch
from torch import Tensor

from iai_encoders.interfaces import SetEncoder
from iai_encoders.testing.comparison import (
    check_gradients,
    check_read,
    check_same,
    draw,
    each,
    in_float64,
)


def check_set_encoder(encoder: SetEncoder[Any], dim: int) -> None:
    """Checks that a set encoder, an ``nn.Module``, keeps the promises of its role.

    The same set has the same answers each time; a memory is a pytree of tensors that lead with the
    tasks; what is given is left as it was. The order of a set, the padding in it (NaN included),
    the other queries and the other tasks change no answer; a fully masked set has the finite
    answers of an empty one; gradients reach the observed tokens and every parameter, and never a
    masked token.

    Args:
        encoder: A set encoder.
        dim: Numbers a token.

    Raises:
        AssertionError: With the sentence that does not hold.

    >>> from iai_encoders import DeepSet
    >>> check_set_encoder(DeepSet(dim=4), dim=4)
    """
    model = in_float64(encoder)
    tokens, queries, mask, padded = draw(model, dim)
    given = tokens.clone()
    memory = model.encode(tokens)
    answers = model.read(queries, memory)
    check_read(model, queries, memory, answers)

    def read(tokens: Tensor, mask: Tensor | None = None) -> Any:
        return model.read(queries, model.encode(tokens, mask=mask))

    check_same(tokens, given, "A set is left as it was.")
    check_same(read(tokens), answers, "A set has the same answers each time.")
    permuted = read(tokens.flip(1).roll(2, 1))
    check_same(permuted, answers, "A permuted set has the same answers.")
    whole = read(tokens, torch.ones_like(mask))
    check_same(whole, answers, "A mask that hides no token changes no answer.")
    masked = read(padded, mask)
    observed = "A masked token, NaN included, changes no answer."
    nothing = "A fully masked set has the finite answers of an empty one."
    for task in each(tokens):
        alone = model.read(queries[task], model.encode(tokens[task]))
        check_same(alone, answers[task], "A task has the same answers alone and in a batch.")
        kept = model.read(queries[task], model.encode(tokens[task, mask[task][0]]))
        check_same(masked[task], kept, observed if mask[task].any() else nothing)
    check_same(read(tokens, mask), masked, observed)
    hidden, empty = read(padded, torch.zeros_like(mask)), read(tokens[:, :0])
    assert empty.isfinite().all(), nothing
    check_same(hidden, empty, nothing)
    check_gradients(model, masked, padded, mask)
