"""A likelihood of queries whose support has no targets: samples of a distribution, or a table."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from iai_regimes.interfaces import Likelihood


class Unlabelled(nn.Module):
    """What outputs say about a query's target, where the examples to learn from have none.

    A task then shows samples of a distribution, and its queries ask something about it that is
    judged by the likelihood within. A rule has only such examples to read: neither a gradient nor a
    residual of theirs.

    Args:
        likelihood: Of a query's target.

    Raises:
        TypeError: If `likelihood` has not got the methods of one.

    >>> from iai_regimes.likelihood import Gaussian
    >>> likelihood = Unlabelled(Gaussian(2, scale=1.0))
    >>> likelihood.num_outputs, likelihood.num_features
    (2, 0)
    """

    def __init__(self, likelihood: Likelihood) -> None:
        super().__init__()
        if not isinstance(likelihood, Likelihood):
            raise TypeError(
                f"`likelihood` must be one, Gaussian of iai_regimes say; got {likelihood!r}."
            )
        self.likelihood, self.num_outputs = likelihood, likelihood.num_outputs
        self.num_features = 0  # there is no target to read

    def features(self, y: Tensor) -> Float[Tensor, "task n 0"]:
        """Nothing of each target."""
        dtype = y.dtype if y.is_floating_point() else torch.get_default_dtype()
        return torch.zeros(*y.shape[:2], 0, dtype=dtype, device=y.device)

    def negative_log(
        self, outputs: Float[Tensor, "task n num_outputs"], y: Tensor
    ) -> Float[Tensor, "task n"]:
        """That of the likelihood within."""
        return self.likelihood.negative_log(outputs, y)

    def residual(
        self, outputs: Float[Tensor, "task n num_outputs"], y: Tensor
    ) -> Float[Tensor, "task n num_outputs"]:
        """That of the likelihood within."""
        return self.likelihood.residual(outputs, y)

    def check(self, y: Tensor | None, mask: Bool[Tensor, "task n"]) -> None:
        """Raises ValueError for targets, where there are some, that cannot be."""
        if y is not None:
            self.likelihood.check(y, mask)
