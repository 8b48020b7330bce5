"""One labelled set in the role of a distribution of tasks."""

import attrs
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from iai_tasks.examples import Examples
from iai_tasks.sampler import AbstractSampler
from iai_tasks.spec import Categorical, Real, TaskSpec


@attrs.frozen(eq=False)
class RandomExamples(AbstractSampler):
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

    latent_shape = ()

    @property
    def spec(self) -> TaskSpec:
        """Inputs and targets of the set; classes up to the largest that it has."""
        shape, real = tuple(self.x.shape[1:]), self.y.is_floating_point()
        target = Real(self.y.shape[1]) if real else Categorical(int(self.y.max()) + 1)
        return TaskSpec(support_x_shape=shape, query_x_shape=shape, target=target)

    def draw_latent(self, num_tasks: int, generator: torch.Generator) -> Float[Tensor, " task"]:
        """Zeros: all tasks are the same."""
        return torch.zeros(num_tasks, device=generator.device)

    def draw_examples(
        self,
        latent: Float[Tensor, " task"],
        num_support: int,
        num_query: int,
        generator: torch.Generator,
    ) -> tuple[Examples, Examples]:
        """Draws examples of the set, with replacement."""
        device, shape = generator.device, (len(latent), num_support + num_query)
        index = torch.randint(len(self.x), shape, generator=generator, device=device)
        examples = Examples(x=self.x.to(device)[index], y=self.y.to(device)[index])
        return examples[:, :num_support], examples[:, num_support:]
