"""The files in a folder of embeddings: shards in a sub-folder while it is built, then the store."""

import contextlib
import mmap
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import attrs
import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from iai_tasks._tensor_file import Kinds, load_tensors, save_tensors
from iai_tasks.interfaces import Embedder, ImageSource

STORE = "embeddings.safetensors"
_SHARDS = ".shards"  # the sub-folder in which a store is built
_BUILT = re.compile(  # the names of the files in it, whole or half written
    r"(images-\d+-\d+|embeddings)\.safetensors"
    r"|\.(images-\d+-\d+|embeddings)\.safetensors\.[0-9a-f]+\.tmp"
)
_STORED: Kinds = {"embeddings": (torch.float32, 2), "labels": (torch.int64, 1)}
_EMBEDDED: Kinds = {"embeddings": (torch.float32, 2), "index": (torch.int64, 1)}
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

    backbone: str = attrs.field(validator=attrs.validators.instance_of(str))
    backbone_fingerprint: str = attrs.field(validator=attrs.validators.instance_of(str))
    source_fingerprint: str = attrs.field(validator=attrs.validators.instance_of(str))

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


def read_store(file: Path) -> tuple[dict[str, Tensor], Origin, dict[str, Any]]:
    """Maps the tensors of a store, and reads its origin and the rest of its record.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If it cannot be read.
        ValueError: If the file is damaged, of another format or holds something else.
    """
    return _read(file, _STORED)


def _read(file: Path, kinds: Kinds) -> tuple[dict[str, Tensor], Origin, dict[str, Any]]:
    tensors, record = load_tensors(file, kinds)
    found = record.pop("format", None)
    if found != _FORMAT:
        shown = found if isinstance(found, int) and 0 <= found < 1000 else "unknown"
        raise ValueError(
            f"{file} must be of format {_FORMAT}; it is of format {shown}, which another version "
            "of iai-tasks wrote. Delete the folder to embed anew."
        )
    try:
        return tensors, Origin(**record.pop("origin")), record
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{file} must say which backbone and images it was made from, in three words. Delete "
            "the folder to embed anew."
        ) from error


def remove_shards(folder: Path) -> None:
    """Removes the sub-folder in which the store was built, unless it holds other files."""
    with contextlib.suppress(OSError):
        for file in (folder / _SHARDS).iterdir():
            if _BUILT.fullmatch(file.name):
                file.unlink(missing_ok=True)
        (folder / _SHARDS).rmdir()


@attrs.frozen
class Build:
    """Embeds the images that have no shard yet, and joins all shards to the store.

    A shard holds the embeddings of up to 64 images, and the index of the image of each. Only one
    process at a time may build in a folder.

    Attributes:
        source: The images.
        backbone: The network.
        folder: Where the store will be.
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
            ValueError: If the sub-folder of shards holds other files, an earlier process began with
                other images or another backbone, an image cannot be read or embedded, or a class
                has no image left; the text says which.
        """
        self._make_sub_folder()
        num, files, indices = len(self.source), [], []
        for start in range(0, num, _SHARD):
            progress(start, num)
            images = range(start, min(start + _SHARD, num))
            files.append(self._shards / f"images-{images.start}-{images.stop}.safetensors")
            index = self._done(files[-1], images)
            if index is None or not (self.skip or len(index) == len(images)):
                embeddings, index = self._embed(images)
                self._write(files[-1], {"embeddings": embeddings, "index": index})
            indices.append(index)
        progress(num, num)
        self._join(files, torch.cat(indices))

    @property
    def _shards(self) -> Path:
        return self.folder / _SHARDS

    def _make_sub_folder(self) -> None:
        """Makes the sub-folder of shards, or clears it of files that a kill left half written."""
        if self._shards.is_symlink():
            raise ValueError(f"{self._shards} must be a folder of its own; it is a link.")
        self._shards.mkdir(exist_ok=True)
        for file in self._shards.iterdir():
            if not _BUILT.fullmatch(file.name):
                raise ValueError(
                    f"{self._shards} must hold only what `embed` writes; it holds {file.name}."
                )
            if file.suffix == ".tmp":
                file.unlink(missing_ok=True)

    def _write(self, file: Path, tensors: dict[str, Tensor], **record: object) -> None:
        origin = attrs.asdict(self.origin)
        save_tensors(file, tensors, {"format": _FORMAT, "origin": origin, **record})

    def _done(self, file: Path, images: range) -> Int64[Tensor, " row"] | None:
        """The images in a shard; None if there is no shard, or not of these images."""
        try:
            tensors, origin, _ = _read(file, _EMBEDDED)
        except (FileNotFoundError, ValueError):
            return None
        origin.check(self.origin, self.folder)
        index = tensors["index"]
        within = index.tolist() == sorted(set(images).intersection(index.tolist()))
        if not within or tensors["embeddings"].shape != (len(index), self.backbone.dim):
            return None
        return index.clone()

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
        left_out = sorted(set(range(len(self.source))) - set(index.tolist()))
        skipped = [self.source.name(image) for image in left_out]
        with tempfile.TemporaryFile(dir=self._shards) as file:  # more than memory may hold
            self._gather(files, file)
            rows = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            embeddings = torch.frombuffer(rows, dtype=torch.float32)
            tensors = {"embeddings": embeddings.view(-1, self.backbone.dim), "labels": labels}
            self._write(self._shards / STORE, tensors, class_names=names, skipped=skipped)
        os.replace(self._shards / STORE, self.folder / STORE)

    def _gather(self, files: list[Path], file: BinaryIO) -> None:
        """Writes the rows of all shards, one after another."""
        for shard in files:
            rows = _read(shard, _EMBEDDED)[0]["embeddings"]
            try:
                file.write(rows.numpy().data)
                file.flush()
            except OSError as error:
                raise OSError(
                    error.errno, f"`{self._shards}` could not be written to: {error.strerror}."
                ) from error
