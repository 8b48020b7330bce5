"""What every encoder promises that reads a set one minibatch after the other."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from iai_encoders.testing.comparison import check_gradients, check_same, draw, each


class Minibatch(NamedTuple):
    """Tokens, their questions and the mask, as `MemoryEncoder.extend` takes them."""

    tokens: Tensor
    questions: Tensor
    mask: Tensor | None = None

    def of(self, task: slice) -> "Minibatch":
        """The observed tokens of one task, without a mask."""
        shown = slice(None) if self.mask is None else self.mask[task][0]
        return Minibatch(self.tokens[task, shown], self.questions[task, shown])


NUM_STEPS = 3


def side_by_side(minibatch: Minibatch) -> Minibatch:
    """Three minibatches of each task as one batch; minibatch `j` of task `i` in row ``3 i + j``.

    They are this one with its tokens and its mask moved by none, one and two tasks.
    """
    whole = (leaf for leaf in minibatch if leaf is not None)
    moved = (torch.stack([leaf.roll(step, 0) for step in range(NUM_STEPS)], 1) for leaf in whole)
    return Minibatch(*(leaf.flatten(0, 1) for leaf in moved))


def one_by_one(rows: Minibatch) -> list[Minibatch]:
    """The minibatches that `side_by_side` put into one batch."""
    whole = [leaf for leaf in rows if leaf is not None]
    return [Minibatch(*(leaf[step::NUM_STEPS] for leaf in whole)) for step in range(NUM_STEPS)]


Run = Callable[[Tensor, Sequence[Minibatch]], tuple[Tensor, list[Any]]]
"""The answers to queries after all minibatches; and the memory before the first and after each."""


def check_minibatches(model: nn.Module, dim: int, run: Run) -> None:
    """Checks what `check_memory_encoder` and `check_running_encoder` have in common."""
    tokens, queries, mask, padded = draw(model, dim)
    questions = tokens.cos()
    hidden = questions.masked_fill(~mask[..., None], torch.nan).requires_grad_()
    before = Minibatch(3 * tokens[:, 3:].roll(1, 2), questions[:, 3:].sin())
    whole, some = Minibatch(tokens, questions), Minibatch(padded, hidden, mask)
    _check_memory(run, queries, before, whole)
    _check_answers(run, queries, before, whole, some)
    _check_nothing(run, queries, before, some)
    _check_questions(run, queries, before)
    _check_flow(model, run, queries, before, some)


def _check_memory(run: Run, queries: Tensor, before: Minibatch, whole: Minibatch) -> None:
    given = [queries, *before[:2], *whole[:2]]
    copies = [leaf.clone() for leaf in given]
    answers, (*_, memory) = run(queries, [before])
    assert answers.shape == queries.shape, "There is an answer a query."
    _, memories = run(queries, [before, whole])
    sentence = "Tokens, questions and queries are left as they were."
    assert all(map(torch.equal, given, copies)), sentence
    for leaf in tree_leaves(memory):
        led = isinstance(leaf, Tensor) and leaf.shape[:1] == queries.shape[:1]
        assert led, (
            "A memory is a pytree of tensors that lead with the tasks, such as a NamedTuple."
        )
    kinds = [[(leaf.shape, leaf.dtype) for leaf in tree_leaves(one)] for one in memories]
    sentence = "A memory keeps its shapes and dtypes, however many tokens it has read."
    assert kinds[0] == kinds[1] == kinds[2], sentence
    for leaf, again in zip(tree_leaves(memory), tree_leaves(memories[1]), strict=True):
        check_same(again, leaf, "The same tokens have the same memory, and reading leaves it so.")


def _check_answers(
    run: Run, queries: Tensor, before: Minibatch, whole: Minibatch, some: Minibatch
) -> None:
    answers, _ = run(queries, [before, whole])
    forgetful, _ = run(queries, [whole])
    assert not torch.allclose(answers, forgetful), "Tokens of earlier minibatches count."
    permuted = Minibatch(*(leaf.flip(1).roll(2, 1) for leaf in whole[:2]))
    same, _ = run(queries, [before, permuted])
    check_same(same, answers, "The order within a minibatch changes no answer.")
    observed = whole._replace(mask=torch.ones_like(whole.tokens[..., 0], dtype=torch.bool))
    same, _ = run(queries, [before, observed])
    check_same(same, answers, "A mask that hides no token changes no answer.")
    for subset in ([2], [3, 0], []):
        fewer, _ = run(queries[:, subset], [before, whole])
        check_same(fewer, answers[:, subset], "A subset of the queries has the same answers.")
    masked, _ = run(queries, [before, some])
    finite, _ = run(queries, [before, whole._replace(mask=some.mask)])
    check_same(finite, masked, "A masked token, NaN included, changes no answer.")
    for task in each(queries):
        alone, _ = run(queries[task], [before.of(task), whole.of(task)])
        check_same(alone, answers[task], "A task has the same answers alone and in a batch.")
        alone, _ = run(queries[task], [before.of(task), some.of(task)])
        check_same(alone, masked[task], "A masked token, NaN included, changes no answer.")


def _check_nothing(run: Run, queries: Tensor, before: Minibatch, some: Minibatch) -> None:
    assert some.mask is not None
    answers, _ = run(queries, [])
    assert answers.isfinite().all(), "A memory of no tokens has finite answers."
    masked = some._replace(mask=torch.zeros_like(some.mask))
    empty = Minibatch(some.tokens[:, :0], some.questions[:, :0])
    for nothing in (masked, empty):
        _, (start, still, memory, after) = run(queries, [nothing, before, nothing])
        _check_kept(start, still)
        _check_kept(memory, after)
    _, (_, memory, after) = run(queries, [before, some])
    unobserved = ~some.mask.any(1)
    _check_kept(*([leaf[unobserved] for leaf in tree_leaves(m)] for m in (memory, after)))


def _check_kept(before: Any, after: Any) -> None:
    sentence = "Without an observed token, a task's memory stays as it was, bit for bit."
    assert all(map(torch.equal, tree_leaves(before), tree_leaves(after))), sentence


def _check_questions(run: Run, queries: Tensor, before: Minibatch) -> None:
    wrong = before._replace(questions=before.questions[:, 1:])
    try:
        run(queries, [wrong])
    except (TypeError, ValueError):  # a checker of shapes may come first with a TypeError
        return
    raise AssertionError("`questions` that are not as many as `tokens` raise ValueError.")


def _check_flow(
    model: nn.Module, run: Run, queries: Tensor, before: Minibatch, some: Minibatch
) -> None:
    first = Minibatch(*(leaf.clone().requires_grad_() for leaf in before[:2]))
    results, _ = run(queries, [first, some])
    others = before._replace(questions=before.questions.flip(2))
    used = not torch.equal(run(queries, [others, some])[0], results)
    weights = torch.linspace(-1.0, 1.0, results.numel(), dtype=results.dtype).view_as(results)
    loss = (results * weights.to(results.device)).sum()
    inputs = [first.tokens, first.questions, some.questions]
    earlier, asked, hidden = torch.autograd.grad(
        loss, inputs, retain_graph=True, materialize_grads=True
    )
    assert (earlier != 0).any(), "Gradients reach the tokens of earlier minibatches."
    if used:
        assert (asked != 0).any() and (hidden != 0).any(), "Gradients reach questions."
    assert some.mask is not None
    assert (hidden[~some.mask] == 0).all(), "No gradient reaches the question of a masked token."
    check_gradients(model, results, some.tokens, some.mask)
