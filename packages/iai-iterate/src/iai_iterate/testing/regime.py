"""The contract of a regime."""

import copy
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from iai_iterate.interfaces import LabelledQuery, Regime
from iai_iterate.testing.comparison import check_refused, check_same

_ROUNDING = 1e-9


def check_regime(regime: Regime, support: LabelledQuery, query: LabelledQuery) -> None:
    """Hold a regime to what `Iterated`, `Adapted` and `Pool` rely on.

    A state keeps its structure, shapes and dtypes, and `seen` counts the distinct observed examples
    behind it. A minibatch moves the answers; one without an observed example changes nothing.
    Reading changes nothing that was handed in, gives the same each time, and works with gradients
    disabled. The order of a minibatch, its padding (NaN included), the other queries and the other
    tasks change no answer and no loss. One step gives every trainable weight a finite gradient.
    `validate` refuses NaN and impossible targets where they are observed, and only there.

    The suite works in float64 on the CPU, on a copy in evaluation mode. The weights of the copy are
    moved a little, so that a learned update that starts at zero moves the state.

    Args:
        regime: What to check.
        support: At least two tasks of four examples, all observed, with `x`, `y` and `mask`; `y` is
            None, or not there, where examples have no targets.
        query: At least two queries to each task, alike.

    Raises:
        AssertionError: With the sentence that does not hold.
    """
    assert isinstance(regime, Regime), "A regime has `needs_query` and six methods."
    assert isinstance(regime.needs_query, bool), "`needs_query` is a bool."
    support, query = _double(support), _double(query)
    num_tasks, num_examples = support.mask.shape
    enough = num_tasks > 1 and num_examples > 3 and query.mask.shape[1] > 1
    observed = bool(support.mask.all() and query.mask.all())
    assert enough and observed, "The suite needs two tasks of four examples and two queries, seen."
    run = _Run(_jittered(regime), query.x)
    _check_start(run)
    state = run.start()
    for batch in (support[:, :2], support[:, 2:]):
        state = _checked_step(run, state, batch)
    _check_answers(run, state, support, query)
    _check_company(run, support, query)
    _check_padding(run, support, query)
    _check_gradients(run, support, query)
    _check_validation(run.model, support)


@dataclass(frozen=True)
class _Set:
    x: Tensor
    y: Tensor | None
    mask: Tensor

    def __getitem__(self, key: Any) -> "_Set":
        return _Set(self.x[key], None if self.y is None else self.y[key], self.mask[key])

    def padded(self, mask: Tensor) -> "_Set":
        """The set with only these examples observed, and impossible numbers in the others."""
        y = None if self.y is None else _spoilt(self.y, mask)
        return _Set(_spoilt(self.x, mask), y, mask)


class _Run(NamedTuple):
    model: Any
    query_x: Tensor

    def start(self) -> Any:
        return self.model.init(self.query_x.shape[0], self.query_x)

    def read(self, state: Any, *batches: _Set, fresh: bool = True) -> Any:
        for batch in batches:
            state = self.model.update(state, self.model.encode(batch), self.query_x, fresh)
        return state

    def answers(self, *batches: _Set) -> Tensor:
        outputs: Tensor = self.model.predict(self.read(self.start(), *batches), self.query_x)
        return outputs


def _check_start(run: _Run) -> None:
    start, num_tasks = run.start(), run.query_x.shape[0]
    for leaf in tree_leaves(start):
        assert isinstance(leaf, Tensor), f"A state is a pytree of tensors; got {type(leaf)}."
        led = leaf.dim() > 0 and leaf.shape[0] == num_tasks
        assert led, f"A state's tensors lead with the {num_tasks} tasks; got {tuple(leaf.shape)}."
    _check_seen(start, torch.zeros(num_tasks), "The start has seen nothing.")
    if run.model.needs_query:
        sentence = "Where `needs_query` is True, a start without queries is a ValueError."
        check_refused(lambda: run.model.init(num_tasks, None), sentence)
    else:
        sentence = "Where `needs_query` is False, the start needs no query."
        check_same(run.model.init(num_tasks, None), start, sentence)


def _check_seen(state: Any, expected: Tensor, sentence: str) -> None:
    assert isinstance(getattr(state, "seen", None), Tensor), "A state has `seen`, a tensor."
    check_same(state.seen.double(), expected.double(), f"{sentence} Of `seen`:")


def _checked_step(run: _Run, old: Any, batch: _Set) -> Any:
    given = (old, batch.x, batch.mask, run.query_x)
    before = tree_map(Tensor.clone, given)
    new = run.read(old, batch)
    check_same(given, before, "Nothing given is changed.")
    (leaves, structure), (moved, after) = tree_flatten(old), tree_flatten(new)
    kept = structure == after and all(
        a.shape == b.shape and a.dtype == b.dtype for a, b in zip(leaves, moved, strict=True)
    )
    assert kept, "A state keeps its structure, shapes and dtypes."
    check_same(run.read(old, batch), new, "The same examples give the same state, bit for bit.")
    _check_seen(new, old.seen + batch.mask.sum(1), "`seen` counts observed examples.")
    stale = run.read(old, batch, fresh=False)
    _check_seen(stale, old.seen, "With `fresh` False nothing is added to `seen`.")
    for nothing in (batch[:, :0], batch.padded(batch.mask & False)):
        for fresh in (True, False):
            same = run.read(old, nothing, fresh=fresh)
            check_same(same, old, "A minibatch without an observed example changes nothing.")
    mask = batch.mask.clone()
    mask[0] = False
    first = [leaf[:1] for leaf in tree_leaves(run.read(old, batch.padded(mask)))]
    sentence = "A task without an observed example in the minibatch does not move."
    check_same(first, [leaf[:1] for leaf in leaves], sentence)
    if not run.model.needs_query:
        unasked = run.model.update(old, run.model.encode(batch), None, True)
        check_same(unasked, new, "Where `needs_query` is False, an update needs no query.")
    return new


