"""The record that loaders of real images return."""

import attrs
from jaxtyping import Float32, Int64
from torch import Tensor


@attrs.frozen(eq=False, kw_only=True)
class LabelledImages:
    """Flat images and their classes, in a training and a test part that share no image.

    Attributes:
        train_images: `image pixel`, float32, the numbers as the source has them.
        train_labels: `image`, int64, classes from 0.
        test_images: `image pixel`, float32, with as many pixels.
        test_labels: `image`, int64.

    Raises:
        ValueError: If the shapes disagree.
    """

    train_images: Float32[Tensor, "image pixel"] = attrs.field()
    train_labels: Int64[Tensor, " image"] = attrs.field()
    test_images: Float32[Tensor, "image pixel"] = attrs.field()
    test_labels: Int64[Tensor, " image"] = attrs.field()

    @train_images.validator
    @test_images.validator
    def _images_are_flat(self, attribute: "attrs.Attribute[Tensor]", images: Tensor) -> None:
        num_pixels = self.train_images.shape[-1]
        if images.ndim != 2 or images.shape[1] != num_pixels:
            raise ValueError(
                f"`{attribute.name}` must have shape (image, pixel) with the {num_pixels} pixels "
                f"of `train_images`; got {tuple(images.shape)}."
            )

    @train_labels.validator
    @test_labels.validator
    def _labels_fit(self, attribute: "attrs.Attribute[Tensor]", labels: Tensor) -> None:
        images = self.train_images if attribute.name == "train_labels" else self.test_images
        if labels.shape != images.shape[:1]:
            raise ValueError(
                f"`{attribute.name}` must have shape (image,) = ({len(images)},), one for each "
                f"image; got {tuple(labels.shape)}."
            )
