"""The record of labelled images: what few-shot tasks are drawn from, and what `embed` embeds."""

import functools
import json

import attrs
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from iai_tasks._tensor_file import checksum


@attrs.frozen(eq=False, kw_only=True)
class ImageClasses:
    """Images, the class of each, and what the classes are called; also an `ImageSource`.

    Attributes:
        images: `image channel height width`; uint8, which stands for numbers from 0 to 1 in steps
            of 1 / 255, or floating point, taken as it is. To be embedded they must be uint8, square
            and of one channel or three.
        labels: `image`, int64, the class of each image; every class has at least one.
        class_names: What each class is called.
        groups: The group of each class, such as the alphabet of a letter, which a split does not
            divide. By default every class is a group of its own.

    Raises:
        TypeError: If a dtype is wrong.
        ValueError: If the shapes disagree, a label has no name, or a class no image.

    >>> letters = ImageClasses(
    ...     images=torch.zeros(4, 1, 28, 28, dtype=torch.uint8),
    ...     labels=torch.tensor([0, 0, 1, 1]),
    ...     class_names=("alpha", "beta"),
    ...     groups=("Greek", "Greek"),
    ... )
    >>> letters.num_classes, letters.counts.tolist()
    (2, [2, 2])
    """

    images: (
        UInt8[Tensor, "image channel height width"] | Float[Tensor, "image channel height width"]
    ) = attrs.field(repr=False)
    labels: Int64[Tensor, " image"] = attrs.field(repr=False)
    class_names: tuple[str, ...] = attrs.field(converter=tuple[str, ...])
    groups: tuple[str, ...] = attrs.field(converter=tuple[str, ...])

    @groups.default
    def _one_class_each(self) -> tuple[str, ...]:
        return self.class_names

    def __attrs_post_init__(self) -> None:
        if not (self.images.dtype == torch.uint8 or self.images.is_floating_point()):
            raise TypeError(f"`images` must be uint8 or floating point; got {self.images.dtype}.")
        if self.images.ndim != 4 or self.images.numel() == 0:
            raise ValueError(
                "`images` must have shape (image, channel, height, width) and hold at least one "
                f"number; got {tuple(self.images.shape)}."
            )
        if self.labels.dtype != torch.int64:
            raise TypeError(f"`labels` must be int64; got {self.labels.dtype}.")
        if self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"`labels` must have shape (image,) = ({len(self.images)},), one for each image; "
                f"got {tuple(self.labels.shape)}."
            )
        if len(self.groups) != self.num_classes:
            raise ValueError(
                f"`groups` must name the group of each of the {self.num_classes} classes; "
                f"got {len(self.groups)}."
            )
        wrong = set(range(self.num_classes)) ^ set(self.labels.tolist())
        if wrong:
            raise ValueError(
                f"`labels` must be from 0 to {self.num_classes - 1}, the classes of "
                f"`class_names`, and use each; {min(wrong)} is unused or has no name."
            )

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @functools.cached_property
    def counts(self) -> Int64[Tensor, " class"]:
        """Number of images of each class, on the CPU."""
        return self.labels.cpu().bincount()

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the images, labels and class names."""
        tensors = {"images": self.images, "labels": self.labels}
        return checksum(json.dumps(self.class_names), tensors)

    def to(self, device: torch.device | str) -> "ImageClasses":
        """Moves the images and labels, so that sampling on that device copies nothing."""
        moved = {"images": self.images.to(device), "labels": self.labels.to(device)}
        return attrs.evolve(self, **moved)

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        """What an image is called in an error: the word image and its index."""
        return f"image {index}"

    def read(self, index: int, size: int) -> UInt8[Tensor, "3 height width"]:
        """An image of three channels, a grey one repeated; `size` is not looked at."""
        return self.images[index].expand(3, -1, -1)
