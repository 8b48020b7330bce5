"""The learning rate of each iteration."""

import math


def learning_rate_factor(
    iteration: int, *, iterations: int, warmup: int = 0, final: float = 0.0
) -> float:
    """Fraction of the learning rate at an iteration: a linear warm-up, then half a cosine.

    With `i` the iteration, `w` the warm-up and `n` the iterations in all, the factor is
    `(i + 1) / w` while `i < w`, then `final + (1 - final) (1 + cos(pi (i - w) / (n - w))) / 2`.
    It is a function of the iteration alone: a resumed run has no scheduler to restore.

    Args:
        iteration: Number of iterations already taken.
        iterations: Number of iterations of the whole run.
        warmup: Iterations until the full rate is reached.
        final: The factor that the cosine ends at.

    Source: Loshchilov and Hutter 2017, equation 5, one period; the warm-up is Goyal et al. 2017.

    >>> [learning_rate_factor(i, iterations=6, warmup=2) for i in range(4)]
    [0.5, 1.0, 1.0, 0.8535533905932737]
    >>> learning_rate_factor(4, iterations=6, warmup=2, final=0.5)  # half way down
    0.75
    """
    if iteration < warmup:
        return (iteration + 1) / warmup
    progress = (iteration - warmup) / max(iterations - warmup, 1)
    return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * progress))
