"""A backbone that costs nothing, and the images that the tests of stores embed."""

import time
from pathlib import Path

import attrs
import torch
from iai_tasks import ImageClasses


@attrs.define(kw_only=True)
class FakeEmbedder:
    """Sums, exact in float32 whatever the batch; optionally slow, or failing at a call."""

    name: str = "fake"
    fingerprint: str = "f" * 64
    size: int = 4
    dim: int = 5
    seconds: float = 0.0
    stop_after: int | None = None
    num_calls: int = 0
    num_images: int = 0

    def embed(self, images):
        if self.num_calls == self.stop_after:
            raise KeyboardInterrupt
        time.sleep(self.seconds)
        self.num_calls += 1
        self.num_images += len(images)
        total = images.long().sum(dim=(1, 2, 3))
        return (total[:, None] * torch.arange(1, self.dim + 1)).float()


def numbered(num_images: int = 40) -> ImageClasses:
    """Images of two classes, each another."""
    images = torch.arange(num_images * 3 * 16).mul(37).to(torch.uint8).view(num_images, 3, 4, 4)
    labels = torch.arange(num_images) % 2
    return ImageClasses(images=images, labels=labels, class_names=("even", "odd"))


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, locks aside."""
    files = (file for file in sorted(folder.iterdir()) if file.name != ".lock")
    return {file.name: file.read_bytes() for file in files}
