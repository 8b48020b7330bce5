"""Tensors on disk: a file is read whole or refused, and never runs code."""

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

_FORMAT = 1
_KEY = "iai_iterate"  # one key: safetensors writes several in no fixed order


def write_state(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes a safetensors file with a SHA-256 checksum in its metadata.

    The file is written beside `path` and renamed when it is complete, so that a reader, or a crash,
    meets the old file or the new one. Equal contents give equal bytes.

    Args:
        path: Where to; its folder exists.
        tensors: Contiguous tensors on the CPU that share no memory, by name.

    Raises:
        TypeError: If safetensors does not store the dtype of a tensor.
        IsADirectoryError: If `path` is a directory.
        OSError: If it could not be written; what was there before is untouched.
    """
    _check_file(path)
    for name, tensor in tensors.items():
        if not _storable(tensor.dtype):
            raise TypeError(f"safetensors does not store {tensor.dtype}, the dtype of {name}.")
    record = {"format": _FORMAT, "sha256": _checksum(tensors)}
    payload = safetensors.torch.save(dict(tensors), {_KEY: json.dumps(record)})
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
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


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors that `write_state` wrote, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        IsADirectoryError: If `path` is a directory.
        ValueError: If the file is truncated, was changed, or is of another kind.
    """
    _check_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            # Cloned: the file is mapped into memory, where its tensors need not be aligned.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            record = json.loads((file.metadata() or {})[_KEY])
        if record == {"format": _FORMAT, "sha256": _checksum(tensors)}:
            return tensors
    except (SafetensorError, KeyError, RuntimeError, ValueError):
        pass  # RuntimeError: JSON that is nested too deep
    raise ValueError(
        f"`{path}` holds no whole state of this version: it is truncated, was changed since it was "
        "saved, or is a file of another kind."
    )


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, f"`path` must be a file; `{path}` is a directory.")


def _storable(dtype: torch.dtype) -> bool:
    try:
        safetensors.torch.save({"": torch.empty(0, dtype=dtype)})
    except (KeyError, SafetensorError):  # which one depends on the version
        return False
    return True


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
