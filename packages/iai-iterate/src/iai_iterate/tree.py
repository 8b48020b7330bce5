"""Functions of pytrees that are called in each step: as torch's, but without reference cycles.

torch's `tree_flatten`, and with it `tree_map`, recurses by a function that refers to itself. Each
call leaves seven objects that only the garbage collector frees; a step that solves a linear system
leaves thousands.
"""

from collections.abc import Callable, Iterable
from numbers import Number
from types import NoneType
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

LEAVES = (Tensor, NoneType, Number)


def mapped(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """The tree with `function` of its leaves, and of those of others of its structure.

    >>> mapped(lambda a, b: a + b, {"a": 1, "b": (2, [3])}, {"a": 10, "b": (20, [30])})
    {'a': 11, 'b': (22, [33])}
    """
    kind = type(tree)
    if isinstance(tree, LEAVES):
        return function(tree, *others)
    if kind is dict:
        parts = {key: (tree[key], *(other[key] for other in others)) for key in tree}
        return {key: mapped(function, *part) for key, part in parts.items()}
    if kind in (list, tuple):
        return kind([mapped(function, *part) for part in zip(tree, *others, strict=True)])
    if hasattr(kind, "_fields"):
        return kind(*[mapped(function, *part) for part in zip(tree, *others, strict=True)])
    return tree_map(function, tree, *others)  # a registered class


def rebuilt(template: Any, leaves: Iterable[Any]) -> Any:
    """A tree of the template's structure with these leaves, in the order of `tree_leaves`.

    >>> rebuilt({"a": None, "b": (None, None)}, [1, 2, 3])
    {'a': 1, 'b': (2, 3)}
    """
    following = iter(leaves)
    return mapped(lambda _: next(following), template)


def survey(tree: Any) -> tuple[list[Any], list[Any]]:
    """The leaves of a tree, last first, and its outline.

    Two outlines are equal where structure, shapes and dtypes are. For the usual containers this
    takes half the time of `tree_flatten`; `steady` does it three times a step.
    """
    leaves: list[Any] = []
    outline: list[Any] = []
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        kind = type(node)
        if isinstance(node, Tensor):
            leaves.append(node)
            outline.append((node.shape, node.dtype))
        elif kind is dict:
            outline.append((kind, *node))
            waiting += node.values()
        elif kind in (list, tuple) or hasattr(kind, "_fields"):
            outline.append((kind, len(node)))
            waiting += node
        elif isinstance(node, LEAVES):
            leaves.append(node)
            outline.append(described(node))
        else:
            parts, structure = tree_flatten(node)
            leaves += parts
            outline.append((structure, *map(described, parts)))
    return leaves, outline


def described(leaf: Any) -> str:
    """A leaf's shape and dtype, or its type."""
    if isinstance(leaf, Tensor):
        return f"{tuple(leaf.shape)}, {leaf.dtype}"
    return type(leaf).__name__
