"""The roles in this package: a sampler of tasks; images to embed, and a network to embed them."""

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from iai_tasks.examples import TaskBatch
from iai_tasks.spec import TaskSpec


@runtime_checkable
class Sampler(Protocol):
    """Draws batches of tasks. `iai_tasks.testing.check_sampler` checks that a class does so.

    `AbstractSampler` is a base for it, but any class with these methods is a sampler. If the best
    answer has a closed form, it may also have `oracle(batch) -> outputs`, `task query num_outputs`:
    the posterior mean of real targets, or the logits of a class.
    """

    @property
    def spec(self) -> TaskSpec:
        """What all tasks look like."""

    def sample(
        self,
        num_tasks: int,
        *,
        num_support: int,
        num_query: int,
        generator: torch.Generator,
        latent: Any = None,
    ) -> TaskBatch:
        """Draws tasks on the generator's device, with all randomness from the generator.

        Given the `latent` of an earlier batch, draws new examples of the same tasks.
        """


@runtime_checkable
class ImageSource(Protocol):
    """Images in a fixed order, their classes and names. `len` is the number of images."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """What each class is called."""

    @property
    def labels(self) -> Int64[Tensor, " image"]:
        """The class of each image."""

    @property
    def fingerprint(self) -> str:
        """A text that differs when any image, label, name or the order differs."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What an image is called in an error."""

    def read(self, index: int, size: int) -> UInt8[Tensor, "3 height width"]:
        """A square image for a network that sees `size` x `size` pixels; all have one shape.

        A source may give images of another size than `size`: the network scales them.

        Raises:
            ValueError: If the image cannot be read; the text names it.
        """


@runtime_checkable
class Embedder(Protocol):
    """A frozen network as `embed` sees it; `Backbone` is one."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def fingerprint(self) -> str:
        """A text that differs when an embedding would differ."""

    @property
    def size(self) -> int:
        """Height and width of the images that it sees."""

    @property
    def dim(self) -> int:
        """Numbers of an embedding."""

    def embed(self, images: UInt8[Tensor, "image 3 height width"]) -> Float32[Tensor, "image dim"]:
        """A vector for each square image, on the CPU, without a gradient."""
