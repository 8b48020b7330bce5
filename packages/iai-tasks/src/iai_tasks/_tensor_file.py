"""Tensors and a JSON record in a safetensors file, which is whole or refused."""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

_KEY = "iai_tasks"  # in the file's metadata, whose values must be text
_DTYPES = {torch.int64: "I64", torch.float32: "F32", torch.uint8: "U8"}


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
    """
    # Wide numbers first, so that every tensor begins at a multiple of its numbers' width.
    tensors = dict(sorted(tensors.items(), key=lambda item: -item[1].element_size()))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(_header(tensors, record))
            for tensor in tensors.values():
                file.write(_bytes(tensor))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        text = f"`{path}` could not be written: {error.strerror}."
        raise OSError(error.errno, text) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Maps the tensors of a file to memory and reads its record, once its checksum fits.

    What is written to the tensors stays in this process.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not as `save_tensors` wrote it.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            sealed = json.loads(file.metadata()[_KEY])
        text: str = sealed["record"]
        if sealed["sha256"] != checksum(text, tensors):
            raise ValueError("the checksum differs")
        record: dict[str, Any] = json.loads(text)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged, or was not written by iai-tasks. Delete it to have it made anew."
        ) from error
    return tensors, record


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
