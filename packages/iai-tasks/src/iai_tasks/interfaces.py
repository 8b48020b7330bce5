"""The roles that samplers of this package play, and the networks that it embeds images with."""

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

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


@runtime_checkable
class Embedder(Protocol):
    """A frozen network as `embed` sees it; `Backbone` is one."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def fingerprint(self) -> str:
        """Another one as soon as an embedding would be another."""
        ...

    @property
    def size(self) -> int:
        """Height and width of the images that it sees."""
        ...

    @property
    def dim(self) -> int:
        """Numbers of an embedding."""
        ...

    def embed(self, images: UInt8[Tensor, "image 3 height width"]) -> Float32[Tensor, "image dim"]:
        """A vector for each square image, on the CPU, without a gradient."""
        ...
