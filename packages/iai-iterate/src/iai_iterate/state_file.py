"""Tensors on disk: a file is read whole or refused, and never runs code."""

import errno
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from iai_iterate.whole_file import whole_file

_FORMAT = 1
_KEY = "iai_iterate"  # one key: safetensors writes several in no fixed order
_MAX_HEADER = 2**24  # bytes; safetensors takes 15 times as much memory to read a header


def write_state(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes a safetensors file with a SHA-256 checksum in its metadata.

    The file is written beside `path` and renamed when it is complete, so that a reader, or a crash,
    meets the old file or the new one. Equal contents give equal bytes.

    Args:
        path: Where to; its folder exists.
        tensors: Contiguous tensors on the CPU that share no memory, by name.

    Raises:
        TypeError: If safetensors does not store the dtype of a tensor.
        ValueError: If there are so many tensors that `read_state` would refuse them.
        IsADirectoryError: If `path` is a directory.
        OSError: If it could not be written; what was there before is untouched.
    """
    _check_file(path)
    for name, tensor in tensors.items():
        if not _storable(tensor.dtype):
            raise TypeError(f"safetensors does not store {tensor.dtype}, the dtype of {name}.")
    payload = safetensors.torch.save(dict(tensors), {_KEY: _seal(tensors)})
    if _header_size(payload) > _MAX_HEADER:
        raise ValueError(
            f"A state of {len(tensors)} tensors is too many to be saved: their names take "
            f"{_header_size(payload)} bytes, of at most {_MAX_HEADER}. Read larger minibatches, or "
            "give `query_x` up front."
        )
    with whole_file(path) as file:
        file.write(payload)


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors that `write_state` wrote, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        IsADirectoryError: If `path` is a directory.
        OSError: If the file cannot be read.
        ValueError: If the file is truncated, was changed, or is of another kind.
    """
    _check_file(path)
    try:
        if path.exists() and not path.is_file():
            raise ValueError("a pipe or a device has no end")
        with open(path, "rb") as opened:
            if _header_size(opened.read(8)) > _MAX_HEADER:
                raise ValueError("the header is too long")
        with safe_open(path, framework="pt") as file:
            # Cloned: the file is mapped into memory, where its tensors need not be aligned.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            seal = (file.metadata() or {}).get(_KEY)
        if seal == _seal(tensors):
            return tensors
    except FileNotFoundError:
        raise
    except OSError as error:
        raise OSError(error.errno, f"`{path}` could not be read: {error.strerror}.") from error
    except (SafetensorError, RuntimeError, TypeError, ValueError):
        pass  # torch has no such dtype, or cannot hold such a shape
    raise ValueError(
        f"`{path}` holds no whole state of this version: it is truncated, was changed since it was "
        "saved, or is a file of another kind."
    )


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, f"`path` must be a file; `{path}` is a directory.")


def _header_size(start: bytes) -> int:
    return int.from_bytes(start[:8], "little")


def _storable(dtype: torch.dtype) -> bool:
    try:
        safetensors.torch.save({"": torch.empty(0, dtype=dtype)})
    except (KeyError, SafetensorError):  # which one depends on the version
        return False
    return True


def _seal(tensors: Mapping[str, Tensor]) -> str:
    """What the metadata say; compared as text, so that no JSON of a stranger's is read."""
    return json.dumps({"format": _FORMAT, "sha256": _checksum(tensors)})


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
