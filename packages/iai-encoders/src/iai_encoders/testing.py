"""Contract suites for anyone who writes an encoder: one call in a test.

Each suite draws tokens, compares results that the role says are equal, and raises AssertionError
with the sentence of the role that does not hold. It works in float64 on a copy of the encoder, in
evaluation mode, on the device of its parameters.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from iai_encoders.interfaces import Memory, SequenceEncoder, SetEncoder, TableEncoder


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
    model = _in_float64(encoder)
    tokens, queries, mask, padded = _draw(model, dim)
    given = tokens.clone()
    memory = model.encode(tokens)
    answers = model.read(queries, memory)
    _check_read(model, queries, memory, answers)

    def read(tokens: Tensor, mask: Tensor | None = None) -> Any:
        return model.read(queries, model.encode(tokens, mask=mask))

    _check_same(tokens, given, "A set is left as it was.")
    _check_same(read(tokens), answers, "A set has the same answers each time.")
    permuted = read(tokens.flip(1).roll(2, 1))
    _check_same(permuted, answers, "A permuted set has the same answers.")
    whole = read(tokens, torch.ones_like(mask))
    _check_same(whole, answers, "A mask that hides no token changes no answer.")
    masked = read(padded, mask)
    observed = "A masked token, NaN included, changes no answer."
    nothing = "A fully masked set has the finite answers of an empty one."
    for task in _each(tokens):
        alone = model.read(queries[task], model.encode(tokens[task]))
        _check_same(alone, answers[task], "A task has the same answers alone and in a batch.")
        kept = model.read(queries[task], model.encode(tokens[task, mask[task][0]]))
        _check_same(masked[task], kept, observed if mask[task].any() else nothing)
    _check_same(read(tokens, mask), masked, observed)
    hidden, empty = read(padded, torch.zeros_like(mask)), read(tokens[:, :0])
    assert empty.isfinite().all(), nothing
    _check_same(hidden, empty, nothing)
    _check_gradients(model, masked, padded, mask)


def check_sequence_encoder(encoder: SequenceEncoder[Any], dim: int) -> None:
    """Checks that a sequence encoder, an ``nn.Module``, keeps the promises of its role.

    A memory is a pytree of tensors that lead with the tasks, and `extend` and `read` leave it as it
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
    model = _in_float64(encoder)
    tokens, queries, mask, padded = _draw(model, dim)
    num_tasks, num_tokens, _ = tokens.shape
    empty = model.empty(num_tasks)
    outputs, memory = model.extend(empty, tokens)
    answers = model.read(queries, memory)
    assert outputs.shape == tokens.shape, "There is an output a token."
    _check_read(model, queries, memory, answers)

    kept = [leaf.clone() for leaf in tree_leaves(memory)]
    for index in range(queries.shape[1]):
        query = slice(index, index + 1)
        following, _ = model.extend(memory, queries[:, query])
        sentence = "A read answers as the next output would."
        _check_same(following, answers[:, query], sentence)
    model.read(queries, memory)
    sentence = "`extend` and `read` leave the memory as it was."
    assert all(map(torch.equal, tree_leaves(memory), kept)), sentence
    others, _ = model.extend(empty, torch.cat([tokens[:, :3], queries], 1))
    _check_same(others[:, :3], outputs[:, :3], "A token changes no output before it.")
    for lengths in ([1] * num_tokens, [2, num_tokens - 2], [0, num_tokens]):
        pieces, extended = [], empty
        for piece in tokens.split_with_sizes(lengths, 1):
            output, extended = model.extend(extended, piece)
            pieces.append(output)
        sentence = "A sequence in pieces is the same as in one pass."
        _check_same(torch.cat(pieces, 1), outputs, sentence)
        _check_same(model.read(queries, extended), answers, sentence)

    before, extended = model.extend(empty, padded, mask=mask)
    finite, other = model.extend(empty, tokens, mask=mask)
    sentence = "A masked token, NaN included, changes nothing before or after it."
    _check_same(finite[mask], before[mask], sentence)
    _check_same(model.read(queries, other), model.read(queries, extended), sentence)
    after, extended = model.extend(extended, queries)
    masked = model.read(queries, extended)
    assert before.isfinite().all(), "The output at a masked token is finite."
    for task in _each(tokens):
        output, extended = model.extend(model.empty(1), tokens[task])
        sentence = "A task is the same alone and in a batch."
        _check_same(output, outputs[task], sentence)
        _check_same(model.read(queries[task], extended), answers[task], sentence)
        shown = mask[task][0]
        observed = torch.cat([tokens[task, shown], queries[task]], 1)
        expected, extended = model.extend(model.empty(1), observed)
        sentence = "A masked token, NaN included, changes nothing before or after it."
        _check_same(torch.cat([before[task, shown], after[task]], 1), expected, sentence)
        _check_same(masked[task], model.read(queries[task], extended), sentence)
    results = torch.cat([before[mask], after.flatten(0, 1), masked.flatten(0, 1)])
    _check_gradients(model, results, padded, mask)


