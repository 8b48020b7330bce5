"""The role that every sampler of this package plays."""

from typing import Any, Protocol, runtime_checkable

import torch

from iai_tasks.examples import TaskBatch
from iai_tasks.spec import TaskSpec


@runtime_checkable
class Sampler(Protocol):
    """Draws batches of tasks. `iai_tasks.testing.check_sampler` holds a class to this contract.

    Where the best answer has a closed form, a sampler may also have `oracle(batch) -> outputs`,
    `task query num_outputs`.
    """

    @property
    def spec(self) -> TaskSpec:
        """What all tasks look like."""
        ...

    def sample(
        self,
        num_tasks: int,
        *,
        num_support: int,
        num_query: int,
        generator: torch.Generator,
        latent: Any = None,
    ) -> TaskBatch:
        """Draws tasks on the generator's device, from the numbers of the generator alone.

        Given the `latent` of an earlier batch, draws new examples of the same tasks.
        """
        ...
