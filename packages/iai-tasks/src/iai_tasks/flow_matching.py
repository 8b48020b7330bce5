"""Queries of flow matching: the velocity at points between noise and samples."""

import torch
from jaxtyping import Float
from torch import Tensor

from iai_tasks.examples import Examples


def straight_path(samples: Examples, generator: torch.Generator) -> Examples:
    """A point on the straight path from noise to each sample, and the mean velocity there.

    With a sample x_1, noise z ~ N(0, I) and t ~ U[0, 1], the point is x_t = (1 - t) z + t x_1, and
    the velocity of this path is x_1 - z. Its expectation given x_t and t is the field that carries
    noise to the distribution of the samples. Paths to the task's other samples may pass x_t too, so
    the target is the mean velocity of the paths to all samples, each weighted by its likelihood
    N(x_t; t x_1, (1 - t)^2 I). Given x_t, this target has the same expectation as x_1 - z, and no
    more variance. Targets of one task use the same samples, so they are not independent, and their
    variance depends on the number of samples.

    Args:
        samples: x_1 as `x`, `task n dim`: independent draws from each task's distribution, or from
            a finite set, for the field of that set. Padding may hold anything.
        generator: Source of noise and times, on the samples' device.

    Returns:
        A query for each sample, with the samples' mask: `x` is [x_t, t], `task n dim+1`, and `y`
        the mean velocity, `task n dim`. Memory grows as n squared.

    Raises:
        ValueError: If a sample is not one row of numbers.

    Source:
        Lipman et al., 2023, "Flow Matching for Generative Modeling", arXiv 2210.02747, with no
        noise left at t = 1; Liu, Gong, Liu, 2023, "Flow Straight and Fast", arXiv 2209.03003.
        Xu, Tong, Jaakkola, 2023, "Stable Target Field for Reduced Variance Score Estimation in
        Diffusion Models", arXiv 2302.00670, average scores in this way. They call the average
        biased, which it is for a fixed set of samples. Over draws of all samples, that of x_t among
        them, it is unbiased: to choose a sample by these weights is a step of iterated sampling
        importance resampling (Andrieu, Lee, Vihola, 2018, "Uniform ergodicity of the iterated
        conditional SMC"), which leaves the posterior of x_1 given x_t unchanged.

    >>> samples = Examples(x=torch.tensor([[[-1.0], [1.0]]]))
    >>> path = straight_path(samples, torch.Generator().manual_seed(0))
    >>> x_t, t = path.x.split(1, dim=-1)
    >>> (x_t + (1 - t) * path.y).flatten().round(decimals=2)  # the weighted means of -1 and 1
    tensor([0.4500, 0.9900])
    """
    if samples.x.dim() != 3:
        shape = tuple(samples.x.shape)
        raise ValueError(f"`samples` must have x of shape (task, n, dim); got {shape}.")
    known = samples.x.masked_fill(~samples.mask[..., None], 0.0)
    x_1: Float[Tensor, "task n dim"] = known.to(torch.promote_types(known.dtype, torch.float32))
    z = torch.empty_like(x_1).normal_(generator=generator)
    t = torch.empty_like(x_1[..., :1]).uniform_(generator=generator)
    x_t = (1 - t) * z + t * x_1
    t_above_0 = t.clamp(min=1e-6)  # at t = 0 all samples are equally likely
    with torch.autocast(x_1.device.type, enabled=False):  # dividing by 1 - t needs precision
        distance = torch.cdist(x_t / t_above_0, x_1, compute_mode="donot_use_mm_for_euclid_dist")
        log_likelihood = -(t_above_0 / (1 - t) * distance).square() / 2
        other = ~torch.eye(x_1.shape[1], dtype=torch.bool, device=x_1.device)
        padded = other & ~samples.mask[:, None]
        mean = log_likelihood.masked_fill(padded, -torch.inf).softmax(-1) @ x_1
    velocity = x_1 - z + (mean - x_1) / (1 - t)
    query = Examples(x=torch.cat([x_t, t], dim=-1), y=velocity, mask=samples.mask)
    return query.to(dtype=known.dtype)
