"""What flow matching asks of a velocity field: its value on the way from noise to a sample."""

import torch
from jaxtyping import Float
from torch import Tensor

from iai_tasks.examples import Examples


def straight_path(samples: Examples, generator: torch.Generator) -> Examples:
    """A point on the straight path from noise to each sample, and the velocity to learn there.

    With a sample x_1, noise z ~ N(0, I) and t ~ U[0, 1] the point is x_t = (1 - t) z + t x_1, and
    the velocity on this path x_1 - z. The best prediction of it, given x_t and t, is the field that
    carries noise to the distribution of the samples. Paths from other samples of the task cross at
    x_t too: the target is the mean velocity over all of them, each as likely as x_t is from it,
    N(x_t; t x_1, (1 - t)^2 I). Its mean, given x_t, is the same field and its variance less.

    Args:
        samples: x_1 as `x`, `task n dim`, independent draws of each task's distribution.
        generator: Source of noise and times, on the samples' device.

    Returns:
        Queries, one a sample, with the samples' mask: `x` is [x_t, t], `task n dim+1`, and `y` the
        velocity, `task n dim`.

    Raises:
        ValueError: If a sample is not one row of numbers.

    Source:
        Lipman et al., 2023, "Flow Matching for Generative Modeling", arXiv 2210.02747, with no
        noise left at t = 1; Liu, Gong, Liu, 2023, "Flow Straight and Fast", arXiv 2209.03003.
        Xu, Tong, Jaakkola, 2023, "Stable Target Field for Reduced Variance Score Estimation in
        Diffusion Models", arXiv 2302.00670, average so for scores. There is no bias: x_t's own
        sample and the weights are a step of iterated sampling importance resampling, which leaves
        the posterior of x_1 given x_t as it is.

    >>> samples = Examples(x=torch.ones(1, 4, 2))
    >>> path = straight_path(samples, torch.Generator().manual_seed(0))
    >>> x_t, t = path.x.split([2, 1], dim=-1)
    >>> torch.allclose(x_t + (1 - t) * path.y, samples.x, atol=1e-6)  # straight on to the sample
    True
    """
    x_1: Float[Tensor, "task n dim"] = samples.x
    if x_1.dim() != 3:
        raise ValueError(f"`samples` must have x of shape (task, n, dim); got {tuple(x_1.shape)}.")
    z = torch.empty_like(x_1).normal_(generator=generator)
    t = torch.empty_like(x_1[..., :1]).uniform_(generator=generator)
    x_t = (1 - t) * z + t * x_1
    away = t.clamp(min=1e-6)  # as t goes to 0 every sample is as likely
    noise = (
        away / (1 - t) * torch.cdist(x_t / away, x_1, compute_mode="donot_use_mm_for_euclid_dist")
    )
    other = ~torch.eye(x_1.shape[1], dtype=torch.bool, device=x_1.device)
    likelihood = (-noise.square() / 2).masked_fill(other & ~samples.mask[:, None], -torch.inf)
    mean = likelihood.softmax(-1) @ x_1
    return Examples(
        x=torch.cat([x_t, t], dim=-1), y=x_1 - z + (mean - x_1) / (1 - t), mask=samples.mask
    )
