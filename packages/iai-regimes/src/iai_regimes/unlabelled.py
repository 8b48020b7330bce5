"""A likelihood for tasks whose support has no targets: samples of a distribution, or a table."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from iai_regimes.check import check_role
from iai_regimes.interfaces import Likelihood, TaskSpec


class Unlabelled(nn.Module):
    """A likelihood of the queries' targets, where the examples to learn from have none.

    A task shows samples of a distribution or the rows of a table, and its queries ask about them.
    Rules can read the inputs of the examples alone: without targets there is no loss on them, hence
    no gradient and no residual.

    Args:
        likelihood: The likelihood of a query's target.

    Raises:
        TypeError: If `likelihood` lacks a method of the role.

    >>> from iai_regimes.likelihood import Gaussian
    >>> likelihood = Unlabelled(Gaussian(2, scale=1.0))
    >>> likelihood.num_outputs, likelihood.num_features
    (2, 0)
    """

    def __init__(self, likelihood: Likelihood) -> None:
        super().__init__()
        check_role(Likelihood, likelihood=likelihood)
        self.likelihood, self.num_outputs = likelihood, likelihood.num_outputs
        self.num_features = 0  # there is no target to read

    def features(self, y: Tensor) -> Float[Tensor, "task n 0"]:
        """No numbers for each target."""
        dtype = y.dtype if y.is_floating_point() else torch.get_default_dtype()
        return torch.zeros(*y.shape[:2], 0, dtype=dtype, device=y.device)

    def negative_log(
        self, outputs: Float[Tensor, "task n num_outputs"], y: Tensor
    ) -> Float[Tensor, "task n"]:
        """As the wrapped likelihood."""
        return self.likelihood.negative_log(outputs, y)

    def residual(
        self, outputs: Float[Tensor, "task n num_outputs"], y: Tensor
    ) -> Float[Tensor, "task n num_outputs"]:
        """As the wrapped likelihood."""
        return self.likelihood.residual(outputs, y)

    def check(self, y: Tensor | None, mask: Bool[Tensor, "task n"]) -> None:
        """Raises ValueError if there are targets that the wrapped likelihood refuses."""
        if y is not None:
            self.likelihood.check(y, mask)

    def fits(self, spec: TaskSpec) -> bool:
        """As the wrapped likelihood, whose `fits` is asked."""
        wrapped: Any = self.likelihood
        return bool(wrapped.fits(spec))
