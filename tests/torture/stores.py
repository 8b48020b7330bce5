"""Kills the building of stores again and again, and looks at what is left; run by hand.

    python tests/torture/stores.py --kills 100

Half of the kills come at a random moment, and half at a file call: before it, after it, or in the
middle of what it writes. After each, `embed` is called again for the same folder, and killed again,
until it ends. Nothing may be lost: the store has the bytes of one that nobody disturbed, and a
shard that was once there is there after the next kill. And nothing may be left behind: the folder
holds the store and a lock file.
"""

import argparse
import builtins
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from iai_tasks import EmbeddingStore, ImageClasses, _whole_file, embed
from iai_tasks.embeddings import _embedding_build

IMAGES, SHARD = 64, 4
CALLS = ("fsync", "replace", "unlink", "open", "mkdir", "rmdir")  # and what is written
MOST_CALLS = 150  # about as many as a store takes
KILLS_A_STORE = 4
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


class Die:
    """Kills this process at a file call: `when` is before, halfway or after."""

    def __init__(self, call: int, when: str) -> None:
        self.left, self.when = call, when

    def at(self, module: object, name: str) -> None:
        real = getattr(module, name, None) or getattr(builtins, name)

        def wrapped(*args: object, **options: object) -> object:
            self.left -= 1
            if self.left == 0 and self.when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*args, **options)
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return self.torn(result) if hasattr(result, "write") else result

        setattr(module, name, wrapped)

    def torn(self, file: object) -> object:
        """A file of which a write may stop halfway."""
        die = self

        class Torn:
            def write(self, content: bytes) -> int:
                die.left -= 1
                if die.left == 0:
                    size = {"before": 0, "halfway": len(content) // 2}.get(die.when, len(content))
                    file.write(content[:size])
                    file.flush()
                    os.kill(os.getpid(), signal.SIGKILL)
                return file.write(content)

            def __enter__(self) -> "Torn":
                file.__enter__()
                return self

            def __exit__(self, *error: object) -> object:
                return file.__exit__(*error)

            def __getattr__(self, name: str) -> object:
                return getattr(file, name)

        return Torn()


def child(folder: Path, call: int, when: str) -> None:
    """What the killed process runs."""
    if call:
        die = Die(call, when)
        die.at(_whole_file, "open")
        for name in CALLS:
            die.at(os, name)
    build(folder)


def done(folder: Path) -> int:
    """Images that have a whole shard, or a place in the store, which must open."""
    if (folder / STORE).exists():
        return len(EmbeddingStore.open(folder).labels)
    shards = folder.glob(".shards/images-*.safetensors")
    return sum(
        len(_embedding_build._read(one, _embedding_build._EMBEDDED)[0]["index"]) for one in shards
    )


def check(folder: Path, whole: Path) -> list[str]:
    """What differs from the store that nobody disturbed."""
    faults = []
    if (folder / STORE).read_bytes() != (whole / STORE).read_bytes():
        faults.append("other bytes")
    if left := set(os.listdir(folder)) - {STORE, ".lock"}:
        faults.append(f"left behind: {sorted(left)}")
    return faults


def torture(kills: int, seed: int) -> int:
    draw, counts, faults = random.Random(seed), Counter(), []
    with tempfile.TemporaryDirectory() as temporary:
        whole = Path(temporary, "whole")
        build(whole)
        while counts["kills"] < kills:
            counts["stores"] += 1
            folder, last = Path(temporary, str(counts["stores"])), 0
            for _ in range(KILLS_A_STORE):
                at_call = draw.random() < 0.5
                call = draw.randint(1, MOST_CALLS) if at_call else 0
                when = draw.choice(("before", "halfway", "after"))
                status = killed(folder, call, when, None if at_call else draw.uniform(0, 0.3))
                if status == 0:
                    counts["ended before the kill"] += 1
                    break
                counts["kills"] += 1
                counts["at a file call" if at_call else "at a random moment"] += 1
                if status != -signal.SIGKILL:
                    faults.append(f"store {counts['stores']}: status {status}")
                if (now := done(folder)) < last:
                    faults.append(f"store {counts['stores']}: from {last} images back to {now}")
                last = now
                counts["goes on from a shard"] += now > 0
                counts["temporary file after the kill"] += any(folder.rglob(".*.tmp"))
            build(folder)
            faults += [f"store {counts['stores']}: {fault}" for fault in check(folder, whole)]
    for name, count in counts.items():
        print(f"{count:5} {name}")
    print(f"{len(faults):5} faults")
    print(*faults, sep="\n")
    return len(faults)


def killed(folder: Path, call: int, when: str, moment: float | None) -> int:
    """Builds in another process, which is forked here, once torch is imported; kills it."""
    pid = os.fork()
    if pid == 0:
        try:
            child(folder, call, when)
        finally:
            os._exit(0 if sys.exc_info()[0] is None else 1)
    if moment is not None:
        time.sleep(moment)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    _embedding_build._SHARD = SHARD
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    sys.exit(torture(given.kills, given.seed) > 0)
