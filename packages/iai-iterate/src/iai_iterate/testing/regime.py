"""The contract of a regime."""

import copy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from iai_iterate.interfaces import LabelledQuery, Regime, TracingRegime
from iai_iterate.testing.comparison import check_refused, check_same

_check_near = partial(check_same, tolerance=1e-9)


def check_regime(regime: Regime, support: LabelledQuery, query: LabelledQuery) -> None:
    """Checks that a regime does what `Iterated`, `Adapted` and `Pool` rely on.

    A state leads with the axis of tasks, is finite, and keeps its structure, shapes and dtypes;
    `seen` counts the distinct observed examples behind it. A minibatch moves the answers; one
    without an observed example changes nothing. Reading leaves its arguments as they were, gives
    the same each time (what a regime counts or remembers is in its state, and nowhere else, so that
    what was saved goes on as it would have), and works with gradients disabled. The order of a
    minibatch, its padding (NaN included), the other queries and the other tasks change no answer
    and no loss. One step gives every trainable weight a finite gradient. `validate` refuses NaN and
    impossible targets where they are observed, and only there. Where there is a `trace`, it gives
    what steps one by one give.

    The suite works in float64 on the CPU, on a copy in evaluation mode. The weights of the copy are
    moved a little, so that a learned update that starts at zero moves the state.

    Args:
        regime: What to check.
        support: At least two tasks of four examples, all observed, with `x`, `y` and `mask`; `y` is
            None, or not there, where examples have no targets.
        query: At least two queries to each task, with the same fields.

    Raises:
        AssertionError: With the sentence that does not hold.
    """
    assert isinstance(regime, Regime), "A regime has `needs_query` and six methods."
    assert isinstance(regime.needs_query, bool), "`needs_query` is a bool."
    model, support, query = _jittered(regime), _double(support), _double(query)
    num_tasks, num_examples = support.mask.shape
    enough = num_tasks > 1 and num_examples > 3 and query.mask.shape[1] > 1
    observed = bool(support.mask.all() and query.mask.all())
    assert enough and observed, (
        "The suite needs two tasks of four observed examples and two queries."
    )
    _check_start(model, query.x)
    state = model.init(num_tasks, query.x)
    for half in _halves(support):
        _check_step(model, state, half, query.x)
        state = _read(model, state, query.x, half)
    _check_answers(model, support, query)
    if isinstance(model, TracingRegime) and model.traces:
        _check_trace(model, support, query)
    _check_company(model, support, query)
    _check_padding(model, support, query)
    _check_gradients(model, support, query)
    _check_validation(model, support)


@dataclass(frozen=True)
class _Set:
    x: Tensor
    y: Tensor | None
    mask: Tensor

    def __getitem__(self, key: Any) -> "_Set":
        return _Set(self.x[key], None if self.y is None else self.y[key], self.mask[key])

    def padded(self, *hidden: Any, finite: bool = False) -> "_Set":
        """The set without the examples of these indices, where x and y become impossible.

        With `finite` they become other numbers and stay possible: only the mask tells them apart.
        """
        mask, change = self.mask.clone(), _shifted if finite else _spoilt
        for index in hidden:
            mask[index] = False
        y = None if self.y is None else change(self.y, mask)
        return _Set(change(self.x, mask), y, mask)


def _halves(support: _Set) -> tuple[_Set, _Set]:
    return support[:, :2], support[:, 2:]


def _read(model: Any, state: Any, query_x: Tensor, *batches: _Set, fresh: bool = True) -> Any:
    for batch in batches:
        state = model.update(state, model.encode(batch), query_x, fresh)
    return state


def _answers(model: Any, query_x: Tensor, *batches: _Set) -> Tensor:
    state = _read(model, model.init(len(query_x), query_x), query_x, *batches)
    outputs: Tensor = model.predict(state, query_x)
    return outputs


