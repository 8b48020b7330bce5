"""Regression onto sine waves: the smallest tasks on which adapting can be seen."""

import math

import attrs
import torch
from jaxtyping import Float
from torch import Tensor

from iai_tasks._draw import check_draw
from iai_tasks.examples import Examples, TaskBatch
from iai_tasks.spec import Real, TaskSpec

Range = tuple[float | int, float | int]  # beartype, in the tests, takes no int for a float


def _to_range(bounds: Range) -> Range:
    low, high = bounds
    return float(low), float(high)


def _rising(_: object, attribute: "attrs.Attribute[Range]", value: Range) -> None:
    if not value[0] <= value[1]:
        raise ValueError(f"`{attribute.name}` must be (smallest, largest); got {value}.")


@attrs.frozen
class Sinusoid:
    """Tasks y = a sin(x - b) without noise, every number uniform in its range.

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

    amplitude: Range = attrs.field(
        default=(0.1, 5.0), converter=_to_range, validator=_rising, kw_only=True
    )
    phase: Range = attrs.field(
        default=(0.0, math.pi), converter=_to_range, validator=_rising, kw_only=True
    )
    x: Range = attrs.field(
        default=(-5.0, 5.0), converter=_to_range, validator=_rising, kw_only=True
    )

    @property
    def spec(self) -> TaskSpec:
        """One input, one number to predict."""
        return TaskSpec(support_x_shape=(1,), query_x_shape=(1,), target=Real(1))

    def sample(
        self,
        num_tasks: int,
        *,
        num_support: int,
        num_query: int,
        generator: torch.Generator,
        latent: Float[Tensor, "task 2"] | None = None,
    ) -> TaskBatch:
        """Draws tasks, or new examples of given tasks.

        Args:
            num_tasks: Number of tasks.
            num_support: Support examples a task; may be 0.
            num_query: Query examples a task; may be 0.
            generator: Source of every random number; the batch lies on its device.
            latent: Amplitude and phase of the tasks. Drawn if None.

        Returns:
            The batch, everything observed, with amplitude and phase as `latent`.

        Raises:
            TypeError: If the generator or the latent has the wrong type.
            ValueError: If a count is negative or the latent does not fit.
        """
        check_draw(num_tasks, num_support, num_query, generator, latent, latent_shape=(2,))
        if latent is None:
            waves = [
                _uniform((num_tasks,), range_, generator) for range_ in (self.amplitude, self.phase)
            ]
            latent = torch.stack(waves, dim=1)
        support_x, query_x = (
            _uniform((num_tasks, num, 1), self.x, generator, latent.dtype)
            for num in (num_support, num_query)
        )
        return TaskBatch(
            support=Examples(x=support_x, y=_wave(support_x, latent)),
            query=Examples(x=query_x, y=_wave(query_x, latent)),
            latent=latent,
        )

    def oracle(self, batch: TaskBatch) -> Float[Tensor, "task query 1"]:
        """The task's own function at the queries, from the latent and not from the support.

        Two examples in general position leave few functions to choose from, and more leave one.

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


def _uniform(
    shape: tuple[int, ...],
    range_: Range,
    generator: torch.Generator,
    dtype: torch.dtype | None = None,
) -> Tensor:
    low, high = range_
    number = torch.rand(shape, generator=generator, device=generator.device, dtype=dtype)
    return low + (high - low) * number


def _wave(
    x: Float[Tensor, "task n 1"], latent: Float[Tensor, "task 2"]
) -> Float[Tensor, "task n 1"]:
    amplitude, phase = latent[:, None, :1], latent[:, None, 1:]
    return amplitude * torch.sin(x - phase)
