"""Tensors and a JSON record in a safetensors file, which is whole or refused."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from iai_tasks._whole_file import whole_file

_KEY = "iai_tasks"  # in the file's metadata, whose values must be text
_DTYPES = {torch.int64: "I64", torch.float32: "F32", torch.uint8: "U8"}
_MAX_HEADER = 2**22  # bytes; to read a header or a record takes 15 to 25 times as much memory
# AttributeError: a record that is no text. RuntimeError: JSON that is nested too deep, or a shape
# that torch cannot hold.
_DAMAGE = (SafetensorError, AttributeError, KeyError, RuntimeError, TypeError, ValueError)

Kinds = Mapping[str, tuple[torch.dtype, int]]
"""The dtype and the number of axes of each tensor of a file, by name."""


def save_tensors(path: Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Writes a file under a temporary name, and renames it once it is on the disk.

    Equal tensors and records give equal bytes. Each tensor is written from where it is, which may
    be another file that is mapped to memory; safetensors' own writer makes a copy in memory.

    Args:
        path: The file; its folder exists.
        tensors: On the CPU, int64, float32 or uint8.
        record: Anything that JSON can hold.

    Raises:
        OSError: If the file cannot be written. An old file of that name is then untouched.
        ValueError: If the record is so long that `load_tensors` would refuse it.
    """
    # Wide numbers first, so that every tensor begins at a multiple of its numbers' width.
    tensors = dict(sorted(tensors.items(), key=lambda item: -item[1].element_size()))
    header = _header(tensors, record)
    if _header_size(header) > _MAX_HEADER:
        raise ValueError(f"The record of `{path}` must fit into {_MAX_HEADER} bytes; it is longer.")
    with whole_file(path) as file:
        file.write(header)
        for tensor in tensors.values():
            file.write(_bytes(tensor))


def load_tensors(path: Path, kinds: Kinds) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Maps the tensors of a file to memory and reads its record, once its checksum fits.

    What is written to the tensors stays in this process. A right checksum proves nothing about who
    wrote the file, so it holds the tensors that are asked for and finite numbers, or is refused.

    Args:
        path: The file.
        kinds: What it must hold.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If the file cannot be read.
        ValueError: If the file is not as `save_tensors` wrote it, or holds other tensors.
    """
    try:
        _check_start(path)
        with safe_open(path, framework="pt") as file:
            # A name more than are asked for tells enough.
            tensors = {name: file.get_tensor(name) for name in file.keys()[: len(kinds) + 1]}
            sealed = json.loads(file.metadata()[_KEY])
        text: str = sealed["record"]
        if sealed["sha256"] != checksum(text, tensors):
            raise ValueError("the checksum differs")
        record: dict[str, Any] = json.loads(text)
        if not isinstance(record, dict):
            raise TypeError("the record has no names")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise OSError(error.errno, f"`{path}` could not be read: {error.strerror}.") from error
    except _DAMAGE as error:
        raise ValueError(
            f"{path} is damaged, or was not written by iai-tasks. Delete it to have it made anew."
        ) from error
    held = {name: (tensor.dtype, tensor.ndim) for name, tensor in tensors.items()}
    if held != kinds:
        raise ValueError(
            f"{path} must hold {_listed(kinds)}; it holds {_listed(held)}. Delete it to have it "
            "made anew."
        )
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            raise ValueError(
                f"{path} must hold finite numbers; its {name} are not. Delete it to have it made "
                "anew."
            )
    return tensors, record


def _check_start(path: Path) -> None:
    """Refuses what safetensors would wait for, or take much memory for."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ValueError("a pipe or a device has no end")
    with open(path, "rb") as file:
        if _header_size(file.read(8)) > _MAX_HEADER:
            raise ValueError("the header is too long")


def _header_size(start: bytes) -> int:
    return int.from_bytes(start[:8], "little")


def _listed(kinds: Kinds) -> str:
    return " and ".join(
        f"{ascii(name)[1:-1][:40]} ({str(dtype).removeprefix('torch.')}, {ndim} axes)"
        for name, (dtype, ndim) in sorted(kinds.items())
    )


def is_finite(tensor: Tensor) -> bool:
    """Whether all numbers are finite, found without a copy of a tensor larger than memory."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    return bool(torch.stack(tensor.aminmax()).isfinite().all())  # NaN is the least and the most


def _header(tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> bytes:
    """The head of a safetensors file: its length, then JSON that says where each tensor is."""
    text = json.dumps(record)
    sealed = json.dumps({"record": text, "sha256": checksum(text, tensors)})
    head: dict[str, Any] = {"__metadata__": {_KEY: sealed}}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        head[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": tuple(tensor.shape),
            "data_offsets": (begin, end),
        }
    content = json.dumps(head).encode("ascii")
    content += b" " * (-len(content) % 8)
    return len(content).to_bytes(8, "little") + content


def checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a text, and of tensors with their names, dtypes and shapes, in any order."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(_bytes(tensor.detach().cpu()))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().data
