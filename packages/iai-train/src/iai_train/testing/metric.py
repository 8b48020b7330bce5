"""The contract of a metric."""

from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor

from iai_train.interfaces import Query
from iai_train.testing.comparison import equal


def check_metric(metric: Callable[[Tensor, Any], Tensor], outputs: Tensor, query: Query) -> None:
    """Checks that a metric is what `evaluate` averages over tasks.

    It gives one number a task, from the outputs and targets of the task's observed queries alone:
    their order, the padding among them (NaN included) and the other tasks change nothing. A task
    without an observed query has no number, NaN, and so has one whose outputs are NaN, unless the
    metric raises ValueError: never a score. What is given is left as it was.

    A metric of whole sets, such as `wasserstein` between samples, is not of this kind.

    Args:
        metric: What to check: `metric(outputs, query)`.
        outputs: Raw outputs, `task n num_outputs`, of at least two tasks of three queries.
        query: The queries, all observed, with `x`, `y` and `mask`.

    Raises:
        AssertionError: With the sentence that does not hold.

    >>> from types import SimpleNamespace
    >>> from iai_train import accuracy
    >>> outputs, y = torch.linspace(-1, 1, 24).view(2, 4, 3).sin(), torch.tensor([[0, 1, 2, 2]] * 2)
    >>> mask = torch.ones(2, 4, dtype=torch.bool)
    >>> check_metric(accuracy, outputs, SimpleNamespace(x=torch.zeros(2, 4, 1), y=y, mask=mask))
    """
    asked = _Query(query.x, query.y, query.mask)
    num_tasks, num_queries = asked.mask.shape
    enough = num_tasks > 1 and num_queries > 2 and bool(asked.mask.all())
    assert enough, "The suite needs two tasks of three queries, all observed."
    given = asked.at(...), outputs.clone()
    values = metric(outputs, asked)
    same = equal(attrs.astuple(asked), attrs.astuple(given[0])) and torch.equal(outputs, given[1])
    assert same, "A metric leaves outputs and queries as they were."
    fits = isinstance(values, Tensor) and values.shape == (num_tasks,)
    assert fits and values.is_floating_point(), "A metric gives a real number a task, `task`."
    assert values.isfinite().all(), "A metric of finite outputs is finite."
    backwards = asked.at(slice(None), torch.arange(num_queries).flip(0))
    _check_near(metric(outputs.flip(1), backwards), values, "The order of the queries changes")
    for junk in (torch.nan, 7.0):
        padded = asked.hidden((0, 0), junk).hidden((1, slice(1, None)), junk)
        spoilt = torch.where(padded.mask[..., None], outputs, junk)
        for task, value in enumerate(metric(spoilt, padded)[:2]):
            kept = padded.mask[task].nonzero()[:, 0]
            rows = slice(task, task + 1)
            alone = metric(outputs[rows, kept], asked.at(rows, kept))[0]
            _check_near(value, alone, "The other tasks and masked queries, NaN included, change")
    rest = metric(outputs, asked.hidden((0,), torch.nan))
    assert rest[0].isnan(), f"A task without an observed query has no number, NaN; got {rest[0]}."
    _check_near(rest[1:], values[1:], "A task without an observed query beside it changes")
    _check_unscored(metric, outputs, asked)


@attrs.frozen(eq=False)
class _Query:
    x: Tensor
    y: Tensor | None
    mask: Tensor

    def at(self, *index: Any) -> "_Query":
        y = None if self.y is None else self.y[index].clone()
        return _Query(self.x[index].clone(), y, self.mask[index].clone())

    def hidden(self, index: Any, junk: float) -> "_Query":
        """Without these queries, where x and y become junk; classes become impossible."""
        shown = self.at(...)
        shown.mask[index] = False
        for part in (shown.x, shown.y):
            if part is not None:
                part[index] = junk if part.is_floating_point() else -(10**6)
        return shown


def _check_near(actual: Tensor, expected: Tensor, what: str) -> None:
    assert torch.allclose(actual, expected, rtol=1e-4, atol=1e-5, equal_nan=True), (
        f"{what} no number; {expected.tolist()} became {actual.tolist()}."
    )


def _check_unscored(metric: Callable[[Tensor, Any], Tensor], outputs: Tensor, query: Any) -> None:
    broken = outputs.clone()
    broken[0] = torch.nan
    try:
        value = metric(broken, query)[0]
    except ValueError:
        return
    assert value.isnan(), f"A task whose outputs are NaN has no score; got {value}."
