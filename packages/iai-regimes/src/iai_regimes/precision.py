"""Which dtype numbers are kept in, whatever the dtype of the weights and of the data.

States, counts and running means have float32 at least: a bfloat16 count stops at 256, and a mean
whose gain is below 1/256 no longer moves. Networks compute in the dtype of their weights.
"""

import torch
from torch import Tensor, nn


def at_least_single(values: Tensor) -> Tensor:
    """The values in float32, or in float64 if they were; whole numbers stay as they are.

    >>> at_least_single(torch.ones(1, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    if not values.is_floating_point():
        return values
    return values.to(torch.promote_types(values.dtype, torch.float32))


def as_weights(values: Tensor, weight: Tensor | None) -> Tensor:
    """Floating-point values in the dtype of a weight that they are multiplied by.

    Under autocast, which casts both by itself unless one is float64, they stay as they are; so do
    whole numbers.

    >>> as_weights(torch.ones(1, dtype=torch.float64), torch.ones(1)).dtype
    torch.float32
    """
    if weight is None or values.dtype == weight.dtype or not values.is_floating_point():
        return values
    autocast = torch.is_autocast_enabled(values.device.type)
    if autocast and torch.float64 not in (values.dtype, weight.dtype):
        return values
    return values.to(weight.dtype)


def as_module(values: Tensor, module: object) -> Tensor:
    """As `as_weights`, for the first floating-point parameter of a module, if there is one."""
    weights = module.parameters() if isinstance(module, nn.Module) else ()
    return as_weights(values, next((w for w in weights if w.is_floating_point()), None))
