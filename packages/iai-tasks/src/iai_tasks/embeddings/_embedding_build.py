"""Embeddings on their way to a store: batch after batch, from where an earlier process stopped."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from iai_tasks.embeddings._embedding_file import (
    EMBEDDINGS,
    LABELS,
    TEMPORARY,
    Origin,
    array_bytes,
    flush_folder,
    read_origin,
    write_manifest,
    write_origin,
    write_whole,
)
from iai_tasks.embeddings._row_journal import RowJournal
from iai_tasks.embeddings.image_source import ImageSource
from iai_tasks.interfaces import Embedder

_ORIGIN, _JOURNAL, _STORE = "origin.json", "journal.jsonl", "store"


def unfinished(folder: Path) -> Path:
    """Where a store is built, beside the folder that it is to be."""
    return folder.with_name(f"{folder.name}.unfinished")


def build(
    source: ImageSource,
    backbone: Embedder,
    folder: Path,
    origin: Origin,
    *,
    skip: bool,
    batch_size: int,
    progress: Callable[[int, int], None],
) -> None:
    """Embeds the images that are not yet embedded, and puts the finished store in its place.

    Only one process at a time may do so, and the place is free.

    Raises:
        OSError: If something cannot be written.
        ValueError: If an earlier process began with other images or another backbone, an image
            cannot be read or embedded, or a class has no image left; the text says which.
    """
    work = unfinished(folder)
    journal = _open(work, origin, dim=backbone.dim)
    if journal.skipped and not skip:
        raise ValueError(
            f"{source.name(journal.skipped[0])} could not be read and was left out by an earlier "
            f"call; pass unreadable='skip', or delete {work} to embed anew."
        )
    progress(journal.num_images, len(source))
    while journal.num_images < len(source):
        end = min(journal.num_images + batch_size, len(source))
        _embed_batch(source, backbone, journal, end, skip=skip)
        progress(journal.num_images, len(source))
    skipped = [source.name(index) for index in journal.skipped]
    _finish(source, journal, work, origin, skipped)
    os.replace(work / _STORE, folder)
    flush_folder(folder.parent)
    clear(folder)


def clear(folder: Path) -> None:
    """Removes what the building of a finished store has left, and nothing else."""
    work = unfinished(folder)
    with contextlib.suppress(OSError):
        (work / _JOURNAL).unlink(missing_ok=True)
        (work / _ORIGIN).unlink(missing_ok=True)
        _clear_temporaries(work)
        work.rmdir()


def _clear_temporaries(folder: Path) -> None:
    """Removes what a kill in the middle of writing a file leaves."""
    for file in folder.glob(TEMPORARY):
        file.unlink(missing_ok=True)


def _open(work: Path, origin: Origin, *, dim: int) -> RowJournal:
    (work / _STORE).mkdir(parents=True, exist_ok=True)
    for made in (work, work / _STORE):
        _clear_temporaries(made)
    if (work / _ORIGIN).exists():
        begun = read_origin(work / _ORIGIN)
        begun.check_backbone(origin.backbone, origin.backbone_fingerprint, work)
        begun.check_source(origin.source_fingerprint, work)
    else:
        write_origin(work / _ORIGIN, origin)
    journal = RowJournal(work / _STORE / EMBEDDINGS, work / _JOURNAL, dim=dim)
    for made in (work / _STORE, work, work.parent):
        flush_folder(made)
    return journal


def _embed_batch(
    source: ImageSource, backbone: Embedder, journal: RowJournal, end: int, *, skip: bool
) -> None:
    images, names, skipped = [], [], []
    for index in range(journal.num_images, end):
        try:
            images.append(source.read(index, backbone.size))
            names.append(source.name(index))
        except ValueError as error:
            if not skip:
                raise ValueError(
                    f"{error} (What is done is kept; unreadable='skip' leaves such images out.)"
                ) from error
            skipped.append(index)
    rows = np.zeros((0, backbone.dim), dtype=np.float32)
    if images:
        rows = _embed(backbone, torch.stack(images), names).numpy()
    journal.append(rows, skipped)


def _embed(
    backbone: Embedder, images: UInt8[Tensor, "image 3 height width"], names: list[str]
) -> Float32[Tensor, "image dim"]:
    try:
        return _finite(backbone, images)
    except ValueError as error:
        for image, name in zip(images, names, strict=True):
            try:
                _finite(backbone, image[None])
            except ValueError as reason:
                raise ValueError(f"{name} cannot be embedded: {reason}") from error
        raise


def _finite(
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


def _finish(
    source: ImageSource, journal: RowJournal, work: Path, origin: Origin, skipped: list[str]
) -> None:
    kept = torch.ones(len(source), dtype=torch.bool)
    kept[journal.skipped] = False
    labels = source.labels[kept]
    counts = labels.bincount(minlength=len(source.class_names))
    if not counts.all():
        empty = source.class_names[int(counts.argmin())]
        raise ValueError(
            f"`source` must have images of every class; none of {empty!r} can be read."
        )
    journal.finish()
    write_whole(work / _STORE / LABELS, array_bytes(labels.numpy()))
    write_manifest(work / _STORE, origin, list(source.class_names), skipped)
