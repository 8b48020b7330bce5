"""Tasks whose examples are samples of a mixture of Gaussians, and the field that makes more."""

from typing import Any, Literal

import attrs
import torch
from jaxtyping import Float
from torch import Tensor

from iai_tasks._validators import at_least, one_of, positive
from iai_tasks.examples import Examples, TaskBatch
from iai_tasks.flow_matching import straight_path
from iai_tasks.sampler import AbstractSampler
from iai_tasks.spec import Real, TaskSpec

Mixtures = Float[Tensor, "task component _"]


def _to_pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _is_pair(_: object, attribute: "attrs.Attribute[Any]", value: tuple[int, int]) -> None:
    if not (len(value) == 2 and 1 <= value[0] <= value[1]):
        raise ValueError(
            f"`{attribute.name}` must be at least 1, or two such numbers, the smaller one first; "
            f"got {value}."
        )


@attrs.frozen
class MixtureOfGaussians(AbstractSampler):
    """Tasks that show samples of a mixture, and ask for the velocity that carries noise to them.

    The support holds samples and no targets. A query is [x_t, t], a point on the straight path of
    flow matching to another sample, and its target the mean velocity there: see `straight_path`.
    Means are N(0, I) and weights equal.

    The latent of a task holds for each component its weight, its mean, and the lower Cholesky
    factor of its covariance, row by row. A component that a task has not got has weight 0. Tensors
    have the dtype of the latent, or torch's default dtype.

    Attributes:
        dim: Numbers of a sample.
        num_components: Components of a mixture, or the fewest and the most; a task then draws its
            number. Kept as such a pair.
        variance: Mean variance of a component along any direction.
        covariance: "isotropic", variance times I; "diagonal", each variance times U[0.2, 1.8];
            "full", a diagonal one that is rotated at random.

    Raises:
        ValueError: If a number is out of range, or `covariance` unknown.

    Source:
        Mittal, Mahajan, Lajoie, Pezeshki, 2025, "Iterative Amortized Inference", arXiv 2510.11471:
        means and isotropic covariance. The other covariances and the closed-form field are ours.

    >>> sampler = MixtureOfGaussians(num_components=(2, 5))
    >>> generator = torch.Generator().manual_seed(0)
    >>> batch = sampler.sample(3, num_support=100, num_query=10, generator=generator)
    >>> batch.support.x.shape, batch.query.x.shape, batch.query.y.shape
    (torch.Size([3, 100, 2]), torch.Size([3, 10, 3]), torch.Size([3, 10, 2]))
    """

    dim: int = attrs.field(default=2, validator=at_least(1))
    num_components: tuple[int, int] = attrs.field(
        default=(2, 5), converter=_to_pair, validator=_is_pair
    )
    variance: float = attrs.field(default=0.1, validator=positive, kw_only=True)
    covariance: Literal["isotropic", "diagonal", "full"] = attrs.field(
        default="isotropic", validator=one_of("isotropic", "diagonal", "full"), kw_only=True
    )

    @property
    def spec(self) -> TaskSpec:
        """Inputs of `dim` numbers; a query has the time beside them, and a target of `dim`."""
        return TaskSpec(
            support_x_shape=(self.dim,), query_x_shape=(self.dim + 1,), target=Real(self.dim)
        )

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """A row of numbers for each component: weight, mean, Cholesky factor."""
        return self.num_components[1], 1 + self.dim + self.dim**2

    def draw_latent(self, num_tasks: int, generator: torch.Generator) -> Mixtures:
        """Draws mixtures."""
        device, (fewest, most) = generator.device, self.num_components
        number = torch.randint(fewest, most + 1, (num_tasks, 1), generator=generator, device=device)
        means = torch.randn(num_tasks, most, self.dim, generator=generator, device=device)
        weights = (torch.arange(most, device=device) < number).to(means) / number
        deviations = torch.full_like(means, self.variance).sqrt()
        if self.covariance != "isotropic":
            uniform = torch.empty_like(means).uniform_(generator=generator)
            deviations = deviations * (0.2 + 1.6 * uniform).sqrt()
        factors = deviations.diag_embed()
        if self.covariance == "full":
            gaussian = torch.empty_like(factors).normal_(generator=generator)
            rotated = torch.linalg.qr(gaussian).Q * deviations[..., None, :]
            factors = torch.linalg.cholesky(rotated @ rotated.mT)
        return torch.cat([weights[..., None], means, factors.flatten(2)], dim=2)

    def draw_examples(
        self, latent: Mixtures, num_support: int, num_query: int, generator: torch.Generator
    ) -> tuple[Examples, Examples]:
        """Draws samples, and points on the paths to other samples."""
        weights, means, factors = self._parts(latent)
        shape = len(latent), num_support + num_query
        uniform = latent.new_empty(shape).uniform_(generator=generator)
        ends = weights.cumsum(1)
        # The last end may round to less than 1, so the draw is a part of it.
        component = (uniform[..., None] * ends[:, None, -1:] >= ends[:, None]).sum(-1)
        task = torch.arange(len(latent), device=latent.device)[:, None]
        noise = latent.new_empty(*shape, self.dim).normal_(generator=generator)
        deviation = (factors[task, component] @ noise[..., None])[..., 0]
        samples = Examples(x=means[task, component] + deviation)
        return samples[:, :num_support], straight_path(samples[:, num_support:], generator)

    def oracle(self, batch: TaskBatch) -> Float[Tensor, "task query dim"]:
        """The velocity that flow matching would learn from infinitely many samples.

        Given x_t, the velocity of one component N(m, S) has the mean

            m + (t S - (1 - t) I) C^-1 (x_t - t m), with C = (1 - t)^2 I + t^2 S the covariance

        of x_t. That of a mixture is the mean of these, weighted by the posterior probability of
        each component.

        Args:
            batch: Tasks with their mixtures as `latent`; the support is not used.

        Raises:
            ValueError: If the batch has no latent.
        """
        if batch.latent is None:
            raise ValueError("`batch` must have its `latent`, the mixtures; got None.")
        weights, means, factors = self._parts(batch.latent)
        # In the basis of S, every matrix is diagonal.
        variances, axes = torch.linalg.eigh(factors @ factors.mT)
        variances, axes = variances[:, None], axes[:, None]
        x = batch.query.x.to(means)[:, :, None]  # task query component dim
        x_t, t = x[..., : self.dim], x[..., self.dim :]
        offset = ((x_t - t * means[:, None])[..., None, :] @ axes)[..., 0, :]
        spread = (1 - t).square() + t.square() * variances
        log_likelihood = -(offset.square() / spread + spread.log()).sum(-1) / 2
        posterior = (weights.log()[:, None] + log_likelihood).softmax(-1)
        slope = (t * variances - (1 - t)) / spread * offset
        velocity = means[:, None] + (axes @ slope[..., None])[..., 0]
        mean: Tensor = (posterior[..., None] * velocity).sum(2)
        return mean

    def _parts(self, latent: Mixtures) -> tuple[Tensor, Tensor, Tensor]:
        """Weights, means and Cholesky factors."""
        means, factors = latent[..., 1 : 1 + self.dim], latent[..., 1 + self.dim :]
        return latent[..., 0], means, factors.reshape(*means.shape, self.dim)
