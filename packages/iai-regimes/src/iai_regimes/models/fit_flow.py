"""Velocity fields, each trained on one task alone: a baseline of learners of fields."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from iai_regimes.check import check_sizes
from iai_regimes.evidence import masked_mean
from iai_regimes.interfaces import Examples
from iai_regimes.padding import observed_inputs, observed_targets
from iai_regimes.predictor import Predictor


def fit_flow(
    network: nn.Module,
    samples: Any,
    path: Callable[[Any, torch.Generator], Examples],
    *,
    num_steps: int,
    num_points: int,
    generator: torch.Generator,
    learning_rate: float = 3e-3,
) -> Callable[[Tensor], Tensor]:
    """Trains a copy of a network for each task by flow matching, all tasks side by side.

    Each step draws some of the samples, with replacement, and is one of torch's Adam down the mean
    squared error of the velocity. The result is that of `Parametric` with `Adam`, but sooner, so
    that a baseline with a time limit is not handicapped.

    Args:
        network: [point, time] to a velocity, `n dim+1` to `n dim`. It stays as it is.
        samples: The samples of each task, `Examples` that an index of the second axis selects from,
            and one of both axes where some are padding.
        path: Gives points on the way from noise to samples: `x` is [point, time], and `y` the
            velocity there. That of iai-tasks is `straight_path`.
        num_steps: Number of steps.
        num_points: Samples that a step draws of each task.
        generator: Source of every random number, on the device of the samples.
        learning_rate: Of Adam.

    Returns:
        The velocity of each task's copy at [point, time], `task n dim+1` to `task n dim`: see
        `flow`.

    Raises:
        ValueError: If there are no samples, a count is below 1, or the network gives velocities of
            another size than the path's.

    >>> class Samples:
    ...     x, mask = torch.tensor([[[1.0]], [[-1.0]]]), torch.ones(2, 1, dtype=torch.bool)
    ...     def __getitem__(self, _):
    ...         return self
    >>> def path(samples, generator):  # from 0 to each task's sample, straight
    ...     samples.y = samples.x
    ...     return samples
    >>> counts = {"num_steps": 300, "num_points": 1, "generator": torch.Generator()}
    >>> velocity = fit_flow(nn.Linear(1, 1), Samples(), path, **counts, learning_rate=0.1)
    >>> velocity(Samples.x).round().flatten().tolist()
    [1.0, -1.0]
    """
    num_tasks, num_samples = samples.mask.shape
    check_sizes(num_steps=num_steps, num_points=num_points)
    if not num_samples:
        raise ValueError("`samples` must hold at least one sample of each task; got none.")
    predictor = Predictor(network)
    start = predictor.start(num_tasks)
    theta = tree_map(lambda leaf: leaf.detach().clone().requires_grad_(), start)
    optimizer = torch.optim.Adam(tree_leaves(theta), lr=learning_rate)
    draw = _of_all if bool(samples.mask.all()) else _of_observed
    for _ in range(num_steps):
        points = path(samples[draw(samples.mask, num_points, generator)], generator)
        velocities, targets = predictor(theta, observed_inputs(points)), observed_targets(points)
        if velocities.shape != targets.shape:
            raise ValueError(
                f"`network` must give velocities of the path's shape, {tuple(targets.shape)}; got "
                f"{tuple(velocities.shape)}."
            )
        errors = velocities - targets
        loss = masked_mean(errors.square(), points.mask).mean(1).sum()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    return partial(predictor, tree_map(torch.detach, theta))


def _of_all(mask: Tensor, num_points: int, generator: torch.Generator) -> tuple[Any, ...]:
    """A key for some samples, the same of all tasks."""
    shape, device = (num_points,), generator.device
    return slice(None), torch.randint(mask.shape[1], shape, generator=generator, device=device)


def _of_observed(mask: Tensor, num_points: int, generator: torch.Generator) -> tuple[Any, ...]:
    """A key for some of each task's own samples, however many it has."""
    shape, device = (len(mask), num_points), generator.device
    uniform = torch.rand(shape, generator=generator, device=device, dtype=torch.float64)
    counts = mask.sum(1, keepdim=True)
    drawn = (uniform * counts).long().minimum((counts - 1).clamp(min=0))
    first = (~mask).to(torch.uint8).argsort(dim=1, stable=True)
    return torch.arange(len(mask), device=device)[:, None], first.gather(1, drawn)
