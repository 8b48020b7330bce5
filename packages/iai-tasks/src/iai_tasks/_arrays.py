"""Arrays, lists and tensors of numbers, as the tensors of one task or of a batch of tasks."""

from typing import Any

import numpy
import torch
from torch import Tensor


def as_fields(x: Any, y: Any, dtype: torch.dtype | None) -> tuple[Tensor, Tensor | None]:
    """Inputs `task n *x_shape` and targets, from those of one task or of a batch.

    Raises:
        TypeError: If they do not hold numbers.
        ValueError: If they are ragged, have no axis, may be either one task or a batch, or the
            targets are a column of classes.
    """
    dtype = torch.get_default_dtype() if dtype is None else dtype
    inputs = _as_tensor("x", x).to(dtype)
    if y is None:
        return _with_axes(inputs, 1), None
    targets = _as_tensor("y", y).to(inputs.device)
    if not targets.is_floating_point():
        if targets.ndim == 2 and targets.shape[1] == 1 and inputs.ndim == 2:
            raise ValueError(
                "`y` of classes must have the shape (n,) for one task; got "
                f"{tuple(targets.shape)}: take `y[:, 0]`."
            )
        axes = 2 if targets.ndim == 2 else 1
        targets = targets.to(torch.int64)
        return _with_axes(inputs, axes), targets if axes == 2 else targets[None]
    if targets.ndim == 2 and inputs.ndim > 2 and inputs.shape[:2] == targets.shape:
        raise ValueError(
            f"`x` of the shape {tuple(inputs.shape)} and `y` of {tuple(targets.shape)} may be one "
            "task or a batch; give `y` a last axis, (task, n, 1), for a batch, or use "
            "Examples(x=x[None], y=y[None]) for one task."
        )
    axes = 2 if targets.ndim == 3 else 1
    targets = targets.to(dtype)
    if targets.ndim == 1:
        targets = targets[:, None]
    return _with_axes(inputs, axes), targets if axes == 2 else targets[None]


def _with_axes(x: Tensor, axes: int) -> Tensor:
    """`task n *x_shape`, from inputs whose first axes, one or two, are `n` or `task n`."""
    if x.ndim < axes:
        wanted = "(n, *x_shape)" if axes == 1 else "(task, n, *x_shape), as `y` is of a batch"
        raise ValueError(f"`x` must have the shape {wanted}; got {tuple(x.shape)}.")
    x = x[..., None] if x.ndim == axes else x  # an input that is one number
    return x if axes == 2 else x[None]


def _as_tensor(name: str, values: Any) -> Tensor:
    if isinstance(values, Tensor):
        tensor = values
    elif isinstance(values, numpy.ma.MaskedArray):
        raise TypeError(f"`{name}` must hold every number; got a masked array: fill it first.")
    else:
        if isinstance(values, list | tuple) and any(isinstance(row, Tensor) for row in values):
            values = [row.detach().cpu() if isinstance(row, Tensor) else row for row in values]
        try:
            array = numpy.array(values)  # a copy, for torch reads no array of negative strides
        except ValueError as error:
            raise ValueError(
                f"`{name}` must be an array of numbers, not ragged: {error}"
            ) from error
        if array.dtype.kind not in "biuf":
            raise TypeError(f"`{name}` must hold real numbers; got an array of {array.dtype}.")
        known = array.dtype in (numpy.float16, numpy.float32, numpy.float64)
        wide = numpy.float64 if array.dtype.kind == "f" else numpy.int64
        tensor = torch.from_numpy(array if known else array.astype(wide))
    if tensor.is_complex() or tensor.layout != torch.strided:
        raise TypeError(f"`{name}` must be dense and real; got {tensor.dtype}, {tensor.layout}.")
    return tensor