def _check_answers(run: _Run, state: Any, support: _Set, query: _Set) -> None:
    halves = support[:, :2], support[:, 2:]
    outputs = run.model.predict(state, run.query_x)
    assert outputs.dim() == 3 and outputs.shape[:2] == query.mask.shape, (
        f"Outputs are `task query num_outputs`; got {tuple(outputs.shape)}."
    )
    assert outputs.dtype == torch.float64, "Outputs have the dtype of the model."
    losses = run.model.loss(outputs, query)
    expected = query.mask.shape[:1]
    assert losses.shape == expected, f"There is a loss a task; got {tuple(losses.shape)}."
    assert losses.isfinite().all(), "The loss is finite."
    check_same(run.answers(*halves), outputs, "The same state gives the same answer, bit for bit.")
    with torch.no_grad():
        sentence = "Adapting works with gradients disabled."
        check_same(run.answers(*halves), outputs, sentence, _ROUNDING)
    moves = (run.answers(support) - run.answers()).abs().amax((1, 2)) > _ROUNDING
    assert moves.all(), "A minibatch moves the answers of its task."


def _check_company(run: _Run, support: _Set, query: _Set) -> None:
    """Order, the other tasks and the other queries do not matter."""
    model, halves = run.model, (support[:, :2], support[:, 2:])
    backwards = torch.arange(support.mask.shape[1]).flip(0)
    sentence = "The order of a minibatch changes no answer."
    check_same(run.answers(support[:, backwards]), run.answers(support), sentence, _ROUNDING)
    answers = run.answers(*halves)
    losses = model.loss(answers, query)
    for task in range(len(losses)):
        rows = slice(task, task + 1)
        alone = _Run(model, query.x[rows]).answers(*(half[rows] for half in halves))
        sentence = "A task has the same answers and loss alone and in a batch."
        check_same(alone, answers[rows], sentence, _ROUNDING)
        check_same(model.loss(alone, query[rows]), losses[rows], sentence, _ROUNDING)
    for subset in ([1], [1, 0]):
        some = _Run(model, query.x[:, subset]).answers(*halves)
        sentence = "A query has the same answer in any company."
        check_same(some, answers[:, subset], sentence, _ROUNDING)
    backwards = torch.arange(query.mask.shape[1]).flip(0)
    again = model.loss(answers[:, backwards], query[:, backwards])
    check_same(again, losses, "The order of the queries does not change the loss.", _ROUNDING)


def _check_padding(run: _Run, support: _Set, query: _Set) -> None:
    mask = support.mask.clone()
    mask[0, 1] = mask[1, 2:] = False
    answers = run.answers(support.padded(mask))
    for task in range(len(mask)):
        rows, kept = slice(task, task + 1), mask[task].nonzero()[:, 0]
        alone = _Run(run.model, query.x[rows]).answers(support[rows, kept])
        sentence = "A masked example, NaN included, changes no answer."
        check_same(answers[rows], alone, sentence, _ROUNDING)
    hidden = query.mask.clone()
    hidden[0, 0] = False
    losses = run.model.loss(answers, query.padded(hidden))
    rest = run.model.loss(answers[:1, 1:], query[:1, 1:])
    check_same(losses[:1], rest, "A masked query changes no loss.", _ROUNDING)
    losses = run.model.loss(answers, query.padded(hidden & False))
    assert losses.isfinite().all(), "A loss on no queries is finite."


def _check_gradients(run: _Run, support: _Set, query: _Set) -> None:
    mask, hidden = support.mask.clone(), query.mask.clone()
    mask[0, 1] = hidden[0, 0] = False
    total = run.model.loss(run.answers(support.padded(mask)), query.padded(hidden)).sum()
    weights = run.model.named_parameters() if isinstance(run.model, nn.Module) else ()
    trained = {name: weight for name, weight in weights if weight.requires_grad}
    if trained and total.requires_grad:
        total.backward()
    missing = [name for name, weight in trained.items() if weight.grad is None]
    assert not missing, f"One step gives every weight a gradient; not {', '.join(missing)}."
    for name, weight in trained.items():
        finite = weight.grad is not None and bool(weight.grad.isfinite().all())
        assert finite, f"Gradients are finite, whatever padding holds; that of {name} is not."


def _check_validation(model: Any, support: _Set) -> None:
    mask = support.mask.clone()
    mask[0, 1] = False
    padded = support.padded(mask)
    for valid in (support, padded):
        model.validate(valid)
    wrong = replace(support, x=padded.x)
    check_refused(lambda: model.validate(wrong), "An observed input that is NaN is a ValueError.")
    if support.y is not None:
        wrong = replace(support, y=padded.y)
        sentence = "An observed target that cannot be is a ValueError."
        check_refused(lambda: model.validate(wrong), sentence)


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
