"""All steps of an unrolled training pass as one batch, where no step waits for the one before."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, TypeGuard, cast

import torch
from jaxtyping import Float
from torch import Tensor

from iai_iterate.interfaces import Batch, BatchT, Regime, Tasks, TracingRegime
from iai_iterate.minibatch import observed_first
from iai_iterate.rollout import detach, stacked

MOST_STEPS = 32  # of a stretch: attention among minibatches takes memory with the square of it


def can_trace(
    regime: Regime, tasks: Tasks, batches: Sequence[tuple[Batch, bool]]
) -> TypeGuard[TracingRegime]:
    """Whether `losses_of_trace` gives what steps one by one would give."""
    several = len(batches) > 1 and all(fresh for _, fresh in batches)
    return (
        several
        and isinstance(regime, TracingRegime)
        and regime.traces
        and isinstance(tasks.query, Batch)
    )


def losses_of_trace(
    regime: TracingRegime, tasks: Tasks, state: Any, batches: Sequence[tuple[Batch, bool]]
) -> tuple[Float[Tensor, "step task"], Any]:
    """The losses after each step, with gradients through all steps; the last state, detached.

    Args:
        regime: Reads several minibatches of each task as one batch.
        tasks: The support that the minibatches were cut from, and the queries.
        state: The start.
        batches: The minibatches of one pass, or the first of them.
    """
    losses: list[Tensor] = []
    queries = cast(Batch, tasks.query)  # as `can_trace` says
    for batch, steps in _stretches(tasks.support, batches):
        outputs, state = regime.trace(state, regime.encode(batch), tasks.query.x)
        rows = torch.arange(len(outputs), device=outputs.device).repeat_interleave(steps)[:, None]
        query = queries[rows, torch.arange(outputs.shape[2], device=outputs.device)[None]]
        losses += regime.loss(outputs.flatten(0, 1), query).view(outputs.shape[:2]).unbind(1)
    return stacked(losses), detach(state)


def _stretches(
    examples: BatchT, batches: Sequence[tuple[BatchT, bool]]
) -> Iterator[tuple[BatchT, int]]:
    """Minibatches of one size that follow one another, `step` of each task as one batch of rows."""
    rows = torch.arange(len(examples.mask), device=examples.mask.device)[:, None, None]
    order, start = observed_first(examples.mask), 0
    for size, alike in groupby(batch.mask.shape[1] for batch, _ in batches):
        left = len(list(alike))
        while left:
            steps = min(left, MOST_STEPS)
            index = torch.arange(start, start + steps * size, device=rows.device)
            index = index.expand(len(rows), -1) if order is None else order[:, index]
            index = torch.unflatten(index, 1, (steps, size))
            yield examples[rows.expand(-1, steps, -1).flatten(0, 1), index.flatten(0, 1)], steps
            start, left = start + steps * size, left - steps
