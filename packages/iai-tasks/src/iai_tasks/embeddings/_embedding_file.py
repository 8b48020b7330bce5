"""The files of a store of embeddings: what they are made of, and whether they are as written."""

import contextlib
import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any, cast

import attrs
import numpy as np

FORMAT = 1
MANIFEST, EMBEDDINGS, LABELS = "manifest.json", "embeddings.npy", "labels.npy"
TEMPORARY = ".*.tmp"  # what a file is called until it is whole


@attrs.frozen
class Origin:
    """What embeddings are made of.

    Attributes:
        backbone: The network's name.
        backbone_fingerprint: The network's fingerprint.
        source_fingerprint: The images' fingerprint.
    """

    backbone: str
    backbone_fingerprint: str
    source_fingerprint: str

    def check_backbone(self, name: str, fingerprint: str, folder: Path) -> None:
        """Raises a `ValueError` unless the folder was made with this backbone."""
        if fingerprint != self.backbone_fingerprint:
            raise ValueError(
                f"`backbone` must be the one that {folder} was made with, {self.backbone!r} "
                f"(fingerprint {self.backbone_fingerprint[:12]}); got {name!r} "
                f"({fingerprint[:12]}). Delete the folder to embed anew."
            )

    def check_source(self, fingerprint: str, folder: Path) -> None:
        """Raises a `ValueError` unless the folder was made from these images."""
        if fingerprint != self.source_fingerprint:
            raise ValueError(
                f"`source` must be as it was when {folder} was made; its images, labels or names "
                "are others. Delete the folder to embed anew."
            )


@attrs.frozen(kw_only=True)
class Manifest:
    """What a finished store says of itself.

    Attributes:
        origin: What it was made of.
        class_names: What each class is called.
        skipped: Names of the images that were left out.
        arrays: The size in bytes and the SHA-256 of each array's file.
    """

    origin: Origin
    class_names: tuple[str, ...]
    skipped: tuple[str, ...]
    arrays: dict[str, tuple[int, str]]


def write_origin(file: Path, origin: Origin) -> None:
    """Writes the origin of a store that is being built."""
    write_whole(file, _to_json({"format": FORMAT, **attrs.asdict(origin)}))


def read_origin(file: Path) -> Origin:
    """Reads what `write_origin` wrote.

    Raises:
        ValueError: If the file is damaged or of another format.
    """
    return _origin(_from_json(file), file)


def write_manifest(folder: Path, origin: Origin, names: list[str], skipped: list[str]) -> None:
    """Describes the arrays in a folder as they are now."""
    arrays = {name: _size_and_hash(folder / name) for name in (EMBEDDINGS, LABELS)}
    content: dict[str, Any] = {"format": FORMAT, **attrs.asdict(origin)}
    content |= {"class_names": names, "skipped": skipped, "arrays": arrays}
    write_whole(folder / MANIFEST, _to_json({**content, "sha256": _hash(content)}))


def read_manifest(folder: Path) -> Manifest:
    """Reads what `write_manifest` wrote.

    Raises:
        ValueError: If the file is damaged or of another format.
    """
    file = folder / MANIFEST
    content = _from_json(file)
    if content.pop("sha256", None) != _hash(content):
        raise _damaged(file)
    try:
        return Manifest(
            origin=_origin(content, file),
            class_names=tuple(content["class_names"]),
            skipped=tuple(content["skipped"]),
            arrays={name: (size, sha) for name, (size, sha) in content["arrays"].items()},
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _damaged(file) from error


def map_array(folder: Path, name: str, manifest: Manifest) -> np.ndarray[Any, np.dtype[Any]]:
    """Maps an array to memory, privately to this process, once its file is found to be whole.

    Raises:
        ValueError: If the file is missing, truncated or was changed.
    """
    file = folder / name
    if not file.is_file():
        raise ValueError(
            f"{folder} must hold {name}; it is missing. Delete the folder to embed anew."
        )
    size, sha = manifest.arrays.get(name, (0, ""))
    found_size, found_sha = _size_and_hash(file)
    if found_size < size:
        raise ValueError(
            f"{file} must have {size} bytes; it is truncated to {found_size}. Delete the folder to "
            "embed anew."
        )
    if found_sha != sha:
        raise _damaged(file)
    # Copy on write: torch warns of memory that may not be written to.
    return cast("np.ndarray[Any, np.dtype[Any]]", np.load(file, mmap_mode="c", allow_pickle=False))


def array_bytes(array: np.ndarray[Any, np.dtype[Any]]) -> bytes:
    """The array as the content of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file so that a crash leaves the old content or the new, whole and on the disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        flush_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def flush_folder(folder: Path) -> None:
    """Puts on the disk which files a folder holds."""
    if os.name != "posix":  # elsewhere a folder cannot be opened, nor needs to be
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _size_and_hash(file: Path) -> tuple[int, str]:
    with open(file, "rb") as opened:
        return file.stat().st_size, hashlib.file_digest(opened, "sha256").hexdigest()


def _hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(_to_json(content)).hexdigest()


def _to_json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode("ascii")


def _from_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except ValueError as error:
        raise _damaged(file) from error
    if not isinstance(content, dict) or "format" not in content:
        raise _damaged(file)
    if content["format"] != FORMAT:
        raise ValueError(
            f"{file} must be of format {FORMAT}; it is of format {content['format']!r}, which "
            "another version of iai-tasks wrote."
        )
    return content


def _origin(content: dict[str, Any], file: Path) -> Origin:
    try:
        return Origin(*(str(content[field.name]) for field in attrs.fields(Origin)))
    except KeyError as error:
        raise _damaged(file) from error


def _damaged(file: Path) -> ValueError:
    return ValueError(
        f"{file} is damaged: it was changed since it was written. Delete {file.parent} to embed "
        "anew."
    )
