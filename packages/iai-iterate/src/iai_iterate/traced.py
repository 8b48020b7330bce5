"""Several steps as one batch, where no step waits for the one before."""

from collections.abc import Iterable
from typing import Any, Literal, TypeGuard, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import tree_leaves

from iai_iterate.interfaces import Batch, Regime, Tasks, TracingRegime
from iai_iterate.rollout import detach, stacked

MOST_NUMBERS = 2**22  # of all states that a stretch holds where no gradient is asked for


def traces(regime: Regime) -> TypeGuard[TracingRegime]:
    """Whether a regime reads several minibatches of each task as one batch."""
    return isinstance(regime, TracingRegime) and regime.traces


def most_steps(state: Any) -> int:
    """How many states of that size a stretch may hold where no gradient is asked for; 0 is 1."""
    leaves = (leaf for leaf in tree_leaves(state) if isinstance(leaf, Tensor))
    return MOST_NUMBERS // max(sum(leaf.numel() for leaf in leaves), 1)


def losses_of_trace(
    regime: TracingRegime,
    tasks: Tasks,
    state: Any,
    batches: Iterable[tuple[Batch, int, bool]],
    which: Literal["every", "last"],
) -> tuple[Float[Tensor, "step task"], Any]:
    """The losses after each step, with gradients through all steps; the last state, detached.

    Args:
        regime: Reads several minibatches of each task as one batch.
        tasks: The queries are a `Batch`.
        state: The start.
        batches: What `stretches` gives of one pass, or of the beginning of it.
        which: Whether the losses are those of "every" step, or of the "last" alone.
    """
    losses: list[Tensor] = []
    queries = cast(Batch, tasks.query)
    for batch, steps, _ in batches:
        outputs, state = regime.trace(state, regime.encode(batch), tasks.query.x)
        if which == "last":
            continue
        rows = torch.arange(len(outputs), device=outputs.device).repeat_interleave(steps)[:, None]
        query = queries[rows, torch.arange(outputs.shape[2], device=outputs.device)[None]]
        losses += regime.loss(outputs.flatten(0, 1), query).view(outputs.shape[:2]).unbind(1)
    if which == "last":
        losses = [regime.loss(outputs[:, -1], queries)]
    return stacked(losses), detach(state)
