"""A labelled set of images, from which distinct ones are drawn for many tasks at once."""

import math
from typing import Any

import attrs
import numpy as np
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

Array = Tensor | np.ndarray[Any, np.dtype[Any]]


@attrs.frozen(eq=False, kw_only=True)
class ImagePool:
    """Flat images and their classes.

    Attributes:
        images: `image pixel`, any real dtype.
        labels: `image`, classes from 0.
        counts: Number of images of each class, `base_class`, on the CPU.
        mean: Mean of all numbers of all images.
        deviation: Standard deviation of all numbers of all images.
    """

    images: Shaped[Tensor, "image pixel"]
    labels: Int64[Tensor, " image"]
    counts: Int64[Tensor, " base_class"]
    mean: float
    deviation: float

    @property
    def num_pixels(self) -> int:
        """Numbers of an image."""
        return self.images.shape[1]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.counts)

    def fewest(self, num_classes: int) -> int:
        """Images that any `num_classes` classes hold together at least."""
        return int(self.counts.sort().values[:num_classes].sum())

    def draw(
        self, names: Int64[Tensor, "task base_class"], num: int, generator: torch.Generator
    ) -> tuple[Shaped[Tensor, "task n pixel"], Int64[Tensor, "task n"]]:
        """Draws distinct images for every task, uniformly from its classes and in random order.

        Args:
            names: What each task calls each class of the pool; -1 for a class that it has not got.
            num: Images of a task, at most `fewest` of its number of classes.
            generator: Source of every random number.

        Returns:
            The images and what their task calls their class, on the generator's device.
        """
        device = generator.device
        labels = self.labels.to(device)
        # Sorting random keys draws for all tasks at once. Equal float32 keys are too rare to
        # matter.
        keys = torch.rand(len(names), len(labels), generator=generator, device=device)
        keys.masked_fill_((names < 0)[:, labels], -1.0)
        index = keys.topk(num, dim=1).indices
        images = self.images[index.to(self.images.device)].to(device)
        return images, names.gather(1, labels[index])


def image_pool(
    images: Array, labels: Array, *, prefix: str = "", num_classes: int | None = None
) -> ImagePool:
    """Checks a caller's arrays and makes a pool of them, sharing their memory.

    Args:
        images: `image *image_shape`.
        labels: `image`, integers.
        prefix: What the arrays' names begin with in errors.
        num_classes: Classes that labels may name. None: every class up to the largest must occur.

    Raises:
        TypeError: If the labels are not integers.
        ValueError: If shapes disagree, a number is not finite, labels are out of range, or a class
            has no image.
    """
    images, labels = torch.as_tensor(images), torch.as_tensor(labels)
    if images.ndim < 2 or images.numel() == 0:
        raise ValueError(
            f"`{prefix}images` must have shape (image, *image_shape) and hold at least one number; "
            f"got {tuple(images.shape)}."
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"`{prefix}labels` must be integers; got {labels.dtype}.")
    if labels.shape != images.shape[:1]:
        raise ValueError(
            f"`{prefix}labels` must have shape (image,) = ({len(images)},), one for each image; "
            f"got {tuple(labels.shape)}."
        )
    smallest, largest = int(labels.min()), int(labels.max())
    last = largest if num_classes is None else num_classes - 1
    if smallest < 0 or largest > last:
        raise ValueError(
            f"`{prefix}labels` must be from 0 to {last}; got classes from {smallest} to {largest}."
        )
    counts = labels.long().bincount(minlength=last + 1).cpu()
    if num_classes is None and not counts.all():
        raise ValueError(
            f"`{prefix}labels` must use every class from 0 to {last}; "
            f"no image has class {int(counts.argmin())}."
        )
    flat = images.flatten(1)
    mean, deviation = _moments(flat)
    if not math.isfinite(mean):
        raise ValueError(f"`{prefix}images` must be finite; NaN or infinity is among the numbers.")
    return ImagePool(
        images=flat, labels=labels.long(), counts=counts, mean=mean, deviation=deviation
    )


def _moments(images: Shaped[Tensor, "image pixel"]) -> tuple[float, float]:
    """Mean and standard deviation in float64, a chunk at a time to make no copy of the set."""
    chunks, count = torch.split(images, 4096), images.numel()
    mean = sum(float(chunk.double().sum()) for chunk in chunks) / count
    square = sum(float((chunk.double() - mean).square().sum()) for chunk in chunks) / count
    return mean, square**0.5