def check_table_encoder(encoder: TableEncoder, dim: int) -> None:
    """Checks that a table encoder, an ``nn.Module``, keeps the promises of its role.

    Permuting the columns permutes the vectors, and permuting the rows changes nothing; padding (NaN
    included) and the other tasks change nothing; a table without an observed row has finite
    vectors; gradients reach the observed cells and every parameter, and never a masked row.

    Args:
        encoder: A table encoder.
        dim: Numbers a cell.

    Raises:
        AssertionError: With the sentence that does not hold.

    >>> from iai_encoders import AxialTransformer
    >>> check_table_encoder(AxialTransformer(dim=4, num_layers=1, num_heads=2), dim=4)
    """
    model = _in_float64(encoder)
    tokens, queries, mask, _ = _draw(model, dim)
    cells = tokens[:, :, None] * queries[:, None]  # task n column dim
    padded = cells.masked_fill(~mask[..., None, None], torch.nan).requires_grad_()
    vectors = model.encode(cells)

    assert vectors.shape == queries.shape, "There is a vector a column."
    permuted = model.encode(cells.flip(1).roll(2, 1))
    _check_same(permuted, vectors, "Rows in another order change no vector.")
    permuted = model.encode(cells.flip(2).roll(2, 2))
    _check_same(permuted, vectors.flip(1).roll(2, 1), "Vectors follow their columns.")
    whole = model.encode(cells, mask=torch.ones_like(mask))
    _check_same(whole, vectors, "A mask that hides no row changes no vector.")
    masked = model.encode(padded, mask=mask)
    finite = model.encode(cells, mask=mask)
    _check_same(finite, masked, "A masked row, NaN included, changes no vector.")
    for task in _each(tokens):
        alone, kept = model.encode(cells[task]), model.encode(cells[task, mask[task][0]])
        _check_same(alone, vectors[task], "A task is the same alone and in a batch.")
        _check_same(masked[task], kept, "A masked row, NaN included, changes no vector.")
    assert masked.isfinite().all(), "A table without an observed row has finite vectors."
    _check_gradients(model, masked, padded, mask)


def _in_float64(encoder: Any) -> Any:
    assert isinstance(encoder, nn.Module), "An encoder is an nn.Module."
    return copy.deepcopy(encoder).double().eval()


def _draw(model: nn.Module, dim: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens, queries, a mask, and the tokens with NaN where they are masked."""
    generator = torch.Generator().manual_seed(0)
    device = next(model.parameters()).device
    tokens = torch.randn(4, 6, dim, generator=generator, dtype=torch.float64).to(device)
    queries = torch.randn(4, 5, dim, generator=generator, dtype=torch.float64).to(device)
    mask = torch.ones(4, 6, dtype=torch.bool, device=device)  # the first task is whole
    mask[1, ::2] = False
    mask[2, 4:] = False
    mask[3] = False
    padded = tokens.masked_fill(~mask[..., None], torch.nan).requires_grad_()
    return tokens, queries, mask, padded


def _each(tokens: Tensor) -> list[slice]:
    return [slice(task, task + 1) for task in range(tokens.shape[0])]


def _check_same(actual: Tensor, expected: Tensor, sentence: str) -> None:
    torch.testing.assert_close(
        actual, expected, rtol=1e-9, atol=1e-10, msg=lambda details: f"{sentence}\n{details}"
    )


def _check_read(model: Any, queries: Tensor, memory: Any, answers: Tensor) -> None:
    assert isinstance(memory, Memory), "A memory has `num_elements`."
    assert isinstance(memory.num_elements, int), "`num_elements` is an int."
    for leaf in tree_leaves(memory):
        led = isinstance(leaf, Tensor) and leaf.shape[:1] == queries.shape[:1]
        assert led, (
            "A memory is a pytree of tensors that lead with the tasks, such as a NamedTuple."
        )
    assert answers.shape == queries.shape, "There is an answer a query."
    for subset in ([2], [3, 0], []):
        some = model.read(queries[:, subset], memory)
        _check_same(some, answers[:, subset], "A subset of the queries has the same answers.")


def _check_gradients(model: nn.Module, results: Tensor, tokens: Tensor, mask: Tensor) -> None:
    trained = {name: leaf for name, leaf in model.named_parameters() if leaf.requires_grad}
    # Uneven weights, since the plain sum of a normalised vector is a constant.
    weights = torch.linspace(-1.0, 1.0, results.numel(), dtype=results.dtype).view_as(results)
    loss = (results * weights.to(results.device)).sum()
    of_tokens, *of_parameters = torch.autograd.grad(
        loss, [tokens, *trained.values()], materialize_grads=True
    )
    assert (of_tokens[mask] != 0).any(), "Gradients reach the observed tokens."
    assert (of_tokens[~mask] == 0).all(), "No gradient reaches a masked token."
    for name, gradient in zip(trained, of_parameters, strict=True):
        assert gradient.isfinite().all(), f"Gradients are finite; that of {name} is not."
        assert (gradient != 0).any(), f"Gradients reach every parameter; none reaches {name}."
