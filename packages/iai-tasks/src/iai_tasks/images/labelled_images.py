"""The record that loaders of published image sets return."""

import functools
from collections.abc import Callable, Sequence

import attrs
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from iai_tasks._tensor_file import checksum
from iai_tasks._validators import check_at_least


@attrs.frozen(eq=False, kw_only=True)
class LabelledImages:
    """Flat images and their classes, in a training and a test part that share no image.

    Attributes:
        train_images: `image pixel`, float32, the numbers that the source has.
        train_labels: `image`, int64, classes from 0.
        test_images: `image pixel`, float32, with the same number of pixels.
        test_labels: `image`, int64.

    Raises:
        ValueError: If the shapes disagree.
    """

    train_images: Float32[Tensor, "image pixel"]
    train_labels: Int64[Tensor, " image"]
    test_images: Float32[Tensor, "image pixel"]
    test_labels: Int64[Tensor, " image"]

    def __attrs_post_init__(self) -> None:
        num_pixels = self.train_images.shape[-1]
        for part, images, labels in (
            ("train", self.train_images, self.train_labels),
            ("test", self.test_images, self.test_labels),
        ):
            if images.ndim != 2 or images.shape[1] != num_pixels:
                raise ValueError(
                    f"`{part}_images` must have shape (image, pixel) with the {num_pixels} pixels "
                    f"of `train_images`; got {tuple(images.shape)}."
                )
            if labels.shape != images.shape[:1]:
                raise ValueError(
                    f"`{part}_labels` must have shape (image,) = ({len(images)},), one for each "
                    f"image; got {tuple(labels.shape)}."
                )

    @property
    def num_classes(self) -> int:
        """One more than the largest class of a training image: classes are counted from 0."""
        return int(self.train_labels.max()) + 1

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the images and labels of both parts."""
        return checksum("", attrs.asdict(self, recurse=False))

    @classmethod
    def hold_out(
        cls, images: Float32[Tensor, "image pixel"], labels: Int64[Tensor, " image"], *, every: int
    ) -> "LabelledImages":
        """Splits images: of each class every third, say, is a test image.

        Args:
            images: Flat images.
            labels: Their classes, from 0.
            every: One image of so many is a test image, at least 2.

        Raises:
            ValueError: `every` is below 2, or a class has fewer images than that.

        >>> images = torch.arange(5.0)[:, None]
        >>> split = LabelledImages.hold_out(images, torch.tensor([0, 1, 0, 1, 0]), every=2)
        >>> split.train_images[:, 0], split.test_images[:, 0]
        (tensor([0., 1., 4.]), tensor([2., 3.]))
        """
        check_at_least(2, every=every)
        counts = labels.bincount()
        for label, count in enumerate(counts.tolist()):
            if count < every:
                raise ValueError(
                    f"`labels` must have each class at least {every} times, so that an image of it "
                    f"is held out; class {label} has {count}."
                )
        of_class = labels[:, None] == torch.arange(len(counts))
        number = (of_class.cumsum(0) * of_class).sum(1)  # of an image within its class, from 1
        held = number % every == 0
        return cls(
            train_images=images[~held],
            train_labels=labels[~held],
            test_images=images[held],
            test_labels=labels[held],
        )

    def of_classes(self, classes: Sequence[int]) -> "LabelledImages":
        """The images of some classes, which are numbered anew in the order given.

        Raises:
            ValueError: If no class is given.

        >>> images = LabelledImages(
        ...     train_images=torch.zeros(3, 1),
        ...     train_labels=torch.tensor([4, 2, 3]),
        ...     test_images=torch.zeros(1, 1),
        ...     test_labels=torch.tensor([2]),
        ... )
        >>> images.of_classes([4, 2]).train_labels
        tensor([0, 1])
        """
        if len(classes) == 0:
            raise ValueError("`classes` must hold at least one class; got none.")

        def part(name: str) -> dict[str, Tensor]:
            images, labels = getattr(self, f"{name}_images"), getattr(self, f"{name}_labels")
            match = labels[:, None] == torch.as_tensor(classes, device=labels.device)
            kept = match.any(1)
            return {f"{name}_images": images[kept], f"{name}_labels": match[kept].int().argmax(1)}

        return LabelledImages(**part("train"), **part("test"))

    def map(self, change: Callable[[Tensor], Tensor]) -> "LabelledImages":
        """The same with all images changed by a function of `image pixel`."""
        parts = {"train_images": self.train_images, "test_images": self.test_images}
        return attrs.evolve(self, **{name: change(part) for name, part in parts.items()})
