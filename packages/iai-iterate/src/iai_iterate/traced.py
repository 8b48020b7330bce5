"""Several steps as one batch, where no step waits for the one before."""

from collections.abc import Iterable
from typing import Any, TypeGuard, cast

import torch
from jaxtyping import Float
from torch import Tensor

from iai_iterate.interfaces import Batch, Regime, Tasks, TracingRegime
from iai_iterate.rollout import detach, stacked


def traces(regime: Regime) -> TypeGuard[TracingRegime]:
    """Whether a regime reads several minibatches of each task as one batch."""
    return isinstance(regime, TracingRegime) and regime.traces


def losses_of_trace(
    regime: TracingRegime, tasks: Tasks, state: Any, batches: Iterable[tuple[Batch, int, bool]]
) -> tuple[Float[Tensor, "step task"], Any]:
    """The losses after each step, with gradients through all steps; the last state, detached.

    Args:
        regime: Reads several minibatches of each task as one batch.
        tasks: The queries are a `Batch`.
        state: The start.
        batches: What `stretches` gives of one pass, or of the beginning of it.
    """
    losses: list[Tensor] = []
    queries = cast(Batch, tasks.query)
    for batch, steps, _ in batches:
        outputs, state = regime.trace(state, regime.encode(batch), tasks.query.x)
        rows = torch.arange(len(outputs), device=outputs.device).repeat_interleave(steps)[:, None]
        query = queries[rows, torch.arange(outputs.shape[2], device=outputs.device)[None]]
        losses += regime.loss(outputs.flatten(0, 1), query).view(outputs.shape[:2]).unbind(1)
    return stacked(losses), detach(state)