def _check_start(model: Any, query_x: Tensor) -> None:
    num_tasks = len(query_x)
    start = model.init(num_tasks, query_x)
    for leaf in tree_leaves(start):
        led = isinstance(leaf, Tensor) and leaf.shape[:1] == (num_tasks,)
        assert led, f"A state is a pytree of tensors that lead with the {num_tasks} tasks."
    assert isinstance(getattr(start, "seen", None), Tensor), "A state has `seen`, a tensor."
    _check_finite(start)
    check_same(start.seen, 0 * start.seen, "The start has seen nothing.")
    if model.needs_query:
        sentence = "Where `needs_query` is True, a start without queries is a ValueError."
        check_refused(lambda: model.init(num_tasks, None), sentence)
    else:
        sentence = "Where `needs_query` is False, the start needs no query."
        check_same(model.init(num_tasks, None), start, sentence)


def _check_step(model: Any, old: Any, batch: _Set, query_x: Tensor) -> None:
    given = (old, batch.x, batch.mask, query_x)
    before = tree_map(Tensor.clone, given)
    new = _read(model, old, query_x, batch)
    check_same(given, before, "Nothing given is changed.")
    assert _kinds(new) == _kinds(old), "A state keeps its structure, shapes and dtypes."
    _check_finite(new)
    again = _read(model, old, query_x, batch)
    check_same(again, new, "The same minibatch moves a state alike each time, bit for bit.")
    count = batch.mask.sum(1).to(old.seen.dtype)
    check_same(new.seen, old.seen + count, "`seen` counts observed examples.")
    stale = _read(model, old, query_x, batch, fresh=False)
    check_same(stale.seen, old.seen, "With `fresh` False nothing is added to `seen`.")
    for nothing in (batch[:, :0], batch.padded(...), batch.padded(..., finite=True)):
        for fresh in (True, False):
            same = _read(model, old, query_x, nothing, fresh=fresh)
            check_same(same, old, "A minibatch without an observed example changes nothing.")
    part = _read(model, old, query_x, batch.padded(0))
    rows, still = ([leaf[0] for leaf in tree_leaves(state)] for state in (part, old))
    check_same(rows, still, "A task without an observed example in the minibatch does not move.")
    if not model.needs_query:
        unasked = model.update(old, model.encode(batch), None, True)
        check_same(unasked, new, "Where `needs_query` is False, an update needs no query.")


def _check_finite(state: Any) -> None:
    finite = all(bool(leaf.isfinite().all()) for leaf in tree_leaves(state))
    assert finite, "A state is finite: no file holds NaN or infinity."


def _kinds(state: Any) -> Any:
    leaves, structure = tree_flatten(state)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]


def _check_answers(model: Any, support: _Set, query: _Set) -> None:
    answers = _answers(model, query.x, support)
    right = answers.dim() == 3 and answers.shape[:2] == query.mask.shape
    assert right, f"Outputs are `task query num_outputs`; got {tuple(answers.shape)}."
    assert answers.dtype == torch.float64, "Outputs have the dtype of the model."
    losses = model.loss(answers, query)
    assert losses.shape == query.mask.shape[:1], f"There is a loss a task; got {losses.shape}."
    assert losses.isfinite().all(), "The loss is finite."
    again = _answers(model, query.x, support)
    check_same(again, answers, "The same examples give the same answer, bit for bit.")
    with torch.no_grad():
        again = _answers(model, query.x, support)
    _check_near(again, answers, "Adapting works with gradients disabled.")
    moved = (answers - _answers(model, query.x)).abs().amax((1, 2)) > 1e-9
    assert moved.all(), "A minibatch moves the answers of its task."


def _check_trace(model: Any, support: _Set, query: _Set) -> None:
    """The first task observes no example of its second minibatch, the second none of its first."""
    support = support.padded((0, slice(2, 4)), (1, slice(0, 2)))
    num_tasks, query_x = len(query.x), query.x
    rows = torch.arange(num_tasks).repeat_interleave(2)[:, None]
    index = torch.arange(4).view(2, 2).repeat(num_tasks, 1)
    state = model.init(num_tasks, query_x)
    outputs, last = model.trace(state, model.encode(support[rows, index]), query_x)
    for step, batch in enumerate((support[:, :2], support[:, 2:4])):
        state = _read(model, state, query_x, batch)
        sentence = "`trace` gives what `predict` gives after each `update`."
        _check_near(outputs[:, step], model.predict(state, query_x), sentence)
    _check_near(last, state, "The state of `trace` is that of the last `update`.")


