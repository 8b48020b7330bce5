"""Nested states as flat tensors and a description in JSON, and back."""

from collections.abc import Mapping

from torch import Tensor


def flatten(tree: object) -> tuple[dict[str, Tensor], object]:
    """Take a nested state apart.

    Args:
        tree: Mappings (string or integer keys), lists and tuples of tensors, numbers, strings,
            booleans and None.

    Returns:
        The tensors by their path, detached copies on the CPU; and the structure, which JSON holds:
        `{"dict": [[key, node], ...]}`, `{"list": [...]}`, `{"tuple": [...]}`, `{"tensor": path}`
        or a plain value.

    Raises:
        TypeError: The state holds something else; a named tuple too, which needs its class to be
            built again: store `state._asdict()`.

    >>> import torch
    >>> tensors, structure = flatten({"weight": torch.ones(2), "rate": 0.5})
    >>> list(tensors), structure
    (['weight'], {'dict': [['weight', {'tensor': 'weight'}], ['rate', 0.5]]})
    """
    tensors: dict[str, Tensor] = {}
    return tensors, _describe(tree, "", tensors)


def unflatten(tensors: Mapping[str, Tensor], structure: object) -> object:
    """Put a nested state together again: the inverse of `flatten`.

    Raises:
        ValueError: The structure is not one that `flatten` gives, or its tensors differ from these.

    >>> unflatten({}, {"dict": [["betas", {"tuple": [0.9, 0.95]}]]})
    {'betas': (0.9, 0.95)}
    """
    left = dict(tensors)
    tree = _build(structure, left)
    if left:
        raise ValueError(f"Tensors that no structure names: {', '.join(sorted(left))}.")
    return tree


def _describe(node: object, path: str, tensors: dict[str, Tensor]) -> object:
    if isinstance(node, Tensor):
        # A copy each: two names of one storage would be refused, and later steps would change it.
        tensors[path] = node.detach().to("cpu", copy=True).contiguous()
        return {"tensor": path}
    if isinstance(node, Mapping):
        wrong = [key for key in node if type(key) not in (str, int)]
        if wrong:
            raise TypeError(f"A key under `{path}` must be a string or an integer; got {wrong[0]}.")
        pairs = [[key, _describe(value, _join(path, key), tensors)] for key, value in node.items()]
        return {"dict": pairs}
    if isinstance(node, list | tuple) and type(node) in (list, tuple):
        kind = "list" if isinstance(node, list) else "tuple"
        items = [_describe(value, _join(path, i), tensors) for i, value in enumerate(node)]
        return {kind: items}
    if node is None or type(node) in (bool, int, float, str):
        return node
    raise TypeError(
        f"`{path}` must be a tensor, number, string or None, or a mapping, list or tuple of them; "
        f"got {type(node).__name__}."
    )


def _join(path: str, key: object) -> str:
    # Escaped, so that {"a": {"b": .}} and {"a/b": .} keep apart; so do the keys 1 and "1".
    part = str(key).replace("~", "~0").replace("/", "~1")
    part = f"#{part}" if isinstance(key, int) else part.replace("#", "~2")
    return f"{path}/{part}" if path else part


def _build(node: object, left: dict[str, Tensor]) -> object:
    match node:
        case {"dict": list(items)}:
            return {key: _build(value, left) for key, value in items}
        case {"list": list(items)}:
            return [_build(value, left) for value in items]
        case {"tuple": list(items)}:
            return tuple(_build(value, left) for value in items)
        case {"tensor": str(path)} if path in left:
            return left.pop(path)
        case None | bool() | int() | float() | str():
            return node
    raise ValueError(f"Not the structure of a state: {node!r}.")
