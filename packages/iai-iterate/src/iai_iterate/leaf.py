"""A state as named tensors and back: how states go to disk without code."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_unflatten


def to_leaves(tree: Any) -> dict[str, Tensor]:
    """The tensors of a tree by their paths.

    >>> import torch
    >>> sorted(to_leaves({"theta": torch.zeros(2), "carry": (torch.ones(1),)}))
    ["['carry'][0]", "['theta']"]
    """
    return {keystr(path): leaf for path, leaf in tree_flatten_with_path(tree)[0]}


def from_leaves(template: Any, leaves: Mapping[str, Tensor]) -> Any:
    """A tree of the template's structure, with the given tensors on the template's devices.

    Raises:
        ValueError: If the tensors are not those of the template: names, shapes or dtypes differ.
    """
    expected, structure = tree_flatten_with_path(template)
    names = [keystr(path) for path, _ in expected]
    if set(names) != set(leaves):
        raise ValueError(
            f"The state has the tensors {', '.join(sorted(leaves))}; "
            f"this learner's has {', '.join(sorted(names))}."
        )
    restored = []
    for name, (_, leaf) in zip(names, expected, strict=True):
        saved = leaves[name]
        if saved.shape != leaf.shape or saved.dtype != leaf.dtype:
            raise ValueError(
                f"The state's {name} is {tuple(saved.shape)}, {saved.dtype}; "
                f"this learner's is {tuple(leaf.shape)}, {leaf.dtype}."
            )
        restored.append(saved.to(leaf.device, copy=True))
    return tree_unflatten(restored, structure)
