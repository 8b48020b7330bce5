"""The contract of an encoder of sets that come one minibatch after the other."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from iai_encoders.interfaces import Memory, MemoryEncoder, ScanningMemory
from iai_encoders.testing.comparison import check_same, draw, in_float64
from iai_encoders.testing.minibatches import Minibatch, check_minibatches


def check_memory_encoder(encoder: MemoryEncoder[Any], dim: int) -> None:
    """Checks that a memory encoder of sets, an ``nn.Module``, keeps the promises of its role.

    A memory is a pytree of tensors that lead with the tasks, of the same shapes and dtypes however
    many tokens it has read; what is given is left as it was. The order within a minibatch, padding
    (NaN included), the other queries and the other tasks change no answer. A task without an
    observed token keeps its memory, bit for bit. Questions that do not fit the tokens are refused.
    Gradients reach the observed tokens of all minibatches, questions where they are used, and every
    parameter, and never a masked token. Where there is a `scan`, its memory is that of `extend`.

    The cut into minibatches may change answers. Encoders of sequences, for which the order counts,
    have `check_sequence_encoder`.

    Args:
        encoder: A memory encoder.
        dim: Numbers a token.

    Raises:
        AssertionError: With the sentence that does not hold.

    >>> from iai_encoders import MemoryTransformer
    >>> check_memory_encoder(MemoryTransformer(dim=4, num_layers=2, num_heads=1), dim=4)
    """
    model = in_float64(encoder)

    def run(queries: Tensor, minibatches: Sequence[Minibatch]) -> tuple[Tensor, list[Any]]:
        memories = [model.empty(len(queries))]
        for tokens, questions, mask in minibatches:
            memories.append(model.extend(memories[-1], tokens, questions=questions, mask=mask))
        return model.read(queries, memories[-1]), memories

    tokens, queries, mask, _ = draw(model, dim)
    questions = tokens.cos()
    _, (empty, memory) = run(queries, [Minibatch(tokens, questions)])
    for held in (empty, memory):
        assert isinstance(held, Memory), "A memory has `num_elements`."
        assert isinstance(held.num_elements, int), "`num_elements` is an int."
    sentence = "`num_elements` does not grow with the tokens read."
    assert memory.num_elements == empty.num_elements, sentence
    check_minibatches(model, dim, run)
    if not isinstance(model, ScanningMemory):
        return
    outputs, scanned = model.scan(memory, tokens, questions=questions, mask=mask)
    extended = model.extend(memory, tokens, questions=questions, mask=mask)
    assert outputs.shape == tokens.shape, "`scan` gives an output a token."
    assert outputs.isfinite().all(), "The output at a masked token is finite."
    for one, other in zip(tree_leaves(scanned), tree_leaves(extended), strict=True):
        check_same(one, other, "The memory of `scan` is that of `extend`.")
    padded = tokens.masked_fill(~mask[..., None], torch.nan)
    others, _ = model.scan(memory, padded, questions=questions, mask=mask)
    sentence = "A masked token, NaN included, changes no output of another."
    check_same(others[mask], outputs[mask], sentence)
