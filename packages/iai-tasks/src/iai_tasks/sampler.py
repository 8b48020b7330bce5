"""The base of samplers: a subclass says what fixes a task, and what its examples are."""

import abc
from typing import ClassVar, final

import torch
from jaxtyping import Shaped
from torch import Tensor

from iai_tasks._validators import check_at_least
from iai_tasks.examples import Examples, TaskBatch
from iai_tasks.spec import TaskSpec


class AbstractSampler(abc.ABC):
    """A distribution of tasks; a task is fixed by its latent, such as true weights or a seed.

    A subclass defines `spec` and `latent_shape`, as properties or class attributes, and the methods
    `draw_latent` and `draw_examples`. `sample` checks its arguments and makes the batch. A latent
    is one tensor here, floating point unless the subclass sets `latent_holds` to what int64 latents
    stand for, such as "seeds"; error texts use the word. Where several tensors fix a task, write a
    `Sampler` without this base, whose `TaskBatch.latent` is any pytree.

    >>> from iai_tasks import Real
    >>> class Offset(AbstractSampler):
    ...     '''y = x + latent, both N(0, 1).'''
    ...
    ...     spec = TaskSpec(support_x_shape=(1,), query_x_shape=(1,), target=Real(1))
    ...     latent_shape = (1,)
    ...
    ...     def draw_latent(self, num_tasks, generator):
    ...         return torch.randn(num_tasks, 1, generator=generator, device=generator.device)
    ...
    ...     def draw_examples(self, latent, num_support, num_query, generator):
    ...         x = latent.new_empty(len(latent), num_support + num_query, 1)
    ...         x.normal_(generator=generator)
    ...         examples = Examples(x=x, y=x + latent[:, None])
    ...         return examples[:, :num_support], examples[:, num_support:]
    >>> generator = torch.Generator().manual_seed(0)
    >>> batch = Offset().sample(2, num_support=3, num_query=4, generator=generator)
    >>> batch.support.y.shape, batch.query.y.shape, batch.latent.shape
    (torch.Size([2, 3, 1]), torch.Size([2, 4, 1]), torch.Size([2, 1]))
    """

    latent_holds: ClassVar[str | None] = None

    @property
    @abc.abstractmethod
    def spec(self) -> TaskSpec:
        """What all tasks look like."""

    @property
    @abc.abstractmethod
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of one task's latent."""

    @abc.abstractmethod
    def draw_latent(
        self, num_tasks: int, generator: torch.Generator
    ) -> Shaped[Tensor, "task *latent_shape"]:
        """Draws what fixes each task, on the generator's device."""

    @abc.abstractmethod
    def draw_examples(
        self,
        latent: Shaped[Tensor, "task *latent_shape"],
        num_support: int,
        num_query: int,
        generator: torch.Generator,
    ) -> tuple[Examples, Examples]:
        """Draws the support and the query of each task, on the latent's device.

        Raises:
            ValueError: If a task has not got that many examples.
        """

    def check_latent(self, latent: Shaped[Tensor, "task *latent_shape"]) -> None:
        """Checks the values of a latent that a caller gives; here it accepts all.

        A subclass overrides it if some latents of the right shape are no tasks of its.

        Raises:
            ValueError: If a latent is no task of this sampler.
        """
        return

    @final
    def sample(
        self,
        num_tasks: int,
        *,
        num_support: int,
        num_query: int,
        generator: torch.Generator,
        latent: Shaped[Tensor, "task *latent_shape"] | None = None,
    ) -> TaskBatch:
        """Draws tasks, or new examples of given tasks.

        Args:
            num_tasks: Number of tasks, at least 1.
            num_support: Support examples of each task; may be 0.
            num_query: Query examples of each task; may be 0.
            generator: Source of every random number. The batch is on its device.
            latent: What fixes the tasks, such as the `latent` of an earlier batch. Drawn if None.

        Returns:
            The batch with its latent. Every example is observed.

        Raises:
            TypeError: If the generator or the latent has the wrong type or dtype.
            ValueError: If a count is too small or too large for the sampler, or the latent does
                not fit.
        """
        check_at_least(1, num_tasks=num_tasks)
        check_at_least(0, num_support=num_support, num_query=num_query)
        if not isinstance(generator, torch.Generator):
            kind = type(generator).__name__
            raise TypeError(f"`generator` must be a torch.Generator; got {kind}.")
        if latent is None:
            latent = self.draw_latent(num_tasks, generator)
        else:
            self._check_type_and_shape(latent, num_tasks, generator.device)
            self.check_latent(latent)
        support, query = self.draw_examples(latent, num_support, num_query, generator)
        return TaskBatch(support=support, query=query, latent=latent)

    def _check_type_and_shape(self, latent: Tensor, num_tasks: int, device: torch.device) -> None:
        if not isinstance(latent, Tensor):
            raise TypeError(f"`latent` must be a tensor or None; got {type(latent).__name__}.")
        if self.latent_holds is not None and latent.dtype != torch.int64:
            raise TypeError(f"`latent` must hold {self.latent_holds} (int64); got {latent.dtype}.")
        if self.latent_holds is None and not latent.is_floating_point():
            raise TypeError(f"`latent` must be floating point; got {latent.dtype}.")
        shape = (num_tasks, *self.latent_shape)
        if latent.shape != shape:
            raise ValueError(f"`latent` must have shape {shape}; got {tuple(latent.shape)}.")
        if latent.device != device:
            raise ValueError(
                f"`latent` must be on the generator's device, {device}; got {latent.device}."
            )
