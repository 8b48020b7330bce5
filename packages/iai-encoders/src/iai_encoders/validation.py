"""What is wrong with an argument, said where it enters."""

import torch
from torch import Tensor


def check_sizes(**sizes: int) -> None:
    """Raise ValueError for the first size, given by name, that is below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"`{name}` must be at least 1; got {size}.")


def check_heads(dim: int, num_heads: int) -> None:
    """Raise ValueError unless the heads share `dim` evenly."""
    if dim % num_heads:
        raise ValueError(f"`dim` must be divisible by `num_heads`; got {dim} and {num_heads}.")


def check_tokens(tokens: Tensor, mask: Tensor | None, dim: int) -> None:
    """Raise ValueError unless tokens are ``task n dim`` and a mask is bool ``task n``."""
    if tokens.ndim != 3 or tokens.shape[2] != dim:
        raise ValueError(f"`tokens` must have shape (task, n, {dim}); got {tuple(tokens.shape)}.")
    _check_mask("tokens", tokens, mask)


def check_cells(cells: Tensor, mask: Tensor | None, dim: int) -> None:
    """Raise ValueError unless cells are ``task n column dim`` and a mask is bool ``task n``."""
    if cells.ndim != 4 or cells.shape[3] != dim:
        raise ValueError(
            f"`cells` must have shape (task, n, column, {dim}); got {tuple(cells.shape)}."
        )
    _check_mask("cells", cells, mask)


def check_num_tasks(name: str, tensor: Tensor, memory: Tensor) -> None:
    """Raise ValueError unless the tensor and a leaf of the memory hold as many tasks."""
    if tensor.shape[0] != memory.shape[0]:
        raise ValueError(
            f"`{name}` must be of the {memory.shape[0]} tasks of the memory; got {tensor.shape[0]}."
        )


def check_queries(queries: Tensor, memory: Tensor, dim: int) -> None:
    """Raise ValueError unless queries are ``task m dim`` with the tasks of the memory."""
    if queries.ndim != 3 or queries.shape[2] != dim:
        raise ValueError(f"`queries` must have shape (task, m, {dim}); got {tuple(queries.shape)}.")
    check_num_tasks("queries", queries, memory)


def _check_mask(name: str, tensor: Tensor, mask: Tensor | None) -> None:
    if mask is None:
        return
    if mask.dtype != torch.bool:
        raise ValueError(f"`mask` must have dtype torch.bool; got {mask.dtype}.")
    if mask.shape != tensor.shape[:2]:
        raise ValueError(
            f"`mask` must have the shape of the first two axes of `{name}`, "
            f"{tuple(tensor.shape[:2])}; got {tuple(mask.shape)}."
        )
