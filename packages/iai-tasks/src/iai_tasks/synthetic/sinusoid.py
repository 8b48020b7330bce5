"""Regression onto sine waves, the smallest tasks that show what adapting does."""

import math

import attrs
import torch
from jaxtyping import Float
from torch import Tensor

from iai_tasks._validators import Range, is_range
from iai_tasks.examples import Examples, TaskBatch
from iai_tasks.sampler import AbstractSampler
from iai_tasks.spec import Real, TaskSpec

Waves = Float[Tensor, "task 2"]  # amplitude, phase


@attrs.frozen(kw_only=True)
class Sinusoid(AbstractSampler):
    """Tasks y = a sin(x - b) without noise, with a, b and x uniform in their ranges.

    The latent of a task is (a, b). Tensors have the dtype of the latent, or torch's default dtype.

    Attributes:
        amplitude: Smallest and largest a.
        phase: Smallest and largest b, in radians.
        x: Smallest and largest input, of support and query.

    Raises:
        ValueError: If a range is not (smallest, largest).

    Source:
        Finn, Abbeel, Levine, 2017, "Model-Agnostic Meta-Learning", arXiv 1703.03400, section 5.1.

    >>> sampler, latent = Sinusoid(), torch.tensor([[2.0, 0.5]])
    >>> generator = torch.Generator().manual_seed(0)
    >>> batch = sampler.sample(1, num_support=9, num_query=0, generator=generator, latent=latent)
    >>> torch.allclose(batch.support.y, 2 * torch.sin(batch.support.x - 0.5))
    True
    """

    latent_shape = (2,)

    amplitude: Range = attrs.field(default=(0.1, 5.0), validator=is_range)
    phase: Range = attrs.field(default=(0.0, math.pi), validator=is_range)
    x: Range = attrs.field(default=(-5.0, 5.0), validator=is_range)

    @property
    def spec(self) -> TaskSpec:
        """One input, one number to predict."""
        return TaskSpec(support_x_shape=(1,), query_x_shape=(1,), target=Real(1))

    def draw_latent(self, num_tasks: int, generator: torch.Generator) -> Waves:
        """Draws amplitudes and phases, uniform in their ranges."""
        device, ranges = generator.device, (self.amplitude, self.phase)
        uniform = (torch.rand(num_tasks, generator=generator, device=device) for _ in ranges)
        return torch.stack(list(map(_scaled, uniform, ranges)), dim=1)

    def draw_examples(
        self, latent: Waves, num_support: int, num_query: int, generator: torch.Generator
    ) -> tuple[Examples, Examples]:
        """Draws inputs, uniform in their range, and the values of the wave there."""
        return self._draw(latent, num_support, generator), self._draw(latent, num_query, generator)

    def _draw(self, latent: Tensor, num: int, generator: torch.Generator) -> Examples:
        x = _scaled(latent.new_empty(len(latent), num, 1).uniform_(generator=generator), self.x)
        return Examples(x=x, y=_wave(x, latent))

    def oracle(self, batch: TaskBatch) -> Float[Tensor, "task query 1"]:
        """The true wave at the queries, from the latent and not from the support.

        A support of three or more examples almost always determines the wave.

        Args:
            batch: Tasks of this sampler, with their latent.

        Returns:
            The answers, without error. Gradients flow to the latent and the queries.

        Raises:
            ValueError: If the batch has no latent.
        """
        if batch.latent is None:
            raise ValueError("`batch` must have its `latent`, amplitude and phase; got None.")
        return _wave(batch.query.x, batch.latent)


def _scaled(uniform: Tensor, range_: Range) -> Tensor:
    """Numbers from [0, 1) mapped to a range."""
    low, high = range_
    return low + (high - low) * uniform


def _wave(x: Float[Tensor, "task n 1"], latent: Waves) -> Float[Tensor, "task n 1"]:
    amplitude, phase = latent[:, None, :1], latent[:, None, 1:]
    return amplitude * torch.sin(x - phase)
