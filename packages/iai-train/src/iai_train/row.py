"""One measured number, as the tidy record that every result is made of."""

import math
from collections.abc import Iterable
from typing import Any

import attrs
import torch
from jaxtyping import Float
from torch import Tensor


@attrs.frozen(kw_only=True)
class Row:
    """A metric of one method after one step."""

    method: str
    """The learner, beginning with its regime; or the baseline, or "oracle"."""
    split: str
    """The tasks measured on: "in" for those trained on, else the name of the shift."""
    step: int
    """Steps of refinement taken."""
    examples: float = attrs.field(converter=float)
    """Support examples seen so far, mean over tasks."""
    metric: str
    """Name of what was measured."""
    value: float
    """Mean over tasks; over seeds too where `seed` is None."""
    stderr: float
    """Standard error of `value`, over tasks (over seeds where `seed` is None); NaN for one task."""
    seed: int | None
    """Seed of the run; None for a mean over several."""


def summarise(values: Float[Tensor, " task"] | float, *, split: str = "in", **fields: Any) -> Row:
    """Makes a row of the values of many tasks, or of one number, such as a cost.

    Args:
        values: The metric of each task; or the one number.
        split: "in", or the shift's name.
        fields: The method, step, examples, metric and seed of the row.

    Raises:
        TypeError: A field is missing, or is none of `Row`.
        ValueError: There is no task.

    >>> row = summarise(torch.tensor([1.0, 3.0]), method="oracle", step=1, examples=16,
    ...                 metric="error", seed=0)
    >>> row.value, row.stderr
    (2.0, 1.0)
    """
    each = torch.as_tensor(values, dtype=torch.float64).detach().reshape(-1)
    mean, stderr = _mean_and_stderr(each)
    return Row(split=split, value=mean, stderr=stderr, **fields)


def over_seeds(rows: Iterable[Row]) -> list[Row]:
    """Averages the rows of several seeds.

    Rows that differ in their seed alone become one: its value is the mean over seeds, and its
    standard error is over seeds, which includes the variance of training that the tasks of one run
    cannot show. A row with one seed stays as it is.

    Raises:
        ValueError: There are two rows of one seed.

    >>> one = Row(method="a", split="in", step=1, examples=16.0, metric="error",
    ...           value=1.0, stderr=0.1, seed=0)
    >>> [mean] = over_seeds([one, attrs.evolve(one, value=3.0, seed=1)])
    >>> mean.value, mean.stderr, mean.seed
    (2.0, 1.0, None)
    """
    groups: dict[tuple[str, str, int, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.method, row.split, row.step, row.metric), []).append(row)
    return [group[0] if len(group) == 1 else _merge(group) for group in groups.values()]


def _merge(group: list[Row]) -> Row:
    some = group[0]
    if len({row.seed for row in group}) < len(group):
        raise ValueError(
            f"There are two rows of one seed for {some.method}, {some.split}, step {some.step}, "
            f"{some.metric}."
        )
    mean, stderr = _mean_and_stderr(torch.tensor([row.value for row in group], dtype=torch.float64))
    examples = math.fsum(row.examples for row in group) / len(group)
    return attrs.evolve(some, value=mean, stderr=stderr, examples=examples, seed=None)


def _mean_and_stderr(values: Float[Tensor, " n"]) -> tuple[float, float]:
    if not len(values):
        raise ValueError("There must be at least one task; got none.")
    # A method that diverged is a result, not an error: its mean is not finite.
    stderr = math.nan if len(values) == 1 else (values.std() / math.sqrt(len(values))).item()
    return values.mean().item(), stderr
