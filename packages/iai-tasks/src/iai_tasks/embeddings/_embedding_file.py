"""The files in a folder of embeddings, and what they say they were made from."""

from pathlib import Path
from typing import Any

import attrs
from torch import Tensor

from iai_tasks._tensor_file import load_tensors, save_tensors

STORE = "embeddings.safetensors"
SHARDS = "images-*.safetensors"  # while the store is being built
FORMAT = 2


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


def check_backbone(name: str, fingerprint: str, made_from: Origin, folder: Path) -> None:
    """Raises a `ValueError` unless the folder was made with this backbone."""
    if fingerprint != made_from.backbone_fingerprint:
        raise ValueError(
            f"`backbone` must be the one that {folder} was made with, {made_from.backbone!r} "
            f"(fingerprint {made_from.backbone_fingerprint[:12]}); got {name!r} "
            f"({fingerprint[:12]}). Delete the folder to embed anew."
        )


def check_source(fingerprint: str, made_from: str, folder: Path) -> None:
    """Raises a `ValueError` unless the folder was made from these images."""
    if fingerprint != made_from:
        raise ValueError(
            f"`source` must be as it was when {folder} was made; its images, labels or names have "
            "changed. Delete the folder to embed anew."
        )


def write(file: Path, tensors: dict[str, Tensor], origin: Origin, **record: object) -> None:
    """Writes a shard or a store, whole."""
    save_tensors(file, tensors, {"format": FORMAT, "origin": attrs.asdict(origin), **record})


def read(file: Path) -> tuple[dict[str, Tensor], Origin, dict[str, Any]]:
    """Maps the tensors of a shard or a store, and reads its origin and the rest of its record.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or of another format.
    """
    tensors, record = load_tensors(file)
    form = record.pop("format", None)
    if form != FORMAT:
        raise ValueError(
            f"{file} must be of format {FORMAT}; it is of format {form!r}, which another version "
            "of iai-tasks wrote. Delete the folder to embed anew."
        )
    return tensors, Origin(**record.pop("origin")), record
