"""What goes in: errors for sizes and shapes that cannot be, and the dtype of the weights."""

import torch
from torch import Tensor


def check_sizes(**sizes: int) -> None:
    """Raises ValueError for the first size, given by name, that is below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"`{name}` must be at least 1; got {size}.")


def check_tokens(
    tokens: Tensor, mask: Tensor | None, dim: int, axes: str = "task, n", name: str = "tokens"
) -> None:
    """Raises ValueError unless tokens are ``*axes dim`` and a mask is bool ``task n``."""
    if tokens.ndim != axes.count(",") + 2 or tokens.shape[-1] != dim:
        raise ValueError(f"`{name}` must have shape ({axes}, {dim}); got {tuple(tokens.shape)}.")
    if mask is None:
        return
    if mask.dtype != torch.bool:
        raise ValueError(f"`mask` must have dtype torch.bool; got {mask.dtype}.")
    if mask.shape != tokens.shape[:2]:
        raise ValueError(
            f"`mask` must have the shape of the first two axes of `{name}`, "
            f"{tuple(tokens.shape[:2])}; got {tuple(mask.shape)}."
        )


def check_questions(questions: Tensor | None, tokens: Tensor) -> None:
    """Raises ValueError unless there is one question a token, if there are any."""
    if questions is not None and questions.shape != tokens.shape:
        raise ValueError(
            f"`questions` must have the shape of `tokens`, {tuple(tokens.shape)}; got "
            f"{tuple(questions.shape)}."
        )


def check_num_tasks(name: str, tensor: Tensor, memory: Tensor) -> None:
    """Raises ValueError unless the tensor and a leaf of the memory hold as many tasks."""
    if tensor.shape[0] != memory.shape[0]:
        raise ValueError(
            f"`{name}` must be of the {memory.shape[0]} tasks of the memory; got {tensor.shape[0]}."
        )


def check_steps(tokens: Tensor, memory: Tensor, name: str = "tokens") -> int:
    """How many minibatches of each task of a memory the rows are, which `name` names.

    Raises:
        ValueError: If they are not as many of each task, and at least one.
    """
    rows, num_tasks = len(tokens), len(memory)
    if rows == num_tasks:
        return 1
    if not num_tasks or not rows or rows % num_tasks:
        raise ValueError(
            f"`{name}` must be of the {num_tasks} tasks of the memory, or hold as many minibatches "
            f"of each; got {rows}."
        )
    return rows // num_tasks


def check_queries(queries: Tensor, memory: Tensor, dim: int) -> None:
    """Raises ValueError unless queries are ``task m dim`` with the tasks of the memory."""
    check_tokens(queries, None, dim, "task, m", "queries")
    check_num_tasks("queries", queries, memory)


def as_weights(values: Tensor, weight: Tensor) -> Tensor:
    """The values in the dtype of the weights that they are multiplied by.

    Under autocast, which casts both by itself unless one is float64, they stay as they are.
    """
    if values.dtype == weight.dtype:
        return values
    autocast = torch.is_autocast_enabled(values.device.type)
    if autocast and torch.float64 not in (values.dtype, weight.dtype):
        return values
    return values.to(weight.dtype)
