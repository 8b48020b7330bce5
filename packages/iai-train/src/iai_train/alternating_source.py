"""Sources that take turns."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Generic

import torch

from iai_train.interfaces import Source, StateT, TaskSampler, TasksT
from iai_train.source import SamplerSource


class AlternatingSource(Generic[TasksT, StateT]):
    """Takes the batches of several sources in turn.

    `of_sizes` trains a learner on many short tasks and on a few long ones, at the same price.

    Args:
        sources: The sources, in the order of their turns; they may share a generator.

    Raises:
        ValueError: There is no source.
    """

    def __init__(self, sources: Sequence[Source[TasksT, StateT]]) -> None:
        if not sources:
            raise ValueError("`sources` must hold at least one source; got none.")
        self._sources, self._turn = list(sources), 0

    @classmethod
    def of_sizes(
        cls,
        sampler: TaskSampler[TasksT],
        sizes: Sequence[int],
        *,
        num_tasks: int,
        num_query: int,
        generator: torch.Generator,
    ) -> "AlternatingSource[TasksT, Any]":
        """New tasks of each size in turn.

        Args:
            sampler: The distribution of tasks.
            sizes: Support examples of a task in each turn.
            num_tasks: Tasks of the largest size in a batch; of a smaller one, as many as have as
                many examples and queries in all.
            num_query: Query examples a task.
            generator: Where every draw comes from: see `SamplerSource`.

        Raises:
            ValueError: There is no size, or a count is out of range.
        """
        examples = num_tasks * (max(sizes, default=0) + num_query)
        how: dict[str, Any] = {"num_query": num_query, "generator": generator}
        return cls(
            [
                SamplerSource(
                    sampler,
                    num_tasks=round(examples / max(size + num_query, 1)),
                    num_support=size,
                    **how,
                )
                for size in sizes
            ]
        )

    def next(self) -> tuple[TasksT, StateT | None]:
        """The next batch of the source whose turn it is."""
        return self._sources[self._turn].next()

    def put(self, state: StateT) -> None:
        """Gives the state to that source, and ends its turn."""
        self._sources[self._turn].put(state)
        self._turn = (self._turn + 1) % len(self._sources)

    def state_dict(self) -> dict[str, object]:
        """The states of all sources, and whose turn it is."""
        return {"turn": self._turn, "sources": [source.state_dict() for source in self._sources]}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Goes on from the batch that `state` was taken at.

        Raises:
            ValueError: `state` is not that of such sources; nothing was loaded.
        """
        turn, states = _read(state, len(self._sources))
        before = copy.deepcopy([source.state_dict() for source in self._sources])
        try:
            for source, own in zip(self._sources, states, strict=True):
                source.load_state_dict(own)
        except ValueError:
            for source, own in zip(self._sources, before, strict=True):
                source.load_state_dict(own)
            raise
        self._turn = turn


def _read(state: Mapping[str, Any], num_sources: int) -> tuple[int, list[Any]]:
    turn: Any = state.get("turn") if isinstance(state, Mapping) else None
    states: Any = state.get("sources") if isinstance(state, Mapping) else None
    fits = isinstance(states, list) and len(states) == num_sources
    if not fits or not isinstance(turn, int) or not 0 <= turn < num_sources:
        raise ValueError(f"`state` is not that of an `AlternatingSource` of {num_sources} sources.")
    return turn, states
