"""The record that sources of few-shot images return: many classes, a few images of each."""

import hashlib
from collections.abc import Iterable

import attrs
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor


def _to_names(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(names)


@attrs.frozen(eq=False, kw_only=True)
class ImageClasses:
    """Images of many classes, all of one shape, and what their classes are called.

    Attributes:
        images: `image channel height width`; uint8, which stands for numbers from 0 to 1 in steps
            of 1 / 255, or floating point, taken as it is.
        labels: `image`, int64, the class of each image; every class has at least one.
        class_names: What each class is called.
        groups: The group of each class, such as the alphabet of a letter: what a split keeps whole.
            Unless given, every class is a group by itself.
        counts: Images of each class, on the CPU; follows from the labels.

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
    ) = attrs.field()
    labels: Int64[Tensor, " image"] = attrs.field()
    class_names: tuple[str, ...] = attrs.field(converter=_to_names)
    groups: tuple[str, ...] = attrs.field(converter=_to_names)
    counts: Int64[Tensor, " class"] = attrs.field(init=False)

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
        smallest, largest = int(self.labels.min()), int(self.labels.max())
        if smallest < 0 or largest >= self.num_classes:
            raise ValueError(
                f"`labels` must be from 0 to {self.num_classes - 1}, the classes of "
                f"`class_names`; got {smallest if smallest < 0 else largest}."
            )
        counts = self.labels.cpu().bincount(minlength=self.num_classes)
        if not counts.all():
            empty = self.class_names[int(counts.argmin())]
            raise ValueError(f"`labels` must use every class; no image is of {empty!r}.")
        object.__setattr__(self, "counts", counts)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def fingerprint(self) -> str:
        """Numbers of images, classes and groups, and the start of the images' SHA-256.

        >>> letter = torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
        >>> ImageClasses(images=letter, labels=torch.tensor([0]), class_names="a").fingerprint
        '1 images of 1 classes in 1 groups, sha256 df3f619804a9'
        """
        digest = hashlib.sha256(self.images.cpu().numpy().tobytes()).hexdigest()[:12]
        return (
            f"{len(self.images)} images of {self.num_classes} classes in "
            f"{len(set(self.groups))} groups, sha256 {digest}"
        )

    def to(self, device: torch.device | str) -> "ImageClasses":
        """Moves the images, so that sampling on that device copies nothing."""
        return ImageClasses(
            images=self.images.to(device),
            labels=self.labels.to(device),
            class_names=self.class_names,
            groups=self.groups,
        )
