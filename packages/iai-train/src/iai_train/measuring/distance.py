"""How far two sets of samples are apart, as distributions."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor


def wasserstein(
    x: Float[Tensor, "task n dim"], y: Float[Tensor, "task n dim"], *, order: Literal[1, 2] = 2
) -> Float[Tensor, " task"]:
    """The exact Wasserstein distance between two sets of as many samples, for each task.

    Over all one-to-one matchings of the samples, the least mean of their Euclidean distances for
    order 1; for order 2 the root of the least mean of the squared distances. SciPy solves the
    assignment on the CPU: `pip install "iai-train[distances]"`. Two sets drawn from one
    distribution have a distance above 0: compare it with that of another set of true samples.

    Args:
        x: Samples.
        y: Samples to compare them with.
        order: 1 or 2.

    Returns:
        One distance a task, in the units of the samples. No gradients flow.

    Raises:
        ImportError: If SciPy is not installed.
        ValueError: If the sets differ in shape, are empty or not finite, or `order` is not 1 or 2.

    >>> x = torch.tensor([[[0.0], [3.0]]])
    >>> wasserstein(x, x.flip(1) + 1.0, order=1)  # doctest: +SKIP
    tensor([1.])
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ModuleNotFoundError as error:
        raise ImportError(
            "`wasserstein` needs SciPy: pip install 'iai-train[distances]'."
        ) from error
    if order not in (1, 2):
        raise ValueError(f"`order` must be 1 or 2; got {order}.")
    _check(x, y)
    if x.shape != y.shape:
        raise ValueError(f"`y` must have as many samples as `x`, {x.shape[1]}; got {y.shape[1]}.")
    costs = _distances(x, y).pow(order).cpu().numpy()
    least = [cost[linear_sum_assignment(cost)].mean() for cost in costs]
    return torch.tensor(least, dtype=torch.float64).pow(1 / order).to(x)


def maximum_mean_discrepancy(
    x: Float[Tensor, "task n dim"],
    y: Float[Tensor, "task m dim"],
    *,
    gammas: Sequence[float] = (2.0, 1.0, 0.5, 0.1, 0.01, 0.005),
) -> Float[Tensor, " task"]:
    """The squared maximum mean discrepancy of two sets of samples, averaged over Gaussian kernels.

    mean k(x, x') + mean k(y, y') - 2 mean k(x, y) over all pairs, each sample with itself included,
    with k(a, b) = exp(-gamma d(a, b)^2) and d the Euclidean distance. This estimate is biased, and
    never negative.

    Args:
        x: Samples.
        y: Samples to compare them with.
        gammas: Of the kernels, one over the square of a length.

    Returns:
        One number a task. No gradients flow.

    Raises:
        ValueError: If the sets differ in tasks or dimension, are empty or not finite, or a gamma
            is not positive.

    Source:
        Gretton et al., 2012, "A Kernel Two-Sample Test", JMLR 13, equation 5.

    >>> x, y = torch.tensor([[[0.0]]]), torch.tensor([[[1.0]]])
    >>> maximum_mean_discrepancy(x, y, gammas=[1.0])  # 2 - 2 / e
    tensor([1.2642])
    """
    if not gammas or min(gammas) <= 0:
        raise ValueError(f"`gammas` must be positive numbers; got {gammas}.")
    _check(x, y)

    def mean_kernel(a: Tensor, b: Tensor) -> Tensor:
        squares = _distances(a, b).square()
        kernels = [(-gamma * squares).exp().mean((1, 2)) for gamma in gammas]
        return torch.stack(kernels).mean(0)

    return (mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y)).clamp(min=0.0).to(x)


def _check(x: Tensor, y: Tensor) -> None:
    if x.dim() != 3 or y.dim() != 3 or x.shape[::2] != y.shape[::2]:
        raise ValueError(
            "`x` and `y` must have shape (task, n, dim), of the same tasks and dim; got "
            f"{tuple(x.shape)} and {tuple(y.shape)}."
        )
    for name, samples in (("x", x), ("y", y)):
        if not samples.shape[1]:
            raise ValueError(f"`{name}` must hold at least one sample a task; got none.")
        if not samples.isfinite().all():
            raise ValueError(f"`{name}` must be finite; some of its numbers are not.")


@torch.no_grad()
def _distances(x: Tensor, y: Tensor) -> Float[Tensor, "task n m"]:
    # Of differences: by matrix products, which are faster, small distances lose their digits.
    mode = "donot_use_mm_for_euclid_dist"
    return torch.cdist(x.double(), y.double(), compute_mode=mode)
