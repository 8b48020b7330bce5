"""A state as named tensors and back, which is how states are stored."""

from collections.abc import Mapping, Set
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import (
    keystr,
    tree_flatten_with_path,
    tree_leaves,
    tree_unflatten,
)

from iai_iterate.tree import mapped


def unaliased(tree: Any, regime: Any) -> Any:
    """The same tree, with a copy of each tensor that shares memory with the regime's weights.

    An optimizer changes weights in place; a state that is kept must not change with them. The
    weights are the parameters and buffers of the regime, if it is an `nn.Module`.
    """
    if not isinstance(regime, nn.Module):
        return tree
    if torch.compiler.is_compiling():  # a trace knows no addresses
        return mapped(_copied, tree)
    weights = set(map(_memory, chain(regime.parameters(), regime.buffers())))
    return mapped(
        lambda leaf: (
            leaf.clone() if isinstance(leaf, Tensor) and _memory(leaf) in weights else leaf
        ),
        tree,
    )


def _copied(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def contiguous(tree: Any) -> Any:
    """The same tree, each tensor contiguous and of the size of its storage.

    Stored tensors come back so, and a kernel may round differently for another layout. A state that
    is always kept so goes on bit for bit alike, stored and restored or not.
    """
    if torch.compiler.is_compiling():  # a trace knows no storage; `unaliased` has copied all
        return tree
    return mapped(_contiguous, tree)


def _contiguous(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    size = leaf.numel() * leaf.element_size()
    if leaf.is_contiguous() and leaf.untyped_storage().nbytes() == size:
        return leaf
    return leaf.clone(memory_format=torch.contiguous_format)


def to_leaves(tree: Any) -> dict[str, Tensor]:
    """The tensors of a tree by their paths; a leaf that is None has no entry.

    Raises:
        TypeError: If a leaf is neither a tensor nor None.

    >>> sorted(to_leaves({"theta": {"0.weight": torch.zeros(2)}, "carry": (torch.ones(1), None)}))
    ["['carry'][0]", "['theta']['0.weight']"]
    """
    named = ((keystr(path), leaf) for path, leaf in tree_flatten_with_path(tree)[0])
    leaves = {name: leaf for name, leaf in named if leaf is not None}
    for name, leaf in leaves.items():
        if not isinstance(leaf, Tensor):
            raise TypeError(
                f"What is stored must be a pytree of tensors; got {type(leaf).__name__}"
                f"{f' as its {name}' if name else ''}."
            )
    return leaves


def check_finite(leaves: Mapping[str, Tensor]) -> None:
    """Refuses a state that holds NaN or infinity, which is neither stored nor restored.

    Raises:
        ValueError: If a number is not finite; the text names the tensor.
    """
    for name, leaf in leaves.items():
        if not _is_finite(leaf):
            raise ValueError(f"A state must be finite; its {name} holds NaN or infinity.")


def _is_finite(leaf: Tensor) -> bool:
    """Whether all numbers are finite, found without a copy."""
    if leaf.is_complex():
        leaf = torch.view_as_real(leaf)
    if not leaf.is_floating_point() or not leaf.numel():
        return True
    if leaf.element_size() == 1:  # torch finds no extremes of 8 bits
        leaf = leaf.float()
    return bool(torch.stack(leaf.aminmax()).isfinite().all())  # NaN is the least and the most


def from_leaves(template: Any, leaves: Mapping[str, Tensor], *, resized: Any = None) -> Any:
    """A tree of the template's structure, with copies of the given tensors on its devices.

    Args:
        template: A tree such as the stored one.
        leaves: What `to_leaves` gave.
        resized: The template again, made of another number of examples: an axis whose length
            differs between the two counts examples, and may have any length in `leaves`.

    Raises:
        TypeError: If a leaf of the template is neither a tensor nor None.
        ValueError: If the names, shapes or dtypes of the tensors are not those of the template.
    """
    paths, structure = tree_flatten_with_path(template)
    expected = to_leaves(template)
    if expected.keys() != leaves.keys():
        there, here = leaves.keys() - expected.keys(), expected.keys() - leaves.keys()
        raise ValueError(
            "it stores other tensors than this one has; only stored: "
            f"{_listed(there)}; only here: {_listed(here)}."
        )
    others = tree_leaves(template if resized is None else resized)
    restored: list[Tensor | None] = []
    for (path, leaf), other in zip(paths, others, strict=True):
        if leaf is None:
            restored.append(None)
            continue
        saved = leaves[keystr(path)]
        if saved.dtype != leaf.dtype or not _fits(saved.shape, leaf.shape, other.shape):
            raise ValueError(
                f"the stored {keystr(path) or 'tensor'} is {tuple(saved.shape)}, "
                f"{saved.dtype}; here it would be {tuple(leaf.shape)}, {leaf.dtype}."
            )
        restored.append(saved.to(leaf.device, copy=True))
    return tree_unflatten(restored, structure)


def _listed(names: Set[str]) -> str:
    """Up to ten names, cut and on one line: a forged file may have a million, of any length."""
    more = [f"and {len(names) - 10} more"] if len(names) > 10 else []
    return ", ".join([ascii(name)[1:-1][:60] for name in sorted(names)[:10]] + more) or "none"


def _fits(saved: torch.Size, shape: torch.Size, resized: torch.Size) -> bool:
    lengths = zip(saved, shape, resized, strict=False)
    return len(saved) == len(shape) and all(a == b or b != c for a, b, c in lengths)
