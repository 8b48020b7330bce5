"""The record that loaders of published image sets return."""

import attrs
from jaxtyping import Float32, Int64
from torch import Tensor


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
