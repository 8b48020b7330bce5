"""Nested states: what they hold, and how they are tensors and a description in JSON."""

from collections.abc import Iterator, Mapping
from typing import TypeGuard, cast

import attrs
import torch
from torch import Tensor

_LONGEST_VALUE = 200  # that an error shows


def leaves(node: object) -> Iterator[object]:
    """All that is in mappings, sequences, attrs records and plain objects, keys of mappings too.

    >>> list(leaves({"rate": (0.5, [None])}))
    ['rate', 0.5, None]
    """
    kind = type(node)
    if isinstance(node, Mapping):
        for key in node:
            yield key
            yield from leaves(node[key])
    elif isinstance(node, list | tuple):
        for value in node:
            yield from leaves(value)
    elif attrs.has(kind):
        for field in attrs.fields(kind):
            yield from leaves(getattr(node, field.name))
    elif isinstance(node, Tensor) or not hasattr(node, "__dict__"):
        yield node
    else:
        yield from leaves(vars(node))


def is_named(node: object) -> TypeGuard[dict[str, object]]:
    """Whether something is a mapping whose keys are all strings.

    >>> is_named({"a": 1}), is_named({0: 1}), is_named([])
    (True, False, False)
    """
    return isinstance(node, dict) and all(isinstance(key, str) for key in node)


def flatten(tree: object) -> tuple[dict[str, Tensor], object]:
    """Separates the tensors of a nested state from its structure.

    Args:
        tree: Mappings (string or integer keys), lists and tuples of tensors, numbers, strings,
            booleans and None.

    Returns:
        The tensors by their path, copied to the CPU without gradients; and the structure, which
        JSON can hold: `{"dict": [[key, node], ...]}`, `{"list": [...]}`, `{"tuple": [...]}`,
        `{"tensor": path}` or a plain value.

    Raises:
        TypeError: The state holds something else. A named tuple is refused too, since its class is
            needed to build it again: store `state._asdict()`.

    >>> tensors, structure = flatten({"weight": torch.ones(2), "rate": 0.5})
    >>> list(tensors), structure
    (['weight'], {'dict': [['weight', {'tensor': 'weight'}], ['rate', 0.5]]})
    """
    tensors: dict[str, Tensor] = {}
    return tensors, _describe(tree, "", tensors)


def unflatten(tensors: Mapping[str, Tensor], structure: object) -> object:
    """Builds the nested state that `flatten` was given.

    Raises:
        ValueError: The structure is not one that `flatten` returns, or names another tensor.

    >>> unflatten({}, {"dict": [["betas", {"tuple": [0.9, 0.95]}]]})
    {'betas': (0.9, 0.95)}
    """
    match structure:
        case {"dict": list(items)} if all(map(_is_entry, items)):
            return {key: unflatten(tensors, value) for key, value in items}
        case {"list": list(items)}:
            return [unflatten(tensors, value) for value in items]
        case {"tuple": list(items)}:
            return tuple(unflatten(tensors, value) for value in items)
        case {"tensor": str(path)} if path in tensors:
            return tensors[path]
        case None | bool() | int() | float() | str():
            return structure
    shown = repr(structure)
    raise ValueError(f"Not the structure of a state: {shown[:_LONGEST_VALUE]}.")


def _is_entry(item: object) -> bool:
    return isinstance(item, list) and len(item) == 2 and type(item[0]) in (str, int)


def _describe(node: object, path: str, tensors: dict[str, Tensor]) -> object:
    if isinstance(node, Tensor):
        if node.layout != torch.strided:
            raise TypeError(f"`{path}` must be a dense tensor to be stored; got {node.layout}.")
        while path in tensors:  # {"a": {"b": .}} and {"a/b": .} have one path, as have 1 and "1"
            path += "'"
        # A copy of each: safetensors refuses tensors that share memory.
        tensors[path] = node.detach().to("cpu", copy=True).contiguous()
        return {"tensor": path}
    if isinstance(node, Mapping):
        for key in node:
            if type(key) not in (str, int):
                raise TypeError(f"A key under `{path}` must be a string or an integer; got {key}.")
        return {"dict": [[key, _describe(node[key], _join(path, key), tensors)] for key in node]}
    if type(node) in (list, tuple):
        items = enumerate(cast("list[object]", node))
        return {
            type(node).__name__: [_describe(item, _join(path, i), tensors) for i, item in items]
        }
    if node is None or type(node) in (bool, int, float, str):
        return node
    raise TypeError(
        f"`{path}` must be a tensor, number, string or None, or a mapping, list or tuple of them; "
        f"got {type(node).__name__}."
    )


def _join(path: str, key: object) -> str:
    return f"{path}/{key}" if path else str(key)
