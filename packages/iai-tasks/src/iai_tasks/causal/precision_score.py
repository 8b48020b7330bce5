"""How much each variable of a table looks like a leaf, by the precision matrix: a baseline."""

import torch
from jaxtyping import Float
from torch import Tensor


def precision_score(x: Float[Tensor, "task n node"]) -> Float[Tensor, "task node"]:
    """Minus the diagonal of the precision matrix, as a score for `order_by_leaves`.

    In a linear model whose variables all have noise of variance v, the entry of a leaf is 1 / v,
    and that of any other variable is larger. So, given enough samples, the largest score is that of
    a leaf. With no more samples than variables, the covariance is not invertible and gets a ridge.

    Args:
        x: Samples of the variables of each task, at least one.

    Returns:
        The scores, in float64. No score is infinite, even if a variable is constant.

    Raises:
        ValueError: If there are no samples.

    Source:
        Chen, Drton, Wang, 2019, "On causal discovery with an equal-variance assumption", arXiv
        1807.03419.

    >>> x = torch.tensor([[[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]]])
    >>> precision_score(x)  # the covariance is diag(1/2, 2)
    tensor([[-2.0000, -0.5000]], dtype=torch.float64)
    """
    num_samples, num_nodes = x.shape[1:]
    if not num_samples:
        raise ValueError("`x` must have at least one sample of each task; got none.")
    centred = (x - x.mean(1, keepdim=True)).double()
    covariance = centred.mT @ centred / num_samples
    variances = covariance.diagonal(dim1=1, dim2=2)
    ridge = 1e-9 * variances.mean(1).clamp(min=1e-30)
    if num_samples <= num_nodes:
        ridge = ridge + variances.amin(1) * num_nodes / num_samples
    eye = torch.eye(num_nodes, dtype=covariance.dtype, device=x.device)
    precision: Tensor = torch.linalg.inv(covariance + ridge[:, None, None] * eye)
    return -precision.diagonal(dim1=1, dim2=2)
