"""A frozen network that turns images into vectors, and the scale that it needs them on."""

import copy
import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any

import attrs
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from iai_tasks._tensor_file import checksum
from iai_tasks._validators import at_least

# Pixels of the images that the network runs on at once. Few on the CPU, so that activations stay in
# its cache: EfficientNet-Lite0 at 224 x 224 takes twice as long on 32 images together.
_AT_ONCE = {"cpu": 160_000}
_AT_ONCE_ELSEWHERE = 8_000_000


def _to_floats(numbers: Iterable[float | int]) -> tuple[float, ...]:
    return tuple(map(float, numbers))


@attrs.frozen(eq=False, kw_only=True)
class Backbone:
    """A network with frozen weights that gives a vector for each image.

    Attributes:
        name: What it is called.
        module: From `image 3 size size`, scaled by `mean` and `std`, to `image dim`. It is kept in
            evaluation mode, and no parameter of it requires a gradient.
        size: Height and width of the images that the network sees.
        mean: Of red, green, blue; subtracted from images of numbers from 0 to 1. By default that of
            ImageNet.
        std: Of red, green, blue; images are divided by it. By default that of ImageNet.
        dim: Numbers of an embedding, found by running the network on a blank image.
        fingerprint: SHA-256, as hexadecimal digits, of the name, size, mean, std and all parameters
            and buffers, as they were when this record was made. It tells stores of embeddings
            apart. It does not depend on the network's code.

    Raises:
        ValueError: If a number is wrong, or the network does not give one vector of finite numbers
            for a blank image.

    >>> colour = Backbone(
    ...     name="mean colour",
    ...     module=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    ...     size=8,
    ...     mean=(0.1, 0.1, 0.1),
    ...     std=(0.5, 0.5, 0.5),
    ... )
    >>> colour.embed(torch.full((1, 1, 32, 32), 51, dtype=torch.uint8))  # (51 / 255 - 0.1) / 0.5
    tensor([[0.2000, 0.2000, 0.2000]])
    """

    name: str
    module: nn.Module = attrs.field(repr=False)
    size: int = attrs.field(validator=at_least(1))
    mean: tuple[float, ...] = attrs.field(default=(0.485, 0.456, 0.406), converter=_to_floats)
    std: tuple[float, ...] = attrs.field(default=(0.229, 0.224, 0.225), converter=_to_floats)
    dim: int = attrs.field(init=False)
    fingerprint: str = attrs.field(init=False)

    @mean.validator
    @std.validator
    def _has_three(self, attribute: "attrs.Attribute[object]", numbers: tuple[float, ...]) -> None:
        positive = attribute.name == "mean" or min(numbers, default=1) > 0
        if len(numbers) != 3 or not positive or not all(map(math.isfinite, numbers)):
            kind = "three numbers" if attribute.name == "mean" else "three positive numbers"
            raise ValueError(f"`{attribute.name}` must be {kind}; got {numbers}.")

    def __attrs_post_init__(self) -> None:
        self.module.requires_grad_(False)
        blank = torch.zeros(1, 3, self.size, self.size, dtype=torch.uint8)
        try:
            output = self._run(blank)
        except Exception as error:  # networks refuse an image with errors of many kinds
            raise ValueError(
                f"`module` must take images of `size` {self.size}; it raised: {error}"
            ) from error
        _check_vectors(output, 1)
        object.__setattr__(self, "dim", output.shape[1])
        settings = repr((self.name, self.size, self.mean, self.std))
        object.__setattr__(self, "fingerprint", checksum(settings, dict(self._tensors())))

    def embed(
        self, images: UInt8[Tensor, "image channel height width"]
    ) -> Float32[Tensor, "image dim"]:
        """Scales images to `size`, bilinear with antialiasing, and runs the network on them.

        Args:
            images: Square images of numbers from 0 to 255, of one channel or three, on any device.

        Returns:
            A vector for each image, on the CPU; no gradient flows. Up to rounding it does not
            depend on the other images.

        Raises:
            TypeError: If the images are not uint8.
            ValueError: If their shape is wrong, or an embedding is not finite.
        """
        if images.dtype != torch.uint8:
            raise TypeError(f"`images` must be uint8; got {images.dtype}.")
        shape = tuple(images.shape)
        if len(shape) != 4 or shape[1] not in (1, 3) or not 0 < shape[2] == shape[3]:
            raise ValueError(
                f"`images` must be square, of shape (image, 1 or 3, size, size); got {shape}."
            )
        if not len(images):
            return torch.zeros(0, self.dim, dtype=torch.float32)
        at_once = _AT_ONCE.get(self._device.type, _AT_ONCE_ELSEWHERE) // self.size**2
        parts = [self._run(part).float().cpu() for part in torch.split(images, max(1, at_once))]
        embeddings = torch.cat(parts)
        _check_vectors(embeddings, len(images))
        return embeddings

    def to(self, device: torch.device | str) -> "Backbone":
        """A copy of the network on a device, where its `embed` runs."""
        return attrs.evolve(self, module=copy.deepcopy(self.module).to(device))

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        return itertools.chain(self.module.named_parameters(), self.module.named_buffers())

    @property
    def _device(self) -> torch.device:
        return next((tensor.device for _, tensor in self._tensors()), torch.device("cpu"))

    @torch.no_grad()
    def _run(self, images: Tensor) -> Any:
        x = images.to(self._device).expand(-1, 3, -1, -1).float()
        x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True) / 255
        mean, std = x.new_tensor(self.mean), x.new_tensor(self.std)
        return self.module.eval()((x - mean[:, None, None]) / std[:, None, None])


def _check_vectors(output: Any, num_images: int) -> None:
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != num_images:
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"`module` must give one vector an image, ({num_images}, dim); got {got}.")
    num_bad = int((~output.isfinite()).any(dim=1).sum())
    if num_bad:
        raise ValueError(
            f"`module` must give finite numbers; the embeddings of {num_bad} of {num_images} "
            "images are not."
        )
