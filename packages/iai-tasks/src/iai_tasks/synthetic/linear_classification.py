"""Linear classification tasks with noisy labels."""

import attrs
import torch
from jaxtyping import Float
from torch import Tensor

from iai_tasks._draw import check_draw, standard_normal
from iai_tasks._validators import at_least, positive
from iai_tasks.examples import Examples, TaskBatch
from iai_tasks.spec import Categorical, TaskSpec
from iai_tasks.synthetic._affine import affine


@attrs.frozen
class LinearClassification:
    """Tasks y ~ Categorical(softmax(W' [x, 1] / temperature)), with x ~ N(0, I) and W ~ N(0, 1).

    The latent of a task is W, its last row the biases. Tensors have the dtype of the latent, or
    torch's default dtype.

    Attributes:
        dim: Number of inputs.
        num_classes: Number of classes.
        temperature: What the logits are divided by; towards 0, y becomes the largest logit's class.

    Raises:
        ValueError: If a size is below 1 or the temperature is not above 0.

    Source:
        Mittal, Mahajan, Lajoie, Pezeshki, 2025, "Iterative Amortized Inference", arXiv 2510.11471;
        the distributions are those of related code by the same authors.

    >>> sampler = LinearClassification(dim=1, num_classes=2, temperature=1e-6)
    >>> w = torch.tensor([[[1.0, -1.0], [0.0, 0.0]]])  # class 0 where x > 0
    >>> generator = torch.Generator().manual_seed(0)
    >>> batch = sampler.sample(1, num_support=9, num_query=0, generator=generator, latent=w)
    >>> torch.equal(batch.support.y == 0, batch.support.x[..., 0] > 0)
    True
    """

    dim: int = attrs.field(validator=at_least(1))
    num_classes: int = attrs.field(validator=at_least(1))
    temperature: float = attrs.field(default=0.1, validator=positive, kw_only=True)

    @property
    def spec(self) -> TaskSpec:
        """Inputs of `dim` numbers, a target of one class."""
        return TaskSpec(
            support_x_shape=(self.dim,),
            query_x_shape=(self.dim,),
            target=Categorical(self.num_classes),
        )

    def sample(
        self,
        num_tasks: int,
        *,
        num_support: int,
        num_query: int,
        generator: torch.Generator,
        latent: Float[Tensor, "task dim_and_bias num_classes"] | None = None,
    ) -> TaskBatch:
        """Draws tasks, or new examples of given tasks.

        Args:
            num_tasks: Number of tasks.
            num_support: Support examples a task; may be 0.
            num_query: Query examples a task; may be 0.
            generator: Source of every random number; the batch lies on its device.
            latent: The weights of the tasks, biases in the last row. Drawn if None.

        Returns:
            The batch, everything observed, with the weights as `latent`.

        Raises:
            TypeError: If the generator or the latent has the wrong type.
            ValueError: If a count is too small or the latent does not fit.
        """
        shape = (self.dim + 1, self.num_classes)
        check_draw(num_tasks, num_support, num_query, generator, latent, latent_shape=shape)
        if latent is None:
            latent = standard_normal((num_tasks, *shape), generator)
        return TaskBatch(
            support=self._examples(latent, num_support, generator),
            query=self._examples(latent, num_query, generator),
            latent=latent,
        )

    def _examples(self, weights: Tensor, num_examples: int, generator: torch.Generator) -> Examples:
        shape = (weights.shape[0], num_examples, self.dim)
        x = standard_normal(shape, generator, weights.dtype)
        logits = affine(x, weights) / self.temperature
        # The largest of logit - log(exponential noise) is a draw from the softmax (Gumbel's trick).
        noise = torch.empty_like(logits).exponential_(generator=generator)
        return Examples(x=x, y=(logits - noise.log()).argmax(dim=-1))
