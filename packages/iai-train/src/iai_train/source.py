"""New tasks at every iteration."""

from collections.abc import Mapping
from typing import Generic, cast

import torch
from torch import Tensor

from iai_train.interfaces import TaskSampler, TasksT


class SamplerSource(Generic[TasksT]):
    """A source that samples new tasks at every iteration, each with a new state.

    Args:
        sampler: The distribution of tasks.
        num_tasks: Tasks a batch.
        num_support: Support examples a task; a pair `(low, high)` draws one number for each batch,
            uniform with both ends included.
        num_query: Query examples a task.
        generator: Where every draw comes from; its device is where the tasks are made. In several
            processes each needs one of its own: see `process_generator`.

    Raises:
        ValueError: A count is out of range.
    """

    def __init__(
        self,
        sampler: TaskSampler[TasksT],
        *,
        num_tasks: int,
        num_support: int | tuple[int, int],
        num_query: int,
        generator: torch.Generator,
    ) -> None:
        low, high = (num_support, num_support) if isinstance(num_support, int) else num_support
        if not 0 <= low <= high:
            raise ValueError(f"`num_support` must be 0 <= low <= high; got {num_support}.")
        for name, count in (("num_tasks", num_tasks), ("num_query", num_query)):
            if count < 1:
                raise ValueError(f"`{name}` must be at least 1; got {count}.")
        self._sampler, self._num_tasks, self._num_query = sampler, num_tasks, num_query
        self._low, self._high = low, high
        # Sizes are read by Python, so they are drawn on the CPU: a draw on a GPU would wait for it.
        sizes = torch.Generator().manual_seed(generator.initial_seed() ^ 0x5175)
        self._generators = {"generator": generator, "size_generator": sizes}

    def next(self) -> tuple[TasksT, None]:
        """Samples a batch of tasks."""
        sizes = self._generators["size_generator"]
        tasks = self._sampler.sample(
            self._num_tasks,
            num_support=int(torch.randint(self._low, self._high + 1, (), generator=sizes)),
            num_query=self._num_query,
            generator=self._generators["generator"],
        )
        return tasks, None

    def put(self, state: object) -> None:
        """Drops the state: no task comes twice."""

    def state_dict(self) -> dict[str, object]:
        """The states of the generators, as bytes."""
        return {name: generator.get_state() for name, generator in self._generators.items()}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Goes on from the draws that `state` was taken at.

        Raises:
            ValueError: `state` is not that of such a source; nothing was loaded.
        """
        own = self._generators
        named = isinstance(state, Mapping) and state.keys() == own.keys()
        if not (named and all(is_generator_state(state[name], own[name].device) for name in own)):
            device = own["generator"].device
            raise ValueError(f"`state` is not that of a `SamplerSource` on {device}.")
        for name, generator in self._generators.items():
            generator.set_state(cast(Tensor, state[name]))


def is_generator_state(state: object, device: torch.device) -> bool:
    """Whether something is the state of a generator on a device, found out without touching one.

    >>> is_generator_state(torch.get_rng_state(), torch.device("cpu"))
    True
    >>> is_generator_state(torch.zeros(3, dtype=torch.uint8), torch.device("cpu"))
    False
    """
    other = torch.Generator(device)
    own = other.get_state()
    if not (isinstance(state, Tensor) and state.shape == own.shape and state.dtype == own.dtype):
        return False
    try:
        other.set_state(state)
    except RuntimeError:
        return False
    return True
