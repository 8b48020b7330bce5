"""The files in a folder of embeddings: a shard for every few images, then the store."""

import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from iai_tasks._tensor_file import load_tensors, save_tensors
from iai_tasks.interfaces import Embedder, ImageSource

STORE = "embeddings.safetensors"
SHARDS = "images-*.safetensors"
_TEMPORARY = ".*.tmp"  # files that a kill leaves half written
_FORMAT = 2
_SHARD = 64  # images; a process that is stopped loses at most so many embeddings


@attrs.frozen
class Origin:
    """What embeddings are made from.

    Attributes:
        backbone: The network's name.
        backbone_fingerprint: The network's fingerprint.
        source_fingerprint: The images' fingerprint.
    """

    backbone: str
    backbone_fingerprint: str
    source_fingerprint: str

    def check(self, given: "Origin", folder: Path) -> None:
        """Raises a `ValueError` unless a caller gives what the folder was made from."""
        if given.backbone_fingerprint != self.backbone_fingerprint:
            raise ValueError(
                f"`backbone` must be the one that {folder} was made with, {self.backbone!r} "
                f"(fingerprint {self.backbone_fingerprint[:12]}); got {given.backbone!r} "
                f"({given.backbone_fingerprint[:12]}). Delete the folder to embed anew."
            )
        if given.source_fingerprint != self.source_fingerprint:
            raise ValueError(
                f"`source` must be as it was when {folder} was made; its images, labels or names "
                "have changed. Delete the folder to embed anew."
            )


def read(file: Path) -> tuple[dict[str, Tensor], Origin, dict[str, Any]]:
    """Maps the tensors of a shard or a store, and reads its origin and the rest of its record.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or of another format.
    """
    tensors, record = load_tensors(file)
    found = record.pop("format", None)
    if found != _FORMAT:
        raise ValueError(
            f"{file} must be of format {_FORMAT}; it is of format {found!r}, which another version "
            "of iai-tasks wrote. Delete the folder to embed anew."
        )
    return tensors, Origin(**record.pop("origin")), record


def remove_shards(folder: Path) -> None:
    """Removes what only the building of a store needs."""
    for file in (*folder.glob(SHARDS), *folder.glob(_TEMPORARY)):
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)


@attrs.frozen
class Build:
    """Embeds the images that have no shard yet, and joins all shards to the store.

    A shard holds the embeddings of up to 64 images, and the index of the image of each. Only one
    process at a time may build in a folder.

    Attributes:
        source: The images.
        backbone: The network.
        folder: Where the files are.
        origin: What the store says that it is made from.
        skip: Whether images that cannot be read are left out.
    """

    source: ImageSource
    backbone: Embedder
    folder: Path
    origin: Origin
    skip: bool = attrs.field(kw_only=True)

    def run(self, progress: Callable[[int, int], None]) -> None:
        """Writes the shards that are missing, then the store.

        Raises:
            OSError: If a file cannot be written.
            ValueError: If an earlier process began with other images or another backbone, an image
                cannot be read or embedded, or a class has no image left; the text says which.
        """
        for file in self.folder.glob(_TEMPORARY):
            file.unlink(missing_ok=True)
        num, files, indices = len(self.source), [], []
        for start in range(0, num, _SHARD):
            progress(start, num)
            images = range(start, min(start + _SHARD, num))
            files.append(self.folder / f"images-{images.start}-{images.stop}.safetensors")
            index = self._done(files[-1])
            if index is None or not (self.skip or len(index) == len(images)):
                embeddings, index = self._embed(images)
                self._write(files[-1], {"embeddings": embeddings, "index": index})
            indices.append(index)
        progress(num, num)
        self._join(files, torch.cat(indices))

    def _write(self, file: Path, tensors: dict[str, Tensor], **record: object) -> None:
        origin = attrs.asdict(self.origin)
        save_tensors(file, tensors, {"format": _FORMAT, "origin": origin, **record})

    def _done(self, file: Path) -> Int64[Tensor, " row"] | None:
        """The images in a shard; None if there is no shard, or a damaged one."""
        try:
            tensors, origin, _ = read(file)
        except (FileNotFoundError, ValueError):
            return None
        origin.check(self.origin, self.folder)
        return tensors["index"].clone()

    def _embed(self, images: range) -> tuple[Float32[Tensor, "row dim"], Int64[Tensor, " row"]]:
        """Embeddings of the images that can be read, and their indices."""
        read_images, indices = [], []
        for index in images:
            try:
                read_images.append(self.source.read(index, self.backbone.size))
                indices.append(index)
            except ValueError as error:
                if not self.skip:
                    raise ValueError(
                        f"{error} (What is done is kept; unreadable='skip' leaves such images out.)"
                    ) from error
        rows = torch.zeros(0, self.backbone.dim, dtype=torch.float32)
        if indices:
            rows = self._embed_named(torch.stack(read_images), indices)
        return rows, torch.tensor(indices, dtype=torch.int64)

    def _embed_named(
        self, images: UInt8[Tensor, "image 3 height width"], indices: list[int]
    ) -> Float32[Tensor, "image dim"]:
        """Embeds images; an error names the first that cannot be embedded."""
        try:
            return self._embed_finite(images)
        except ValueError as error:
            for image, index in zip(images, indices, strict=True):
                try:
                    self._embed_finite(image[None])
                except ValueError as reason:
                    name = self.source.name(index)
                    raise ValueError(f"{name} cannot be embedded: {reason}") from error
            raise

    def _embed_finite(
        self, images: UInt8[Tensor, "image 3 height width"]
    ) -> Float32[Tensor, "image dim"]:
        rows, shape = self.backbone.embed(images), (len(images), self.backbone.dim)
        if rows.shape != shape or rows.dtype != torch.float32 or not rows.isfinite().all():
            raise ValueError(
                f"`backbone` must give finite numbers, float32 vectors of shape {shape}; got "
                f"{rows.dtype}, {tuple(rows.shape)}."
            )
        return rows

    def _join(self, files: list[Path], index: Int64[Tensor, " row"]) -> None:
        """Writes the store: the rows of all shards, the label of each, and what was left out."""
        names, labels = self.source.class_names, self.source.labels.cpu()[index]
        counts = labels.bincount(minlength=len(names))
        if not counts.all():
            empty = names[int(counts.argmin())]
            raise ValueError(
                f"`source` must have images of every class; none of {empty!r} can be read."
            )
        gathered = self.folder / ".rows.tmp"  # there may be more rows than memory holds
        with open(gathered, "wb") as rows:
            for file in files:
                rows.write(read(file)[0]["embeddings"].numpy().data)
        shape = len(index), self.backbone.dim
        embeddings = torch.from_file(str(gathered), size=math.prod(shape), dtype=torch.float32)
        left_out = sorted(set(range(len(self.source))) - set(index.tolist()))
        self._write(
            self.folder / STORE,
            {"embeddings": embeddings.view(shape), "labels": labels},
            class_names=names,
            skipped=[self.source.name(one) for one in left_out],
        )
