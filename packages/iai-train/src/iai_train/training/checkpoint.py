"""Checkpoints as safetensors: no pickle, and no file that is partly written."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from iai_train.files import parse_json, write_atomically
from iai_train.training.tree import flatten, is_named, unflatten

_FORMAT = 2
_KEY = "iai_train"  # one key of metadata: safetensors writes several in no fixed order
# What safetensors and torch raise over a header that says what cannot be.
_NOT_READABLE = (
    SafetensorError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
_MOST_DIFFERENCES = 8  # that an error names
_LONGEST_VALUE = 200


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
    write_atomically(path, packed(tree, setup))


def packed(tree: Mapping[str, object], setup: Mapping[str, object]) -> bytes:
    """The bytes of a checkpoint: see `save_checkpoint`.

    Raises:
        TypeError: The state or the setup holds something that cannot be stored.
    """
    try:
        tensors, structure = flatten(tree)
        record = {"format": _FORMAT, "setup": plain(setup), "structure": structure}
        text = json.dumps(record, sort_keys=True)
        parse_json(text)  # so that what is written can be read
    except (ValueError, RecursionError) as error:
        raise TypeError(f"A state must be what a file can hold: {error}") from error
    metadata = {_KEY: json.dumps({"record": text, "sha256": _digest(text, tensors)})}
    return safetensors.torch.save(tensors, metadata)


def load_checkpoint(path: Path) -> tuple[dict[str, object], dict[str, object]]:
    """Reads what `save_checkpoint` wrote.

    Returns:
        The nested state, on the CPU; and the setup.

    Raises:
        CheckpointError: The file is truncated, was changed, or is no checkpoint.
        FileNotFoundError: There is no such file.
        OSError: It may not be read.
    """
    tensors, metadata = _read(path)
    if _KEY not in metadata:
        raise CheckpointError(f"`{path}` was not written by iai_train.")
    try:
        envelope = cast(dict[str, str], parse_json(metadata[_KEY]))
        intact = _digest(envelope["record"], tensors) == envelope["sha256"]
    except (ValueError, KeyError, TypeError, AttributeError):
        intact = False
    if not intact:
        raise CheckpointError(f"`{path}` was changed since it was written (its checksum).")
    try:
        record = cast(dict[str, object], parse_json(envelope["record"]))
        version, setup = record["format"], record["setup"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"`{path}` holds no record of a checkpoint.") from error
    if version != _FORMAT:
        raise CheckpointError(
            f"`{path}` has format {short(version)}; this version reads {_FORMAT}."
        )
    try:
        tree = unflatten(tensors, record.get("structure"))
    except ValueError as error:
        raise CheckpointError(f"`{path}` holds no state: {error}") from error
    if not (is_named(tree) and is_named(setup)):
        raise CheckpointError(f"`{path}` must hold a state and a setup by names.")
    return tree, setup


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file."""
    if not os.path.lexists(path):
        raise FileNotFoundError(f"There is no checkpoint at `{path}`.")
    if not path.is_file():
        raise CheckpointError(f"`{path}` must be a file; it is a folder, or a link to no file.")
    try:
        path.open("rb").close()
    except OSError as error:
        raise OSError(error.errno, f"`{path}` could not be read: {error.strerror}.") from error
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # Cloned: the mapped memory need not be aligned, and sums of unaligned memory differ.
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
    except _NOT_READABLE as error:
        raise CheckpointError(
            f"`{path}` is truncated or no safetensors file: {short(error)}."
        ) from error
    return tensors, metadata


def check_setup(path: Path, stored: Mapping[str, object], expected: Mapping[str, object]) -> None:
    """Refuses a checkpoint of another setup, and names what differs.

    Raises:
        CheckpointError: The two setups are not the same.
    """
    if found := differences(_entries(stored), _entries(plain(expected))):
        raise CheckpointError(
            f"`{path}` belongs to another configuration: {found}. "
            "Give that configuration, or another folder."
        )


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
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"`setup` must hold what JSON can hold: {error}.") from error


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def differences(there: Mapping[str, object], here: Mapping[str, object]) -> str:
    """What a file and a run have different values of.

    >>> differences({"seed": 0}, {"seed": 1})
    '`seed` is 0 there and 1 here'
    """
    names = [
        name
        for name in sorted(there.keys() | here.keys(), key=str)
        if name not in there or name not in here or there[name] != here[name]
    ]
    more = len(names) - _MOST_DIFFERENCES
    return "; ".join(
        f"`{short(name)}` is {short(there.get(name, 'absent'))} there and "
        f"{short(here.get(name, 'absent'))} here"
        for name in names[:_MOST_DIFFERENCES]
    ) + (f"; and {more} more" if more > 0 else "")


def short(value: object) -> str:
    """A value, or another library's error, as one line for an error of ours."""
    text = " ".join(str(value).split())
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


def _entries(node: object, path: str = "") -> dict[str, object]:
    """The values of nested mappings by their dotted path."""
    if isinstance(node, dict) and node:
        parts = (_entries(value, f"{path}.{key}" if path else key) for key, value in node.items())
        return {key: value for part in parts for key, value in part.items()}
    return {path: node}
