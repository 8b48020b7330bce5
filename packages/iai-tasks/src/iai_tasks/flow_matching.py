"""What flow matching asks of a velocity field: its value on the way from noise to a sample."""

import torch
from jaxtyping import Float
from torch import Tensor

from iai_tasks.examples import Examples


def straight_path(samples: Examples, generator: torch.Generator) -> Examples:
    """A point on the straight path from noise to each sample, and the velocity there.

    With a sample x_1, noise z ~ N(0, I) and t ~ U[0, 1] the point is x_t = (1 - t) z + t x_1 and
    the velocity x_1 - z. The best prediction of it, given x_t and t, is the field that carries
    noise to the distribution of the samples.

    Args:
        samples: x_1 as `x`, `task n dim`.
        generator: Source of noise and times, on the samples' device.

    Returns:
        Queries, one a sample, with the samples' mask: `x` is [x_t, t], `task n dim+1`, and `y` the
        velocity, `task n dim`.

    Raises:
        ValueError: If a sample is not one row of numbers.

    Source:
        Lipman et al., 2023, "Flow Matching for Generative Modeling", arXiv 2210.02747, with no
        noise left at t = 1; Liu, Gong, Liu, 2023, "Flow Straight and Fast", arXiv 2209.03003.

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
    return Examples(x=torch.cat([(1 - t) * z + t * x_1, t], dim=-1), y=x_1 - z, mask=samples.mask)