def _check_company(model: Any, support: _Set, query: _Set) -> None:
    """Order, the other tasks and the other queries do not matter."""
    backwards = torch.arange(support.mask.shape[1]).flip(0)
    one, other = (_answers(model, query.x, part) for part in (support, support[:, backwards]))
    _check_near(other, one, "The order of a minibatch changes no answer.")
    answers = _answers(model, query.x, *_halves(support))
    losses = model.loss(answers, query)
    for task in range(len(losses)):
        rows = slice(task, task + 1)
        alone = _answers(model, query.x[rows], *_halves(support[rows]))
        sentence = "A task has the same answers and loss alone and in a batch."
        _check_near(alone, answers[rows], sentence)
        _check_near(model.loss(alone, query[rows]), losses[rows], sentence)
    for subset in ([1], [1, 0]):
        some = _answers(model, query.x[:, subset], *_halves(support))
        _check_near(some, answers[:, subset], "A query has the same answer in any company.")
    again = model.loss(answers.flip(1), query[:, torch.arange(answers.shape[1]).flip(0)])
    _check_near(again, losses, "The order of the queries does not change the loss.")


def _check_padding(model: Any, support: _Set, query: _Set) -> None:
    for finite in (True, False):
        padded = support.padded((0, 1), (1, slice(2, None)), finite=finite)
        answers = _answers(model, query.x, padded)
        for task in range(len(answers)):
            rows, kept = slice(task, task + 1), padded.mask[task].nonzero()[:, 0]
            alone = _answers(model, query.x[rows], support[rows, kept])
            _check_near(answers[rows], alone, "A masked example, NaN included, changes no answer.")
        losses = model.loss(answers, query.padded((0, 0), finite=finite))
        rest = model.loss(answers[:1, 1:], query[:1, 1:])
        _check_near(losses[:1], rest, "A masked query changes no loss.")
    losses = model.loss(answers, query.padded(...))
    assert losses.isfinite().all(), "A loss on no queries is finite."


def _check_gradients(model: Any, support: _Set, query: _Set) -> None:
    answers = _answers(model, query.x, support.padded((0, 1)))
    total = model.loss(answers, query.padded((0, 0))).sum()
    weights = model.named_parameters() if isinstance(model, nn.Module) else ()
    trained = {name: weight for name, weight in weights if weight.requires_grad}
    if trained and total.requires_grad:
        total.backward()
    missing = [name for name, weight in trained.items() if weight.grad is None]
    assert not missing, f"One step gives every weight a gradient; not {', '.join(missing)}."
    for name, weight in trained.items():
        finite = weight.grad is not None and bool(weight.grad.isfinite().all())
        assert finite, f"Gradients are finite, whatever padding holds; that of {name} is not."


def _check_validation(model: Any, support: _Set) -> None:
    padded = support.padded((0, 1))
    for valid in (support, padded):
        model.validate(valid)
    wrong = replace(support, x=padded.x)
    check_refused(lambda: model.validate(wrong), "An observed input that is NaN is a ValueError.")
    if support.y is not None:
        wrong_y = replace(support, y=padded.y)
        sentence = "An observed target that cannot be is a ValueError."
        check_refused(lambda: model.validate(wrong_y), sentence)


def _jittered(regime: Regime) -> Any:
    model = copy.deepcopy(regime)
    if isinstance(model, nn.Module):
        model = model.cpu().double().eval()
        model.zero_grad()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for weight in model.parameters():
                noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
                weight.add_(noise, alpha=0.1)
    return model


def _double(examples: LabelledQuery) -> _Set:
    def copied(values: Tensor) -> Tensor:
        values = values.detach().cpu()
        return values.double() if values.is_floating_point() else values

    y = getattr(examples, "y", None)
    return _Set(copied(examples.x), None if y is None else copied(y), examples.mask.cpu())


def _spoilt(values: Tensor, mask: Tensor) -> Tensor:
    wrong = torch.nan if values.is_floating_point() else -(10**6)
    return values.masked_fill(~mask.reshape(*mask.shape, *[1] * (values.dim() - 2)), wrong)


def _shifted(values: Tensor, mask: Tensor) -> Tensor:
    """Classes stay what they are."""
    hidden = ~mask.reshape(*mask.shape, *[1] * (values.dim() - 2))
    return torch.where(hidden, 3 - 2 * values, values) if values.is_floating_point() else values
