"""One labelled set in the role of a distribution of tasks."""

import attrs
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from iai_tasks._draw import check_draw
from iai_tasks.examples import Examples, TaskBatch
from iai_tasks.spec import Categorical, Real, TaskSpec


@attrs.frozen(eq=False)
class RandomExamples:
    """Tasks that are all alike: their examples are drawn from one set, with replacement.

    They are for learners whose tasks differ elsewhere, such as optimizers that train networks with
    different first weights. The latent is a 0 for each task.

    Attributes:
        x: Inputs, `example *x_shape`.
        y: Targets: real, `example y_dim`, or classes from 0, `example` (int64).

    Raises:
        ValueError: If `x` and `y` are not equally many, or there are none.

    >>> sampler = RandomExamples(x=torch.tensor([[2.0], [3.0]]), y=torch.tensor([[4.0], [9.0]]))
    >>> generator = torch.Generator().manual_seed(0)
    >>> batch = sampler.sample(2, num_support=3, num_query=1, generator=generator)
    >>> torch.equal(batch.support.y, batch.support.x**2)
    True
    """

    x: Float[Tensor, "example *x_shape"]
    y: Float[Tensor, "example y_dim"] | Int64[Tensor, " example"] = attrs.field()

    @y.validator
    def _y_fits(self, _: object, y: Tensor) -> None:
        if not len(self.x) == len(y) > 0:
            raise ValueError(
                "`x` and `y` must be equally many, and at least one; got "
                f"{len(self.x)} and {len(y)}."
            )

    @property
    def spec(self) -> TaskSpec:
        """Inputs and targets of the set; classes up to the largest that it has."""
        shape, real = tuple(self.x.shape[1:]), self.y.is_floating_point()
        target = Real(self.y.shape[1]) if real else Categorical(int(self.y.max()) + 1)
        return TaskSpec(support_x_shape=shape, query_x_shape=shape, target=target)

    def sample(
        self,
        num_tasks: int,
        *,
        num_support: int,
        num_query: int,
        generator: torch.Generator,
        latent: Float[Tensor, " task"] | None = None,
    ) -> TaskBatch:
        """Draws examples for each task.

        Args:
            num_tasks: Number of tasks.
            num_support: Support examples of each task; may be 0.
            num_query: Query examples of each task; may be 0.
            generator: Source of every random number. The batch is on its device.
            latent: The `latent` of an earlier batch; it changes nothing.

        Returns:
            The batch. Every example is observed.

        Raises:
            TypeError: If the generator or the latent has the wrong type.
            ValueError: If a count is too small or the latent does not fit.
        """
        check_draw(num_tasks, num_support, num_query, generator, latent, latent_shape=())
        device, shape = generator.device, (num_tasks, num_support + num_query)
        index = torch.randint(len(self.x), shape, generator=generator, device=device)
        examples = Examples(x=self.x.to(device)[index], y=self.y.to(device)[index])
        return TaskBatch(
            support=examples[:, :num_support],
            query=examples[:, num_support:],
            latent=torch.zeros(num_tasks, device=device) if latent is None else latent,
        )
