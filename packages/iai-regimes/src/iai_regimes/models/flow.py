"""Samples of a distribution, carried from noise along a velocity field."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from iai_regimes.check import check_positive

_MOST_STEPS = 10_000


@torch.no_grad()
def flow(
    predict: Callable[[Tensor], Tensor],
    start: Float[Tensor, "task n dim"],
    *,
    tolerance: float = 1e-4,
) -> Float[Tensor, "task n dim"]:
    """Moves points along a velocity field from time 0 to time 1.

    Needs torchdiffeq: `pip install "iai-regimes[flow]"`.

    Args:
        predict: The velocity at [point, time], `task n dim+1` to `task n dim`: the `predict` of a
            learner that has read each task's samples, trained by flow matching.
        start: The points at time 0: standard normal noise, for the straight path of flow matching.
        tolerance: Relative and absolute, of each step of the Dormand-Prince solver, for the task
            with the largest error: all tasks take the same steps.

    Returns:
        The points at time 1, samples of each task's distribution if the velocity is right.

    Raises:
        ImportError: If torchdiffeq is not installed.
        ValueError: If `tolerance` is not positive, a velocity has another shape or is not finite,
            or the field changes too fast to be followed.

    Source:
        Lipman et al., 2023, "Flow Matching for Generative Modeling", arXiv 2210.02747; the solver
        is torchdiffeq's dopri5.

    >>> ends = flow(lambda query: query.new_ones(2, 3, 1), torch.zeros(2, 3, 1))  # doctest: +SKIP
    >>> ends.flatten().tolist()  # doctest: +SKIP
    [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    """
    try:
        from torchdiffeq import odeint
    except ModuleNotFoundError as error:
        raise ImportError("`flow` needs torchdiffeq: pip install 'iai-regimes[flow]'.") from error
    check_positive(tolerance=tolerance)
    if not start.numel():
        return start

    def velocity(time: Tensor, points: Tensor) -> Tensor:
        speed = predict(torch.cat([points, time.expand(*points.shape[:2], 1)], dim=-1))
        expected, got = tuple(start.shape), tuple(speed.shape)
        if got != expected:
            raise ValueError(f"`predict` must give velocities of shape {expected}; got {got}.")
        if not bool(speed.isfinite().all()):  # the solver would look for a smaller step, for ever
            raise ValueError(f"`predict` must give finite velocities; not so at time {time:.3g}.")
        return speed

    times = start.new_tensor([0.0, 1.0])
    options = {
        "step_t": times[1:],  # or it would step past the end, to times that no path has
        "max_num_steps": _MOST_STEPS,
        "norm": lambda error: error.square().flatten(1).mean(1).max().sqrt(),
    }
    try:
        ends: Tensor = odeint(
            velocity, start, times, rtol=tolerance, atol=tolerance, method="dopri5", options=options
        )[-1]
    except AssertionError as error:
        raise ValueError(
            f"`predict` must be smooth enough to be followed at tolerance {tolerance}: {error}."
        ) from error
    return ends
