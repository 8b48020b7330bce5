"""One measured number, as the tidy record that every result is made of."""

import math
from collections.abc import Iterable

import attrs
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
    examples: float
    """Support examples seen so far, mean over tasks."""
    metric: str
    """Name of what was measured."""
    value: float
    """Mean over tasks; over seeds too where `seed` is None."""
    stderr: float
    """Standard error of `value`, over tasks (over seeds where `seed` is None); NaN for one task."""
    seed: int | None
    """Seed of the run; None for a mean over several."""


def summarise(
    values: Float[Tensor, " task"] | float,
    *,
    method: str,
    split: str = "in",
    step: int,
    examples: int | float,
    metric: str,
    seed: int,
) -> Row:
    """Make a row of the values of many tasks: how baselines and oracles join a learner's rows.

    Args:
        values: The metric of each task; or one number, such as a cost.
        method: Name of the method.
        split: "in", or the shift's name.
        step: Steps of refinement taken.
        examples: Support examples seen so far.
        metric: Name of what was measured.
        seed: Seed of the run.

    Raises:
        ValueError: There is no task.

    >>> import torch
    >>> row = summarise(torch.tensor([1.0, 3.0]), method="oracle", split="in", step=1,
    ...                 examples=16, metric="error", seed=0)
    >>> row.value, row.stderr
    (2.0, 1.0)
    """
    each = [values] if isinstance(values, float) else values.detach().double().tolist()
    mean, stderr = _mean_and_stderr(each)
    return Row(
        method=method,
        split=split,
        step=step,
        examples=float(examples),
        metric=metric,
        value=mean,
        stderr=stderr,
        seed=seed,
    )


def over_seeds(rows: Iterable[Row]) -> list[Row]:
    """Average the rows of several seeds.

    Rows that differ in their seed alone become one, whose value is the mean over seeds and whose
    standard error is that over seeds: it holds the spread of training, which the tasks of one run
    cannot show. A row with one seed stays as it is.

    >>> one = Row(method="a", split="in", step=1, examples=16.0, metric="error",
    ...           value=1.0, stderr=0.1, seed=0)
    >>> [mean] = over_seeds([one, attrs.evolve(one, value=3.0, seed=1)])
    >>> mean.value, mean.stderr, mean.seed
    (2.0, 1.0, None)
    """
    groups: dict[tuple[str, str, int, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.method, row.split, row.step, row.metric), []).append(row)
    return [_merge(group) for group in groups.values()]


def _merge(group: list[Row]) -> Row:
    if len(group) == 1:
        return group[0]
    if len({row.seed for row in group}) < len(group):
        raise ValueError(
            f"There are two rows of one seed for {group[0].method}, {group[0].split}, step "
            f"{group[0].step}, {group[0].metric}."
        )
    mean, stderr = _mean_and_stderr([row.value for row in group])
    examples = math.fsum(row.examples for row in group) / len(group)
    return attrs.evolve(group[0], value=mean, stderr=stderr, examples=examples, seed=None)


def _mean_and_stderr(values: list[float]) -> tuple[float, float]:
    count = len(values)
    if not count:
        raise ValueError("There must be at least one task; got none.")
    if not all(map(math.isfinite, values)):  # a method that diverged is a result, not an error
        return sum(values) / count, math.nan
    mean = math.fsum(values) / count
    if count == 1:
        return mean, math.nan
    squares = math.fsum((value - mean) ** 2 for value in values)
    return mean, math.sqrt(squares / (count - 1) / count)
