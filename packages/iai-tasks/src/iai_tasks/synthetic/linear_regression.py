"""Linear regression tasks, and the best possible answers to their queries."""

from typing import Literal

import attrs
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize, pad

from iai_tasks._validators import at_least, one_of
from iai_tasks.examples import Examples, TaskBatch
from iai_tasks.sampler import AbstractSampler
from iai_tasks.spec import Real, TaskSpec
from iai_tasks.synthetic._affine import affine

Weights = Float[Tensor, "task weight"]
QueryShift = Literal["none", "wide", "far"]


@attrs.frozen
class LinearRegression(AbstractSampler):
    """Tasks y = w . [x, 1] + noise, with x ~ N(0, I) and w ~ N(0, I), the bias last.

    The latent of a task is w. Tensors have the dtype of the latent, or torch's default dtype.

    Attributes:
        dim: Number of inputs; w has `dim + 1` numbers.
        noise_variance: Variance of the Gaussian noise of y. On noisy queries no predictor has a
            lower mean squared error.
        query_shift: Distribution of the query inputs: "none", that of the support; "wide",
            3 N(0, I); "far", 0.1 N(0, I) + 3 u with u uniform on the unit sphere, drawn for each
            query.
        noisy_query: Whether the y of queries are noisy too. If not they are means: the best
            predictor is the same, and its measured error has less variance.

    Raises:
        ValueError: If `dim` is below 1, `noise_variance` below 0, or `query_shift` unknown.

    Source:
        Mittal, Mahajan, Lajoie, Pezeshki, 2025, "Iterative Amortized Inference", arXiv 2510.11471,
        and the query shifts of related work by the same authors.

    >>> sampler = LinearRegression(dim=2, noise_variance=0.0)
    >>> w = torch.tensor([[1.0, 2.0, 3.0]])
    >>> generator = torch.Generator().manual_seed(0)
    >>> batch = sampler.sample(1, num_support=5, num_query=2, generator=generator, latent=w)
    >>> x, y = batch.support.x, batch.support.y
    >>> torch.allclose(y[..., 0], 1 * x[..., 0] + 2 * x[..., 1] + 3)
    True
    """

    dim: int = attrs.field(validator=at_least(1))
    noise_variance: float = attrs.field(default=0.25, validator=at_least(0), kw_only=True)
    query_shift: QueryShift = attrs.field(
        default="none", validator=one_of("none", "wide", "far"), kw_only=True
    )
    noisy_query: bool = attrs.field(default=True, kw_only=True)

    @property
    def spec(self) -> TaskSpec:
        """Inputs of `dim` numbers, a target of one."""
        return TaskSpec(support_x_shape=(self.dim,), query_x_shape=(self.dim,), target=Real(1))

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """`dim` weights and a bias."""
        return (self.dim + 1,)

    def draw_latent(self, num_tasks: int, generator: torch.Generator) -> Weights:
        """Draws weights from N(0, I)."""
        return torch.randn(num_tasks, self.dim + 1, generator=generator, device=generator.device)

    def draw_examples(
        self, latent: Weights, num_support: int, num_query: int, generator: torch.Generator
    ) -> tuple[Examples, Examples]:
        """Draws inputs, those of queries from `query_shift`'s distribution, and targets."""
        support_x, query_x = (
            latent.new_empty(len(latent), num, self.dim).normal_(generator=generator)
            for num in (num_support, num_query)
        )
        if self.query_shift == "wide":
            query_x = 3 * query_x
        elif self.query_shift == "far":
            direction = torch.empty_like(query_x).normal_(generator=generator)
            query_x = 0.1 * query_x + 3 * normalize(direction, dim=-1)
        support = self._label(support_x, latent, generator, noisy=True)
        return support, self._label(query_x, latent, generator, noisy=self.noisy_query)

    def posterior_mean(self, support: Examples) -> Weights:
        """Mean of w given the observed support examples: Bayesian ridge regression.

        With a row [x, 1] in X for each observed example, the posterior mean under the prior N(0, I)
        is (X'X + noise_variance I)^-1 X'y, computed in float64. Without noise the inverse is the
        pseudo-inverse, which gives the shortest of the weights that fit the data.

        Args:
            support: The examples, `task n dim`; masked ones do not count. If none is observed, the
                mean is that of the prior, zero.

        Returns:
            The mean, bias last, in the dtype of `support.x`. Gradients flow.

        Raises:
            ValueError: If the support has no y.

        >>> x, y = torch.tensor([[[1.0], [-1.0]]]), torch.tensor([[[3.0], [1.0]]])
        >>> LinearRegression(1, noise_variance=2.0).posterior_mean(Examples(x=x, y=y))
        tensor([[0.5000, 1.0000]])
        """
        if support.y is None:
            raise ValueError("`support` must have `y` to learn weights from; got None.")
        observed = support.mask[..., None]
        rows = pad(support.x.double(), (0, 1), value=1.0).where(observed, 0.0)
        targets = support.y.double().where(observed, 0.0)
        ridge = self.noise_variance * torch.eye(self.dim + 1, dtype=rows.dtype, device=rows.device)
        inverse: Tensor = torch.linalg.pinv(rows.mT @ rows + ridge, hermitian=True, rtol=1e-12)
        return (inverse @ (rows.mT @ targets))[..., 0].to(support.x.dtype)

    def oracle(self, batch: TaskBatch) -> Float[Tensor, "task query 1"]:
        """The posterior predictive mean, the best answer to the queries given the support.

        No other function of the support has a lower expected squared error. To answer from the
        first k examples, pass a batch whose support is `support[:, :k]`.

        Args:
            batch: Tasks of this sampler.

        Returns:
            The predicted mean of every query's y. Gradients flow.

        Raises:
            ValueError: If the support has no y.
        """
        return affine(batch.query.x, self.posterior_mean(batch.support)[..., None])

    def _label(
        self, x: Tensor, weights: Tensor, generator: torch.Generator, *, noisy: bool
    ) -> Examples:
        y = affine(x, weights[..., None])
        if noisy:
            noise = torch.empty_like(y).normal_(generator=generator)
            y = y + self.noise_variance**0.5 * noise
        return Examples(x=x, y=y)
