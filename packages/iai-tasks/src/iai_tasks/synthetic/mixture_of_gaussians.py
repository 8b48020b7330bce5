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


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _one_or_two(_: object, attribute: "attrs.Attribute[Any]", value: int | tuple[int, int]) -> None:
    whole = isinstance(value, int) or (
        isinstance(value, tuple) and [type(number) for number in value] == [int, int]
    )
    fewest, most = _pair(value) if whole else (0, 0)
    if not 1 <= fewest <= most:
        raise ValueError(
            f"`{attribute.name}` must be at least 1, or two such numbers, the smaller one first; "
            f"got {value}."
        )


@attrs.frozen
class MixtureOfGaussians(AbstractSampler):
    """Tasks that show samples of a mixture, and ask for the velocity that carries noise to them.

    The support holds samples and no targets. A query is [x_t, t], a point on the straight path of
    flow matching to another sample, and its target the mean velocity there: see `straight_path`.
    Means are N(0, I) and weights even.

    The latent of a task is its mixture: for each component its weight, its mean and the lower
    Cholesky factor of its covariance, row by row; what a task has not got has weight 0. `mixture`
    makes one of yours. Tensors have the dtype of the latent, or torch's default dtype.

    Attributes:
        dim: Numbers of a sample.
        num_components: Components of a mixture; of a pair, fewest and most, a number drawn for each
            task.
        variance: Mean variance of a component along any direction.
        covariance: "isotropic", variance times I; "diagonal", each variance times U[0.2, 1.8];
            "full", such a one turned at random.

    Raises:
        ValueError: If a number is out of range, or `covariance` unknown.

    Source:
        Mittal, Mahajan, Lajoie, Pezeshki, 2025, "Iterative Amortized Inference", arXiv 2510.11471:
        means and isotropic covariance. The other two and the closed-form field are ours.

    >>> sampler = MixtureOfGaussians(num_components=(2, 5))
    >>> generator = torch.Generator().manual_seed(0)
    >>> batch = sampler.sample(3, num_support=100, num_query=10, generator=generator)
    >>> batch.support.x.shape, batch.query.x.shape, batch.query.y.shape
    (torch.Size([3, 100, 2]), torch.Size([3, 10, 3]), torch.Size([3, 10, 2]))
    """

    dim: int = attrs.field(default=2, validator=at_least(1))
    num_components: int | tuple[int, int] = attrs.field(default=(2, 5), validator=_one_or_two)
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
        """For each component its weight, mean and Cholesky factor, in one row of numbers."""
        return self._most, 1 + self.dim + self.dim**2

    def draw_latent(self, num_tasks: int, generator: torch.Generator) -> Mixtures:
        """Draws mixtures."""
        device, dim = generator.device, self.dim
        fewest, most = _pair(self.num_components)
        number = torch.randint(fewest, most + 1, (num_tasks, 1), generator=generator, device=device)
        means = torch.randn(num_tasks, most, dim, generator=generator, device=device)
        present = torch.arange(most, device=device) < number
        weights = present.to(means) / number
        root = torch.full_like(means, self.variance).sqrt()
        if self.covariance != "isotropic":
            uniform = torch.empty_like(root).uniform_(generator=generator)
            root = root * (0.2 + 1.6 * uniform).sqrt()
        factors = root.diag_embed()
        if self.covariance == "full":
            gaussian = torch.empty_like(factors).normal_(generator=generator)
            turned = torch.linalg.qr(gaussian).Q * root[..., None, :]
            factors = torch.linalg.cholesky(turned @ turned.mT)
        return torch.cat([weights[..., None], means, factors.flatten(2)], dim=2)

    def draw_examples(
        self, latent: Mixtures, num_support: int, num_query: int, generator: torch.Generator
    ) -> tuple[Examples, Examples]:
        """Draws samples, and points on the paths to other samples."""
        samples = self._samples(latent, num_support + num_query, generator)
        return samples[:, :num_support], straight_path(samples[:, num_support:], generator)

    def mixture(
        self,
        weights: Float[Tensor, "task component"],
        means: Float[Tensor, "task component dim"],
        covariances: Float[Tensor, "task component dim dim"],
    ) -> Float[Tensor, "task most _"]:
        """The latent of mixtures of yours, of as many components as this sampler has at most.

        Args:
            weights: Not negative; each task's are divided by their sum.
            means: Of the components.
            covariances: Of the components, positive definite.

        Raises:
            ValueError: If there are too many components or other numbers than `dim`, the weights
                are no weights, or a covariance is not symmetric and positive definite.
        """
        expected = (*weights.shape, self.dim)
        if means.shape != expected or covariances.shape != (*expected, self.dim):
            raise ValueError(
                f"`means` and `covariances` must have shapes {expected} and "
                f"{(*expected, self.dim)}; got {tuple(means.shape)}, {tuple(covariances.shape)}."
            )
        missing = self._most - weights.shape[1]
        if missing < 0:
            raise ValueError(
                f"`weights` must be of at most {self._most} components, the most of "
                f"`num_components`; got {weights.shape[1]}."
            )
        if not means.isfinite().all():
            raise ValueError("`means` must be finite; some of their numbers are not.")
        total = weights.sum(1, keepdim=True)
        if not ((weights >= 0).all() and (total > 0).all() and total.isfinite().all()):
            raise ValueError("`weights` must be finite, at least 0, and not all 0 in a task.")
        factors, failed = torch.linalg.cholesky_ex(covariances)
        apart = (covariances - covariances.mT).abs().amax((-2, -1))
        symmetric = apart <= 1e-4 * covariances.abs().amax((-2, -1))  # as inverses come out
        wrong = ((failed != 0) | ~symmetric).nonzero()
        if len(wrong):
            task, component = wrong[0].tolist()
            raise ValueError(
                "`covariances` must be symmetric and positive definite; that of component "
                f"{component} of task {task} is not."
            )
        latent = torch.cat([(weights / total)[..., None], means, factors.flatten(2)], dim=2)
        filler = latent[:, :1].expand(-1, missing, -1).clone()
        filler[..., 0] = 0.0
        return torch.cat([latent, filler], dim=1)

    def oracle(self, batch: TaskBatch) -> Float[Tensor, "task query dim"]:
        """The velocity that flow matching would find with all the samples in the world.

        Of a component N(m, S), given x_t, the velocity has mean m + (t S - (1 - t) I) C^-1
        (x_t - t m), with C = (1 - t)^2 I + t^2 S the covariance of x_t; a mixture's is the mean of
        these, each by the posterior probability of its component.

        Args:
            batch: Tasks with their mixtures as `latent`; the support is not looked at.

        Raises:
            ValueError: If the batch has no latent.
        """
        if batch.latent is None:
            raise ValueError("`batch` must have its `latent`, the mixtures; got None.")
        weights, means, factors = self._parts(batch.latent)
        sizes, axes = torch.linalg.eigh(factors @ factors.mT)
        x = batch.query.x.to(means)[:, :, None]  # task query component dim
        x_t, t = x[..., : self.dim], x[..., self.dim :]
        sizes, axes = sizes[:, None], axes[:, None]
        along = ((x_t - t * means[:, None])[..., None, :] @ axes)[..., 0, :]
        spread = (1 - t).square() + t.square() * sizes
        fit = (along.square() / spread + spread.log()).sum(-1)
        posterior = (weights.log()[:, None] - fit / 2).softmax(-1)
        turned = (t * sizes - (1 - t)) / spread * along
        velocity = means[:, None] + (axes @ turned[..., None])[..., 0]
        mean: Tensor = (posterior[..., None] * velocity).sum(2)
        return mean

    @property
    def _most(self) -> int:
        return _pair(self.num_components)[1]

    def _parts(self, latent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights, means and Cholesky factors."""
        means, factors = latent[..., 1 : 1 + self.dim], latent[..., 1 + self.dim :]
        return latent[..., 0], means, factors.reshape(*means.shape, self.dim)

    def _samples(self, latent: Tensor, num: int, generator: torch.Generator) -> Examples:
        weights, means, factors = self._parts(latent)
        shape = (len(latent), num)
        uniform = latent.new_empty(shape).uniform_(generator=generator)
        ends = weights.cumsum(1)
        # The last end may round to less than 1: the draw is of the whole.
        component = (uniform[..., None] * ends[:, None, -1:] >= ends[:, None]).sum(-1)
        task = torch.arange(len(latent), device=latent.device)[:, None]
        noise = latent.new_empty(*shape, self.dim).normal_(generator=generator)
        spread = (factors[task, component] @ noise[..., None])[..., 0]
        return Examples(x=means[task, component] + spread)
