"""The map from inputs to numbers that the synthetic tasks share."""

from jaxtyping import Float
from torch import Tensor


def affine(
    x: Float[Tensor, "task n dim"], weights: Float[Tensor, "task dim_and_bias out"]
) -> Float[Tensor, "task n out"]:
    """Weights times [x, 1]: the last row of each task's weights is its bias."""
    return x @ weights[:, :-1] + weights[:, -1:]
