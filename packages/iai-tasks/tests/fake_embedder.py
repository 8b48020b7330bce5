"""A backbone that costs nothing, and the images that the tests of stores embed."""

import json
import time
from pathlib import Path

import attrs
import torch
from iai_tasks import ImageClasses
from iai_tasks._tensor_file import checksum
from safetensors import safe_open
from safetensors.torch import load_file, save_file


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


class SomeUnreadable:
    """The numbered images, of which some cannot be read."""

    def __init__(self, num_images, unreadable):
        self.whole, self.unreadable = numbered(num_images), set(unreadable)
        self.class_names, self.labels = self.whole.class_names, self.whole.labels
        self.fingerprint = f"{self.whole.fingerprint} {sorted(self.unreadable)}"

    def __len__(self):
        return len(self.whole)

    def name(self, index):
        return f"{index}.png"

    def read(self, index, size):
        if index in self.unreadable:
            raise ValueError(f"photos/{index}.png cannot be read as an image: it is torn.")
        return self.whole.read(index, size)


def flip(file):
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)


def opened(file):
    """The tensors and the record of a file, whatever they are."""
    with safe_open(file, framework="pt") as inside:
        return load_file(file), json.loads(json.loads(inside.metadata()["iai_tasks"])["record"])


def sealed(file, tensors, record):
    """Writes any tensors and any record as `save_tensors` does, with a right checksum."""
    text = json.dumps(record)
    seal = {"record": text, "sha256": checksum(text, tensors)}
    save_file(tensors, file, {"iai_tasks": json.dumps(seal)})


def of_another_format(file):
    tensors, record = opened(file)
    sealed(file, tensors, record | {"format": 1})
