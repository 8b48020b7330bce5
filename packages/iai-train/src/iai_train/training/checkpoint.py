"""Checkpoints and weights as safetensors: no pickle, and no file that is partly written."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from iai_train.files import write_atomically
from iai_train.training.tree import flatten, unflatten

_FORMAT = 1
_KEY = "iai_train"  # one key of metadata: safetensors writes several in no fixed order


class CheckpointError(ValueError):
    """A file holds no usable checkpoint, or one of something else. Nothing was loaded."""


def save_checkpoint(path: Path, tree: Mapping[str, object], setup: Mapping[str, object]) -> None:
    """Writes a nested state, atomically.

    The tensors are those of the safetensors file. The structure, the numbers, the setup and a
    SHA-256 checksum of everything are JSON in its metadata. Equal states give equal bytes.

    Args:
        path: The file; its folder exists.
        tree: The state: see `flatten` for what it may hold.
        setup: What a later run must agree with to go on from here: JSON values and paths.

    Raises:
        OSError: The file could not be written; what was there before is untouched.
        TypeError: The state or the setup holds something that cannot be stored.
    """
    tensors, structure = flatten(tree)
    text = json.dumps(
        {"format": _FORMAT, "setup": plain(setup), "structure": structure}, sort_keys=True
    )
    metadata = {_KEY: json.dumps({"record": text, "sha256": _digest(text, tensors)})}
    write_atomically(path, safetensors.torch.save(tensors, metadata))


def load_checkpoint(path: Path) -> tuple[dict[str, object], dict[str, object]]:
    """Reads what `save_checkpoint` wrote.

    Returns:
        The nested state, on the CPU; and the setup.

    Raises:
        CheckpointError: The file is truncated, was changed, or is no checkpoint.
        FileNotFoundError: There is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint at `{path}`.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # Cloned: the mapped memory need not be aligned, and sums of unaligned memory differ.
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(f"`{path}` is truncated or no safetensors file: {error}.") from error
    if _KEY not in metadata:
        raise CheckpointError(f"`{path}` was not written by iai_train.")
    try:
        envelope = json.loads(metadata[_KEY])
        intact = _digest(envelope["record"], tensors) == envelope["sha256"]
    except (ValueError, KeyError, TypeError, AttributeError):
        intact = False
    if not intact:
        raise CheckpointError(f"`{path}` was changed since it was written (its checksum).")
    record = json.loads(envelope["record"])
    if record["format"] != _FORMAT:
        raise CheckpointError(
            f"`{path}` has format {record['format']}; this version reads {_FORMAT}."
        )
    return cast(dict[str, object], unflatten(tensors, record["structure"])), record["setup"]


def check_setup(path: Path, stored: Mapping[str, object], expected: Mapping[str, object]) -> None:
    """Refuses a checkpoint of another setup, and names what differs.

    Raises:
        CheckpointError: The two setups are not the same.
    """
    if differences := _differences(_entries(stored), _entries(plain(expected))):
        raise CheckpointError(
            f"`{path}` belongs to another configuration: {differences}. "
            "Give that configuration, or another folder."
        )


def check_weights(path: Path, module: nn.Module, weights: Mapping[str, object]) -> None:
    """Refuses weights that do not fit a module, before any is loaded.

    Raises:
        CheckpointError: Weights are missing, unexpected, or of another shape.
    """
    if differences := _differences(_shapes(weights), _shapes(module.state_dict())):
        raise CheckpointError(f"`{path}` holds other weights than this module: {differences}.")


def save_weights(
    module: nn.Module, path: str | Path, setup: Mapping[str, object] | None = None
) -> None:
    """Writes the weights of a module alone, such as a trained learner's to publish.

    Args:
        module: Any module.
        path: The file; its folder exists.
        setup: What is needed to build such a module again, JSON values: `load_weights` returns it.

    Raises:
        OSError: The file could not be written; what was there before is untouched.
    """
    save_checkpoint(Path(path), {"weights": module.state_dict()}, setup or {})


def load_weights(module: nn.Module, path: str | Path) -> dict[str, object]:
    """Loads weights that `save_weights` wrote, to the device that the module is on.

    Returns:
        The setup that was stored with them.

    Raises:
        CheckpointError: The file is damaged or of another module; `module` is as it was.
        FileNotFoundError: There is no such file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "linear.safetensors"
    ...     save_weights(nn.Linear(3, 2), path, {"width": 3})
    ...     load_weights(nn.Linear(3, 2), path)
    {'width': 3}
    """
    path = Path(path)
    tree, setup = load_checkpoint(path)
    weights = tree.get("weights")
    if not isinstance(weights, dict):
        raise CheckpointError(f"`{path}` holds no weights of a module alone.")
    check_weights(path, module, weights)
    module.load_state_dict(weights)
    return setup


def plain(setup: Mapping[str, object]) -> dict[str, object]:
    """The setup as JSON gives it back: tuples become lists, and paths strings.

    Raises:
        TypeError: It holds something that JSON does not.

    >>> plain({"betas": (0.9, 0.95)})
    {'betas': [0.9, 0.95]}
    """
    try:
        text = json.dumps(dict(setup), allow_nan=False, default=os.fspath)
        return cast(dict[str, object], json.loads(text))
    except (TypeError, ValueError) as error:
        raise TypeError(f"`setup` must hold what JSON can hold: {error}.") from error


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _differences(there: Mapping[str, object], here: Mapping[str, object]) -> str:
    """What a file and a run have different values of."""
    return "; ".join(
        f"`{key}` is {there.get(key, 'absent')} there and {here.get(key, 'absent')} here"
        for key in sorted(there.keys() | here.keys())
        if key not in there or key not in here or there[key] != here[key]
    )


def _shapes(weights: Mapping[str, Any]) -> dict[str, object]:
    return {name: tuple(getattr(weight, "shape", ())) for name, weight in weights.items()}


def _entries(node: object, path: str = "") -> dict[str, object]:
    """The values of nested mappings by their dotted path."""
    if isinstance(node, dict) and node:
        parts = (_entries(value, f"{path}.{key}" if path else key) for key, value in node.items())
        return {key: value for part in parts for key, value in part.items()}
    return {path: node}
