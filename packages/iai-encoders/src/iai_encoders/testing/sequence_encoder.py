"""The contract of an encoder of sequences."""

from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from iai_encoders.interfaces import SequenceEncoder
from iai_encoders.testing.comparison import (
    check_gradients,
    check_read,
    check_same,
    draw,
    each,
    in_float64,
)


def check_sequence_encoder(encoder: SequenceEncoder[Any], dim: int) -> None:
    """Checks that a sequence encoder, an ``nn.Module``, keeps the promises of its role.

    A memory is a pytree of tensors that lead with the tasks, and `scan` and `read` leave it as it
    was. One pass is the same as one token at a time; no token changes an output before it; padding
    (NaN included), the other queries and the other tasks change nothing; a read answers as the next
    output would; gradients reach the observed tokens and every parameter, and never a masked token.

    Args:
        encoder: A sequence encoder.
        dim: Numbers a token.

    Raises:
        AssertionError: With the sentence that does not hold.

    >>> from iai_encoders import CausalTransformer
    >>> encoder = CausalTransformer(dim=4, num_layers=1, num_heads=2)
    >>> check_sequence_encoder(encoder, dim=4)
    """
    model = in_float64(encoder)
    tokens, queries, mask, padded = draw(model, dim)
    num_tasks, num_tokens, _ = tokens.shape
    empty = model.empty(num_tasks)
    outputs, memory = model.scan(empty, tokens)
    answers = model.read(queries, memory)
    assert outputs.shape == tokens.shape, "There is an output a token."
    check_read(model, queries, memory, answers)

    kept = [leaf.clone() for leaf in tree_leaves(memory)]
    for index in range(queries.shape[1]):
        query = slice(index, index + 1)
        following, _ = model.scan(memory, queries[:, query])
        sentence = "A read answers as the next output would."
        check_same(following, answers[:, query], sentence)
    model.read(queries, memory)
    sentence = "`scan` and `read` leave the memory as it was."
    assert all(map(torch.equal, tree_leaves(memory), kept)), sentence
    others, _ = model.scan(empty, torch.cat([tokens[:, :3], queries], 1))
    check_same(others[:, :3], outputs[:, :3], "A token changes no output before it.")
    for one, other in zip(
        tree_leaves(model.extend(memory, queries)),
        tree_leaves(model.scan(memory, queries)[1]),
        strict=True,
    ):
        check_same(one, other, "The memory of `extend` is that of `scan`.")
    for lengths in ([1] * num_tokens, [2, num_tokens - 2], [0, num_tokens]):
        pieces, extended = [], empty
        for piece in tokens.split_with_sizes(lengths, 1):
            output, extended = model.scan(extended, piece)
            pieces.append(output)
        sentence = "A sequence in pieces is the same as in one pass."
        check_same(torch.cat(pieces, 1), outputs, sentence)
        check_same(model.read(queries, extended), answers, sentence)

    before, extended = model.scan(empty, padded, mask=mask)
    finite, other = model.scan(empty, tokens, mask=mask)
    sentence = "A masked token, NaN included, changes nothing before or after it."
    check_same(finite[mask], before[mask], sentence)
    check_same(model.read(queries, other), model.read(queries, extended), sentence)
    after, extended = model.scan(extended, queries)
    masked = model.read(queries, extended)
    assert before.isfinite().all(), "The output at a masked token is finite."
    for task in each(tokens):
        output, extended = model.scan(model.empty(1), tokens[task])
        sentence = "A task is the same alone and in a batch."
        check_same(output, outputs[task], sentence)
        check_same(model.read(queries[task], extended), answers[task], sentence)
        shown = mask[task][0]
        observed = torch.cat([tokens[task, shown], queries[task]], 1)
        expected, extended = model.scan(model.empty(1), observed)
        sentence = "A masked token, NaN included, changes nothing before or after it."
        check_same(torch.cat([before[task, shown], after[task]], 1), expected, sentence)
        check_same(masked[task], model.read(queries[task], extended), sentence)
    results = torch.cat([before[mask], after.flatten(0, 1), masked.flatten(0, 1)])
    check_gradients(model, results, padded, mask)
