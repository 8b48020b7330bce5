"""A file of tensors and numbers: whole, or refused; never code."""

import contextlib
import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

_HEADER = b"iai_iterate state 1 "


def write_state(path: Path, content: Mapping[str, Any]) -> None:
    """Writes nested dicts and lists of tensors, numbers and None, under a SHA-256 checksum.

    The file takes its place in one step: a reader, or a crash, meets the old one or the new.

    Raises:
        OSError: If it could not be written; what was there before is untouched.
    """
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    payload = buffer.getvalue()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(_header(payload))
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(
            error.errno,
            f"`{path}` could not be written: {error.strerror}; what was there before is untouched.",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def read_state(path: Path) -> dict[str, Any]:
    """What `write_state` wrote, its tensors on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is truncated, was changed, or is of another kind.
    """
    header, _, payload = path.read_bytes().partition(b"\n")
    if header + b"\n" != _header(payload):
        raise ValueError(
            f"`{path}` holds no whole state: it is truncated, was changed since it was saved, or "
            "is a file of another kind."
        )
    content: dict[str, Any] = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    return content


def _header(payload: bytes) -> bytes:
    return _HEADER + hashlib.sha256(payload).hexdigest().encode() + b"\n"
