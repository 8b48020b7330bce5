"""Tasks that weights fix: what samplers of such tasks share."""

import abc

import torch
from torch import Tensor

from iai_tasks.examples import Examples
from iai_tasks.sampler import AbstractSampler


class AbstractWeighted(AbstractSampler):
    """Tasks (x, y) with x ~ N(0, I) and y a function of x and of the latent, weights from N(0, 1).

    A subclass has the number of inputs `dim`, and defines `draw_targets`.
    """

    dim: int

    @abc.abstractmethod
    def draw_targets(self, x: Tensor, weights: Tensor, generator: torch.Generator) -> Tensor:
        """Draws y given x, `task n dim`, and the weights of each task."""

    def draw_latent(self, num_tasks: int, generator: torch.Generator) -> Tensor:
        """Draws weights from N(0, 1)."""
        shape = (num_tasks, *self.latent_shape)
        return torch.randn(shape, generator=generator, device=generator.device)

    def draw_examples(
        self, latent: Tensor, num_support: int, num_query: int, generator: torch.Generator
    ) -> tuple[Examples, Examples]:
        """Draws inputs and their targets."""
        support = self._draw(latent, num_support, generator)
        return support, self._draw(latent, num_query, generator)

    def _draw(self, weights: Tensor, num: int, generator: torch.Generator) -> Examples:
        x = weights.new_empty(len(weights), num, self.dim).normal_(generator=generator)
        return Examples(x=x, y=self.draw_targets(x, weights, generator))
