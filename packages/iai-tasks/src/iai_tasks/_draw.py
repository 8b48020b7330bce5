"""What the samplers share: the checks of `sample`'s arguments, and normal numbers."""

import torch
from torch import Tensor


def check_draw(
    num_tasks: int,
    num_support: int,
    num_query: int,
    generator: torch.Generator,
    latent: Tensor | None,
    *,
    latent_shape: tuple[int, ...],
    latent_holds: str | None = None,
) -> None:
    """Raises unless the arguments of `sample` fit each other and the sampler's latent.

    Args:
        num_tasks: Number of tasks, at least 1.
        num_support: Support examples a task, at least 0.
        num_query: Query examples a task, at least 0.
        generator: Source of every random number.
        latent: What fixes the tasks, or None.
        latent_shape: Shape of one task's latent.
        latent_holds: What an int64 latent holds, "seeds" or "classes"; None: it is floating point.

    Raises:
        TypeError: If the generator or the latent has the wrong type or dtype.
        ValueError: If a count is too small, or the latent has the wrong shape or device.
    """
    counts = (("num_tasks", num_tasks, 1), ("num_support", num_support, 0))
    for name, value, minimum in (*counts, ("num_query", num_query, 0)):
        if value < minimum:
            raise ValueError(f"`{name}` must be at least {minimum}; got {value}.")
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"`generator` must be a torch.Generator; got {type(generator).__name__}.")
    if latent is None:
        return
    if not isinstance(latent, Tensor):
        raise TypeError(f"`latent` must be a tensor or None; got {type(latent).__name__}.")
    if latent_holds is not None and latent.dtype != torch.int64:
        raise TypeError(f"`latent` must hold {latent_holds} (int64); got {latent.dtype}.")
    if latent_holds is None and not latent.is_floating_point():
        raise TypeError(f"`latent` must be floating point; got {latent.dtype}.")
    if latent.shape != (num_tasks, *latent_shape):
        raise ValueError(
            f"`latent` must have shape {(num_tasks, *latent_shape)}; got {tuple(latent.shape)}."
        )
    if latent.device != generator.device:
        raise ValueError(
            f"`latent` must be on the generator's device, {generator.device}; got {latent.device}."
        )


def standard_normal(
    shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype | None = None
) -> Tensor:
    """Independent N(0, 1) numbers on the generator's device."""
    return torch.randn(shape, generator=generator, device=generator.device, dtype=dtype)
