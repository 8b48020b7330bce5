"""Weights by name, read from a file without running any code that is in it."""

import io
import zipfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from iai_tasks._tensor_file import is_finite

_MAX_HEADER = 2**22  # bytes of names in a file of safetensors, which take 15 times the memory
_MAX_PICKLE = 2**19  # bytes, and 1 / 32 of the file; each may take 64 bytes of memory
_NUMBERS = {torch.float16, torch.bfloat16, torch.float32, torch.float64} | {
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
}


def read_weights(path: Path) -> dict[str, Tensor]:
    """Reads a state dict, or a dict that holds one as "state_dict", "model_state_dict" or "model".

    What else such a dict holds must be tensors, numbers, text, or lists and dicts of these. The
    prefix "module." that `DataParallel` adds is removed.

    Args:
        path: A file whose name ends with .safetensors, or one that `torch.save` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds anything but finite weights, or is compressed, so that it could
            take any amount of memory; code in it is not run.
    """
    if not path.is_file():
        raise FileNotFoundError(f"`weights` must be a file; there is none at {path}.")
    try:
        content = _read(path)
    except Exception as error:  # a file of another kind raises errors of many kinds
        raise ValueError(
            "`weights` must be a file of tensors, as torch.save writes a state_dict(); "
            f"{path} is damaged or holds other objects, which are not loaded."
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content:
        raise ValueError(f"`weights` must hold tensors by name; {path} holds none.")
    size = path.stat().st_size
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            shown = name if isinstance(name, str) else type(name).__name__
            raise ValueError(
                f"`weights` must hold tensors by name; in {path}, {ascii(shown)[:80]} is none."
            )
        dense = value.layout == torch.strided and value.device.type == "cpu"
        plain = dense and value.dtype in _NUMBERS
        if not plain or value.nbytes > size or not is_finite(value):
            raise ValueError(
                f"`weights` must be dense tensors of finite real numbers; in {path}, "
                f"{ascii(name)[:80]} is none."
            )
    prefix = "module." if all(name.startswith("module.") for name in content) else ""
    return {name.removeprefix(prefix): tensor for name, tensor in content.items()}


def _read(path: Path) -> object:
    """What a file holds; ValueError for one that takes much more memory than it is long."""
    size = path.stat().st_size
    if path.suffix == ".safetensors":
        with open(path, "rb") as file:
            if int.from_bytes(file.read(8), "little") > _MAX_HEADER:
                raise ValueError("the header is too long")
        return load_file(path)
    pickled = _MAX_PICKLE + size // 32
    with open(path, "rb") as file:
        is_archive = (
            file.read(4) == b"PK\3\4"
        )  # what torch.load goes by, wherever the archive begins
    if not is_archive:
        with _Bounded(path, pickled) as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    with zipfile.ZipFile(path) as archive:
        inside = archive.infolist()
    names = [one.file_size for one in inside if one.filename.endswith("data.pkl")]
    if sum(one.file_size for one in inside) > size or max(names, default=0) > pickled:
        raise ValueError("what is inside is longer than the file")
    return torch.load(path, map_location="cpu", weights_only=True)


class _Bounded(io.BufferedReader):
    """A file of torch's older format: its pickle is read from here, its numbers are not."""

    def __init__(self, path: Path, most: int) -> None:
        super().__init__(io.FileIO(path))
        self._left = most

    def read(self, size: int | None = -1) -> bytes:
        return self._counted(super().read(size))

    def readline(self, size: int | None = -1) -> bytes:
        return self._counted(super().readline(size))

    def _counted(self, read: bytes) -> bytes:
        self._left -= len(read)
        if self._left < 0:
            raise ValueError("the pickle is too long")
        return read
