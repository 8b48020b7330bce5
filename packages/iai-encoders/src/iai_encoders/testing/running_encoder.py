"""The contract of an encoder that keeps a state for given queries."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from iai_encoders.interfaces import RunningEncoder
from iai_encoders.testing.comparison import check_same, draw, in_float64
from iai_encoders.testing.minibatches import (
    NUM_STEPS,
    Minibatch,
    check_minibatches,
    one_by_one,
    side_by_side,
)


def check_running_encoder(encoder: RunningEncoder[Any, Any], dim: int) -> None:
    """Checks that a running encoder, an ``nn.Module``, keeps the promises of its role.

    A state is a pytree of tensors that lead with the tasks, of the same shapes and dtypes however
    many tokens it has read; what is given is left as it was. The order within a minibatch, padding
    (NaN included), the other queries and the other tasks change no answer. A task without an
    observed token keeps its state, bit for bit. Questions that do not fit the tokens are refused.
    Gradients reach the observed tokens of all minibatches, questions where they are used, and every
    parameter, and never a masked token. Several minibatches of each task as one batch give what
    they give one by one.

    Args:
        encoder: A running encoder.
        dim: Numbers a token.

    Raises:
        AssertionError: With the sentence that does not hold.

    >>> from iai_encoders import RunningTransformer, SetTransformer
    >>> encoder = RunningTransformer(SetTransformer(dim=4, num_layers=2, num_heads=2))
    >>> check_running_encoder(encoder, dim=4)
    """
    model = in_float64(encoder)
    tokens, queries, mask, _ = draw(model, dim)

    def run(queries: Tensor, minibatches: Sequence[Minibatch]) -> tuple[Tensor, list[Any]]:
        states = [model.start(*queries.shape[:2])]
        nothing = queries.new_zeros(len(queries), 0, dim)
        answers, _ = model.read(queries, model.encode(nothing), states[0])
        for read, questions, mask in minibatches:
            minibatch = model.encode(read, questions=questions, mask=mask)
            answers, state = model.read(queries, minibatch, states[-1])
            states.append(state)
        return answers, states

    check_minibatches(model, dim, run)
    minibatch = model.encode(tokens, questions=tokens.cos())
    kept = [leaf.clone() for leaf in tree_leaves(minibatch) if isinstance(leaf, Tensor)]
    model.read(queries, minibatch, model.start(*queries.shape[:2]))
    left = [leaf for leaf in tree_leaves(minibatch) if isinstance(leaf, Tensor)]
    assert all(map(torch.equal, left, kept)), "`read` leaves a minibatch as it was."

    rows = side_by_side(Minibatch(tokens, tokens.cos(), mask))
    state = model.start(*queries.shape[:2])
    at_once = model.encode(rows.tokens, questions=rows.questions, mask=rows.mask)
    answers, last = model.read(queries, at_once, state)
    sentence = "Several minibatches of each task as one batch have the answers of one by one."
    for step, one in enumerate(one_by_one(rows)):
        minibatch = model.encode(one.tokens, questions=one.questions, mask=one.mask)
        answer, state = model.read(queries, minibatch, state)
        check_same(answers[step::NUM_STEPS], answer, sentence)
    for one, other in zip(tree_leaves(last), tree_leaves(state), strict=True):
        check_same(one, other, "Several minibatches as one batch lead to the state of one by one.")
