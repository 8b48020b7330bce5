"""A state as named tensors and back: how states are stored without code."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import (
    keystr,
    tree_flatten_with_path,
    tree_leaves,
    tree_map_only,
    tree_unflatten,
)


def own(tree: Any) -> Any:
    """The same tree, each tensor dense and in memory of its own.

    What was stored comes back so, and kernels may round otherwise for other layouts: a state that
    is kept this way goes on, once stored and restored, bit for bit as it would have.
    """
    return tree_map_only(Tensor, _own, tree)


def _own(leaf: Tensor) -> Tensor:
    size = leaf.numel() * leaf.element_size()
    if leaf.is_contiguous() and leaf.untyped_storage().nbytes() == size:
        return leaf
    return leaf.clone(memory_format=torch.contiguous_format)


def to_leaves(tree: Any) -> dict[str, Tensor]:
    """The tensors of a tree by their paths.

    Raises:
        TypeError: If something else is in the tree.

    >>> sorted(to_leaves({"theta": torch.zeros(2), "carry": (torch.ones(1),)}))
    ["['carry'][0]", "['theta']"]
    """
    leaves = {keystr(path): leaf for path, leaf in tree_flatten_with_path(tree)[0]}
    for name, leaf in leaves.items():
        if not isinstance(leaf, Tensor):
            raise TypeError(
                f"What is stored must be a pytree of tensors; got {type(leaf).__name__}"
                f"{f' as its {name}' if name else ''}."
            )
    return leaves


def from_leaves(template: Any, leaves: Mapping[str, Tensor], *, resized: Any = None) -> Any:
    """A tree of the template's structure, with copies of the given tensors on its devices.

    Args:
        template: A tree such as the stored one.
        leaves: What `to_leaves` gave.
        resized: A tree such as the template, of another number of examples: an axis whose length
            differs between the two counts examples, and may have any length.

    Raises:
        ValueError: If the tensors are not those of the template: names, shapes or dtypes differ.
    """
    expected, structure = tree_flatten_with_path(template)
    names = [keystr(path) for path, _ in expected]
    if set(names) != set(leaves):
        raise ValueError(
            f"the stored tensors are {', '.join(sorted(leaves))}; here they would be "
            f"{', '.join(sorted(names))}."
        )
    others = tree_leaves(template if resized is None else resized)
    restored = []
    for name, (_, leaf), other in zip(names, expected, others, strict=True):
        saved = leaves[name]
        if saved.dtype != leaf.dtype or not _fits(saved.shape, leaf.shape, other.shape):
            raise ValueError(
                f"the stored {name or 'tensor'} is {tuple(saved.shape)}, "
                f"{saved.dtype}; here it would be {tuple(leaf.shape)}, {leaf.dtype}."
            )
        restored.append(saved.to(leaf.device, copy=True))
    return tree_unflatten(restored, structure)


def _fits(saved: torch.Size, shape: torch.Size, resized: torch.Size) -> bool:
    lengths = zip(saved, shape, resized, strict=False)
    return len(saved) == len(shape) and all(a == b or b != c for a, b, c in lengths)
