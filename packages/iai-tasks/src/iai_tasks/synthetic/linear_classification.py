"""Linear classification tasks with noisy labels."""

import attrs
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from iai_tasks._validators import at_least, positive
from iai_tasks.spec import Categorical, TaskSpec
from iai_tasks.synthetic._affine import affine
from iai_tasks.synthetic._weighted import AbstractWeighted

Weights = Float[Tensor, "task dim_and_bias num_classes"]


@attrs.frozen
class LinearClassification(AbstractWeighted):
    """Tasks y ~ Categorical(softmax(W' [x, 1] / temperature)), with x ~ N(0, I) and W ~ N(0, 1).

    The latent of a task is W, its last row the biases. Tensors have the dtype of the latent, or
    torch's default dtype.

    Attributes:
        dim: Number of inputs.
        num_classes: Number of classes.
        temperature: Divides the logits; as it goes to 0, y is the class of the largest logit.

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

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """A column of weights for each class; the last row holds the biases."""
        return self.dim + 1, self.num_classes

    def draw_targets(
        self, x: Float[Tensor, "task n dim"], weights: Weights, generator: torch.Generator
    ) -> Int64[Tensor, "task n"]:
        """Draws classes by Gumbel's trick, a class for each input."""
        logits = affine(x, weights) / self.temperature
        # The largest of logit - log(exponential noise) is a draw from the softmax.
        noise = torch.empty_like(logits).exponential_(generator=generator)
        return (logits - noise.log()).argmax(dim=-1)
