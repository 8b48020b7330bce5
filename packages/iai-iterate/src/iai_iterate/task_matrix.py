"""A pytree of tensors, led by the axis of tasks, as a matrix with a row for each task."""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import tree_leaves

from iai_iterate.tree import rebuilt


def to_matrix(tree: Any) -> Float[Tensor, "task p"]:
    """All numbers of a task in its row, leaf after leaf, in float32 at least.

    >>> to_matrix({"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([[3.0, 4.0], [5.0, 6.0]])})
    tensor([[1., 3., 4.],
            [2., 5., 6.]])
    """
    leaves = [leaf.reshape(leaf.shape[0], -1) for leaf in tree_leaves(tree)]
    dtype = torch.float32
    for leaf in leaves:
        dtype = torch.promote_types(dtype, leaf.dtype)
    leaves = [leaf.to(dtype) for leaf in leaves]
    return leaves[0] if len(leaves) == 1 else torch.cat(leaves, dim=1)


def from_matrix(template: Any) -> Callable[[Float[Tensor, "task p"]], Any]:
    """The way back to a tree such as the template: its structure, shapes and dtypes.

    >>> from_matrix((torch.zeros(2), torch.zeros(2, 1)))(torch.tensor([[1.0, 3.0], [2.0, 4.0]]))
    (tensor([1., 2.]), tensor([[3.],
            [4.]]))
    """
    like = [(leaf.shape, leaf.dtype) for leaf in tree_leaves(template)]
    widths = [prod(shape[1:]) for shape, _ in like]

    def rebuild(matrix: Tensor) -> Any:
        parts = torch.split(matrix, widths, dim=1)
        named = zip(parts, like, strict=True)
        return rebuilt(template, [part.reshape(shape).to(dtype) for part, (shape, dtype) in named])

    return rebuild
