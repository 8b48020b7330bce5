"""Contract suites for anyone who writes a regime or a gradient mode: one call in a test.

Each suite raises AssertionError with the sentence of the contract that does not hold.
"""

import copy
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from iai_iterate.interfaces import GradientMode, Regime, Step


def check_regime(regime: Regime, support: Any, query: Any) -> None:
    """Hold a regime to what `Iterated`, `Adapted` and `Pool` rely on.

    A state keeps its structure, shapes and dtypes, and `seen` counts the distinct observed examples
    behind it; what holds no observed example moves nothing; reading changes nothing that was handed
    in, gives the same each time and needs no gradients; a task is the same alone and in a batch; so
    is a query; the loss gives every trainable weight a gradient.

    Args:
        regime: What to check, in evaluation mode on a copy where it is an `nn.Module`.
        support: At least two tasks of at least two examples, float64 for an exact check. Masks may
            hide some of them, or all of a task's. It is indexed as in `batch[:, i:j]` and, by
            tasks, as in `batch[i:j]`.
        query: Labelled queries of the same tasks, at least two a task, indexed alike.

    Raises:
        AssertionError: With the sentence that does not hold.
    """
    assert isinstance(regime, Regime), "A regime has `needs_query` and six methods."
    assert isinstance(regime.needs_query, bool), "`needs_query` is a bool."
    if isinstance(regime, nn.Module):
        regime = copy.deepcopy(regime).eval()
    regime.validate(support)
    num_tasks, num_examples = support.mask.shape
    halves = support[:, : num_examples // 2], support[:, num_examples // 2 :]

    start = regime.init(num_tasks, query.x)
    _check_start(regime, start, num_tasks)
    states = [start]
    for half in halves:
        before = _clones((states[-1], _fields(half), query.x))
        states.append(regime.update(states[-1], regime.encode(half), query.x, True))
        _check_same((states[-2], _fields(half), query.x), before, "Nothing given is changed.")
    for (old, new), half in zip(pairwise(states), halves, strict=True):
        _check_step(regime, old, new, half, query.x)
    outputs = _check_outputs(regime, states[-1], query)
    _check_repeated(regime, halves, query, outputs)
    _check_parts(regime, halves, query, outputs)
    if isinstance(regime, nn.Module):
        _check_weights(regime, states, query)


def check_gradient_mode(mode: GradientMode[Any]) -> None:
    """Hold a gradient mode to what `Iterated`, and anyone's own training loop, relies on.

    It takes any pytree and reads the minibatches once, in order; its losses and its last state are
    those of the plain loop, with gradients and without, and the state is detached; the loss after a
    single step reaches the start; a step that changes the state's structure, shapes or dtypes, or
    works in place, is refused, and so is a rollout without a minibatch; what was given is left as
    it was.

    Which gradients cross several steps is a mode's own affair, and not held to anything here.

    Args:
        mode: What to check.

    Raises:
        AssertionError: With the sentence that does not hold.

    >>> from iai_iterate import truncated
    >>> check_gradient_mode(truncated(3))
    """
    num_steps = 5
    generator = torch.Generator().manual_seed(0)
    draw = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    learned = {"a": draw.requires_grad_(), "b": (draw.detach()[:, 0].clone().requires_grad_(),)}
    rates = torch.linspace(0.1, 0.5, num_steps, dtype=torch.float64).requires_grad_()

    def step(state: "_Nested", index: int) -> "_Nested":
        a, (b,) = state.parts["a"], state.parts["b"]
        moved = a - rates[index] * (a.sin() + b[:, None])
        return _Nested({"a": moved, "b": (b * (1 - rates[index]),)}, state.seen + 1)

    def loss(state: "_Nested") -> Tensor:
        error: Tensor = state.parts["a"] + state.parts["b"][0][:, None]
        return error.square().sum(1) + 0 * state.seen

    start = _Nested(learned, torch.zeros(3, dtype=torch.float64))
    before = _clones(start)
    expected, plain = [], start
    for index in range(num_steps):
        plain = step(plain, index)
        expected.append(loss(plain))

    losses, state = mode(step, loss, start, _once(num_steps))
    assert losses.shape == (num_steps, 3), (
        f"There is a loss a step and task, {(num_steps, 3)}; got {tuple(losses.shape)}."
    )
    _check_same(losses, torch.stack(expected), "The losses are those of the plain loop.")
    _check_same(state, plain, "The last state is that of the plain loop.")
    _check_same(start, before, "The start is left as it was.")
    assert not any(leaf.requires_grad for leaf in tree_leaves(state)), "The state is detached."
    single, _ = mode(step, loss, start, _once(1))
    sentence = "The loss after a single step reaches the start."
    assert single.requires_grad, sentence
    of_start = torch.autograd.grad(single.sum(), tree_leaves(learned), materialize_grads=True)
    assert all((leaf != 0).any() for leaf in of_start), sentence
    with torch.no_grad():
        again, _ = mode(step, loss, start, _once(num_steps))
    _check_same(again, losses, "The losses are the same without gradients.")
    _check_refused(mode, step, start, [], "Without a minibatch there is a ValueError.")
    for change in (
        lambda state, _: state._replace(parts=[state.parts["a"], state.parts["b"]]),
        lambda state, _: state._replace(seen=state.seen[:, None]),
        lambda state, _: state._replace(seen=state.seen.float()),
    ):
        sentence = "A step that changes a state's structure, shapes or dtypes is a ValueError."
        _check_refused(mode, change, start, _once(1), sentence)
    spare = start._replace(seen=start.seen.clone())
    sentence = "A step that changes the state that it is given in place is a ValueError."
    _check_refused(mode, _count_in_place, spare, _once(1), sentence)


def _count_in_place(state: "_Nested", _: int) -> "_Nested":
    state.seen.add_(1)
    return state


class _Nested(NamedTuple):
    parts: dict[str, Any]
    seen: Tensor


def _check_refused(
    mode: GradientMode[Any], step: Step[Any], start: Any, batches: Iterable[int], sentence: str
) -> None:
    def loss(state: Any) -> Tensor:
        return torch.zeros(3, dtype=torch.float64)

    try:
        mode(step, loss, start, batches)
    except ValueError:
        return
    raise AssertionError(sentence)


def _once(num_steps: int) -> Iterator[int]:
    yield from range(num_steps)


def _check_start(regime: Regime, start: Any, num_tasks: int) -> None:
    for leaf in tree_leaves(start):
        assert isinstance(leaf, Tensor), f"A state is a pytree of tensors; got {type(leaf)}."
        led = leaf.dim() > 0 and leaf.shape[0] == num_tasks
        assert led, f"A state's tensors lead with the {num_tasks} tasks; got {tuple(leaf.shape)}."
    _check_seen(start, torch.zeros(num_tasks), "The start has seen nothing.")
    if not regime.needs_query:
        sentence = "Where `needs_query` is False, the start needs no query."
        _check_same(regime.init(num_tasks, None), start, sentence)


def _check_seen(state: Any, expected: Tensor, sentence: str) -> None:
    assert isinstance(getattr(state, "seen", None), Tensor), "A state has `seen`, a tensor."
    right = state.seen.shape == expected.shape and torch.equal(state.seen.cpu(), expected.cpu())
    assert right, f"{sentence} `seen` is {state.seen.tolist()}, not {expected.tolist()}."


def _check_step(regime: Regime, old: Any, new: Any, batch: Any, query_x: Tensor) -> None:
    (leaves, structure), (moved, after) = tree_flatten(old), tree_flatten(new)
    kept = structure == after and all(
        a.shape == b.shape and a.dtype == b.dtype for a, b in zip(leaves, moved, strict=True)
    )
    assert kept, "A state keeps its structure, shapes and dtypes."
    count = batch.mask.sum(1).to(old.seen.dtype)
    _check_seen(new, old.seen + count, "`seen` counts observed examples.")
    stale = regime.update(old, regime.encode(batch), query_x, False)
    _check_seen(stale, old.seen, "With `fresh` False nothing is added to `seen`.")
    for fresh in (True, False):
        empty = regime.update(old, regime.encode(batch[:, :0]), query_x, fresh)
        _check_same(empty, old, "A minibatch without examples moves nothing.")
    unread = count == 0
    sentence = "A task without an observed example in the minibatch does not move."
    _check_same([leaf[unread] for leaf in moved], [leaf[unread] for leaf in leaves], sentence)
    if not regime.needs_query:
        again = regime.update(old, regime.encode(batch), None, True)
        _check_same(again, new, "Where `needs_query` is False, an update needs no query.")


def _check_outputs(regime: Regime, state: Any, query: Any) -> Tensor:
    outputs = regime.predict(state, query.x)
    assert outputs.dim() == 3 and outputs.shape[:2] == query.mask.shape, (
        f"Outputs are `task query num_outputs`; got {tuple(outputs.shape)}."
    )
    losses = regime.loss(outputs, query)
    assert losses.shape == query.mask.shape[:1], (
        f"There is a loss a task; got {tuple(losses.shape)}."
    )
    assert losses.isfinite().all(), "The loss is finite."
    return outputs


def _check_repeated(regime: Regime, halves: Any, query: Any, outputs: Tensor) -> None:
    again = _refined(regime, halves, query.x)
    assert torch.equal(again, outputs), "The same examples give the same answer, bit for bit."
    with torch.no_grad():
        _check_same(_refined(regime, halves, query.x), outputs, "Reading needs no gradients.")


def _check_parts(regime: Regime, halves: Any, query: Any, outputs: Tensor) -> None:
    for task in range(outputs.shape[0]):
        rows = slice(task, task + 1)
        alone = _refined(regime, [half[rows] for half in halves], query.x[rows])
        _check_same(alone, outputs[rows], "A task is the same alone and in a batch.")
    backwards = torch.arange(outputs.shape[1], device=query.x.device).flip(0)
    for index in (backwards, backwards[:1]):
        subset = _refined(regime, halves, query.x[:, index])
        _check_same(subset, outputs[:, index], "A query has the same answer in any company.")
        one, other = regime.loss(subset, query[:, index]), regime.loss(outputs, query)
        if len(index) > 1:
            _check_same(one, other, "The order of the queries does not change the loss.")


def _check_weights(regime: Any, states: list[Any], query: Any) -> None:
    trained = {name: weight for name, weight in regime.named_parameters() if weight.requires_grad}
    losses = [regime.loss(regime.predict(state, query.x), query).sum() for state in states]
    total = torch.stack(losses).sum()
    missing = list(trained)
    if trained and total.requires_grad:
        gradients = torch.autograd.grad(total, list(trained.values()), allow_unused=True)
        missing = [name for name, grad in zip(trained, gradients, strict=True) if grad is None]
    assert not missing, f"Every trainable weight has a gradient; not {', '.join(missing)}."


def _refined(regime: Regime, batches: Any, query_x: Tensor) -> Tensor:
    state = regime.init(query_x.shape[0], query_x)
    for batch in batches:
        state = regime.update(state, regime.encode(batch), query_x, True)
    return regime.predict(state, query_x)


def _fields(batch: Any) -> list[Tensor]:
    values = (getattr(batch, name, None) for name in ("x", "y", "mask"))
    return [value for value in values if isinstance(value, Tensor)]


def _clones(tree: Any) -> Any:
    return tree_map(lambda leaf: leaf.detach().clone(), tree)


def _check_same(actual: Any, expected: Any, sentence: str) -> None:
    (leaves, structure), (others, other) = tree_flatten(actual), tree_flatten(expected)
    assert structure == other, f"{sentence}\nThe structures differ: {structure}, {other}."
    for one, another in zip(leaves, others, strict=True):
        exact = one.dtype == torch.float64
        torch.testing.assert_close(
            one,
            another,
            rtol=1e-9 if exact else 1e-4,
            atol=1e-10 if exact else 1e-5,
            equal_nan=True,
            msg=lambda details: f"{sentence}\n{details}",
        )
