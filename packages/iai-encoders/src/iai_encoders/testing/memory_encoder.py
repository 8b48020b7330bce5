"""The contract of an encoder of sets that come one minibatch after the other."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from iai_encoders.interfaces import LowerMemory, Memory, MemoryEncoder, TracingMemory
from iai_encoders.testing.comparison import check_same, draw, in_float64
from iai_encoders.testing.minibatches import (
    NUM_STEPS,
    Minibatch,
    check_minibatches,
    one_by_one,
    side_by_side,
)


def check_memory_encoder(encoder: MemoryEncoder[Any], dim: int) -> None:
    """Checks that a memory encoder of sets, an ``nn.Module``, keeps the promises of its role.

    A memory is a pytree of tensors that lead with the tasks, of the same shapes and dtypes however
    many tokens it has read; what is given is left as it was. The order within a minibatch, padding
    (NaN included), the other queries and the other tasks change no answer. A task without an
    observed token keeps its memory, bit for bit. Questions that do not fit the tokens are refused.
    Gradients reach the observed tokens of all minibatches, questions where they are used, and every
    parameter, and never a masked token. Where there are `trace` and `pass_through`, they give what
    `extend` and `read` give.

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
    if isinstance(model, TracingMemory):
        rows = side_by_side(Minibatch(tokens, questions, mask))
        _check_trace(model, queries, memory, rows)
    if isinstance(model, LowerMemory):
        _check_outputs(model, queries, memory, Minibatch(tokens, questions, mask))


def _check_trace(model: TracingMemory[Any], queries: Tensor, memory: Any, rows: Minibatch) -> None:
    tokens, questions, mask = rows
    answers, last = model.trace(memory, tokens, queries, questions=questions, mask=mask)
    sentence = "`trace` gives what `read` gives after each `extend`."
    for step, minibatch in enumerate(one_by_one(rows)):
        tokens, questions, mask = minibatch
        memory = model.extend(memory, tokens, questions=questions, mask=mask)
        check_same(answers[step::NUM_STEPS], model.read(queries, memory), sentence)
    for one, other in zip(tree_leaves(last), tree_leaves(memory), strict=True):
        check_same(one, other, "The memory of `trace` is that of the last `extend`.")
    answers, last = model.trace(memory, rows.tokens[:, :0], queries)
    sentence = "`trace` of minibatches without tokens gives the answers from before."
    check_same(answers[::NUM_STEPS], model.read(queries, memory), sentence)


def _check_outputs(
    model: LowerMemory[Any], queries: Tensor, memory: Any, minibatch: Minibatch
) -> None:
    tokens, questions, mask = minibatch
    assert mask is not None
    how = {"questions": questions, "mask": mask}
    outputs, *rest = model.pass_through(memory, tokens, queries, **how)
    assert outputs.shape == tokens.shape, "`pass_through` gives an output a token."
    assert outputs.isfinite().all(), "The output at a masked token is finite."
    traced = model.trace(memory, tokens, queries, **how)
    for one, other in zip(tree_leaves(rest), tree_leaves(traced), strict=True):
        check_same(one, other, "`pass_through` gives the answers and the memory of `trace`.")
    padded = tokens.masked_fill(~mask[..., None], torch.nan)
    others, *_ = model.pass_through(memory, padded, queries, **how)
    sentence = "A masked token, NaN included, changes no output of another."
    check_same(others[mask], outputs[mask], sentence)
