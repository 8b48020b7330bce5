"""Weights by name, read from a file without running any code that is in it."""

import zipfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from iai_tasks._tensor_file import is_finite

_MAX_HEADER = 2**24  # bytes of names in a file of safetensors, or of all but tensors in another
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
        _check_size(path)
        if path.suffix == ".safetensors":
            content: object = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
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


def _check_size(path: Path) -> None:
    """Refuses a file that would take more memory than it is long."""
    if path.suffix == ".safetensors":
        with open(path, "rb") as file:
            if int.from_bytes(file.read(8), "little") > _MAX_HEADER:
                raise ValueError("the header is too long")
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            inside = archive.infolist()
        if sum(one.file_size for one in inside) > path.stat().st_size:
            raise ValueError("what is inside is longer than the file")
