"""Kills the building of stores again and again, and looks at what is left; run by hand.

    python tests/torture/stores.py --kills 100

Nothing may be lost: the store has the bytes of one that nobody disturbed, and a
shard that was once there is there after the next kill. And nothing may be left behind: the folder
holds the store and a lock file.
"""

import os
import time
from pathlib import Path

import torch
from iai_tasks import EmbeddingStore, ImageClasses, _whole_file, embed
from iai_tasks.embeddings import _embedding_build
from killing import Work, main

IMAGES, SHARD = 64, 4
STORE = "embeddings.safetensors"


class Sums:
    """A backbone that costs nothing, and takes a while."""

    name, fingerprint, size, dim = "sums", "f" * 64, 4, 5

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        time.sleep(0.01)  # so that a random moment is mostly one of building
        total = images.long().sum(dim=(1, 2, 3))
        return (total[:, None] * torch.arange(1, self.dim + 1)).float()


def build(folder: Path) -> EmbeddingStore:
    images = torch.arange(IMAGES * 3 * 16).mul(37).to(torch.uint8).view(IMAGES, 3, 4, 4)
    labels = torch.arange(IMAGES) % 2
    source = ImageClasses(images=images, labels=labels, class_names=("even", "odd"))
    return embed(source, Sums(), folder)


def done(folder: Path) -> int:
    """Images that have a whole shard, or a place in the store, which must open."""
    if (folder / STORE).exists():
        return len(EmbeddingStore.open(folder).labels)
    shards = folder.glob(".shards/images-*.safetensors")
    return sum(
        len(_embedding_build._read(one, _embedding_build._EMBEDDED)[0]["index"]) for one in shards
    )


def differences(folder: Path, whole: Path) -> list[str]:
    """What differs from the store that nobody disturbed."""
    faults = []
    if (folder / STORE).read_bytes() != (whole / STORE).read_bytes():
        faults.append("other bytes")
    if left := set(os.listdir(folder)) - {STORE, ".lock"}:
        faults.append(f"left behind: {sorted(left)}")
    return faults


if __name__ == "__main__":
    _embedding_build._SHARD = SHARD
    main(
        Work(
            title=__doc__.splitlines()[0],
            work=build,
            opens=_whole_file,
            calls=("fsync", "replace", "unlink", "open", "mkdir", "rmdir"),
            most_calls=150,
            longest=0.3,
            done=done,
            faults=differences,
        )
    )
