"""Weights by name, read from a file without running any code that is in it."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor


def read_weights(path: Path) -> dict[str, Tensor]:
    """Reads a state dict, or a dict that holds one as "state_dict", "model_state_dict" or "model".

    What else such a dict holds must be tensors, numbers, text, or lists and dicts of these. The
    prefix "module." that `DataParallel` adds is removed.

    Args:
        path: A file whose name ends with .safetensors, or one that `torch.save` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds anything but weights; code in it is not run.
    """
    if not path.is_file():
        raise FileNotFoundError(f"`weights` must be a file; there is none at {path}.")
    try:
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
    others = [name for name, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise ValueError(f"`weights` must hold tensors by name; in {path}, {others[0]!r} is none.")
    prefix = "module." if all(str(name).startswith("module.") for name in content) else ""
    return {str(name).removeprefix(prefix): tensor for name, tensor in content.items()}
