"""Embeds images shard by shard, and puts the shards together when all are there."""

import contextlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from iai_tasks.embeddings._embedding_file import (
    SHARDS,
    STORE,
    Origin,
    check_backbone,
    check_source,
    read,
    write,
)
from iai_tasks.interfaces import Embedder, ImageSource

_SHARD = 64  # images; at most so many embeddings are lost when a build is stopped
_TEMPORARY = ".*.tmp"  # files that a kill leaves half written


def build(
    source: ImageSource,
    backbone: Embedder,
    folder: Path,
    origin: Origin,
    *,
    skip: bool,
    progress: Callable[[int, int], None],
) -> None:
    """Writes the shards that the folder lacks, then the store.

    A shard is the rows of up to 64 images, and the index of the image that each row is of. Only one
    process at a time may build.

    Raises:
        OSError: If a file cannot be written.
        ValueError: If an earlier process began with other images or another backbone, an image
            cannot be read or embedded, or a class has no image left; the text says which.
    """
    _remove(folder, _TEMPORARY)
    files, indices = [], []
    for start in range(0, len(source), _SHARD):
        progress(start, len(source))
        images = range(start, min(start + _SHARD, len(source)))
        files.append(folder / f"images-{images.start}-{images.stop}.safetensors")
        index = _index_of(files[-1], folder, origin)
        if index is None or not (skip or len(index) == len(images)):
            embeddings, index = _embed_images(source, backbone, images, skip=skip)
            write(files[-1], {"embeddings": embeddings, "index": index}, origin)
        indices.append(index)
    progress(len(source), len(source))
    _join(source, backbone.dim, folder, origin, files, torch.cat(indices))


def clear(folder: Path) -> None:
    """Removes what only the building of a store needs."""
    for pattern in (SHARDS, _TEMPORARY):
        _remove(folder, pattern)


def _remove(folder: Path, pattern: str) -> None:
    for file in folder.glob(pattern):
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)


def _index_of(file: Path, folder: Path, origin: Origin) -> Int64[Tensor, " row"] | None:
    """The images that a shard has rows of; None where there is no shard, or a damaged one.

    Raises:
        ValueError: If the shard was made from other images or by another backbone.
    """
    try:
        tensors, made_from, _ = read(file)
    except (FileNotFoundError, ValueError):
        return None
    check_backbone(origin.backbone, origin.backbone_fingerprint, made_from, folder)
    check_source(origin.source_fingerprint, made_from.source_fingerprint, folder)
    return tensors["index"].clone()


def _embed_images(
    source: ImageSource, backbone: Embedder, indices: Sequence[int], *, skip: bool
) -> tuple[Float32[Tensor, "row dim"], Int64[Tensor, " row"]]:
    """Embeddings of the images that can be read, and their indices."""
    images, kept = [], []
    for index in indices:
        try:
            images.append(source.read(index, backbone.size))
            kept.append(index)
        except ValueError as error:
            if not skip:
                raise ValueError(
                    f"{error} (What is done is kept; unreadable='skip' leaves such images out.)"
                ) from error
    if not images:
        nothing = torch.zeros(0, backbone.dim, dtype=torch.float32)
        return nothing, torch.zeros(0, dtype=torch.int64)
    try:
        return _embed(backbone, torch.stack(images)), torch.tensor(kept)
    except ValueError as error:
        for image, index in zip(images, kept, strict=True):
            try:
                _embed(backbone, image[None])
            except ValueError as reason:
                name = source.name(index)
                raise ValueError(f"{name} cannot be embedded: {reason}") from error
        raise


def _embed(
    backbone: Embedder, images: UInt8[Tensor, "image 3 height width"]
) -> Float32[Tensor, "image dim"]:
    rows = backbone.embed(images)
    expected = (len(images), backbone.dim)
    if tuple(rows.shape) != expected or rows.dtype != torch.float32:
        raise ValueError(
            f"`backbone` must give float32 vectors of shape {expected}; got {rows.dtype}, "
            f"{tuple(rows.shape)}."
        )
    if not rows.isfinite().all():
        raise ValueError("`backbone` must give finite numbers.")
    return rows


def _join(
    source: ImageSource,
    dim: int,
    folder: Path,
    origin: Origin,
    files: Sequence[Path],
    index: Int64[Tensor, " row"],
) -> None:
    """Writes the store: the rows of all shards, and the label of each."""
    labels = source.labels.cpu()[index]
    counts = labels.bincount(minlength=len(source.class_names))
    if not counts.all():
        empty = source.class_names[int(counts.argmin())]
        raise ValueError(
            f"`source` must have images of every class; none of {empty!r} can be read."
        )
    gathered = folder / ".rows.tmp"  # a file, for there may be more rows than memory holds
    with open(gathered, "wb") as rows:
        for file in files:
            rows.write(read(file)[0]["embeddings"].numpy().data)
    shape = len(index), dim
    embeddings = torch.from_file(str(gathered), size=math.prod(shape), dtype=torch.float32)
    left_out = sorted(set(range(len(source))) - set(index.tolist()))
    write(
        folder / STORE,
        {"embeddings": embeddings.view(shape), "labels": labels},
        origin,
        class_names=source.class_names,
        skipped=[source.name(index) for index in left_out],
    )
