"""What this package needs of what it trains and measures: the smallest roles that do."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

TasksT = TypeVar("TasksT")
TasksT_co = TypeVar("TasksT_co", covariant=True)
TasksT_contra = TypeVar("TasksT_contra", contravariant=True)
StateT = TypeVar("StateT")
SupportT_co = TypeVar("SupportT_co", covariant=True)
SupportT_contra = TypeVar("SupportT_contra", contravariant=True)


@runtime_checkable
class Source(Protocol[TasksT_co, StateT]):
    """Where training tasks come from, batch after batch, on the device that they are trained on.

    A source has random generators of its own: `state_dict` after any number of `next` and `put`
    holds all that decides what follows, as a nested dict (or list) of tensors, numbers, strings and
    `None`. `testing.check_source` is the contract in full.
    """

    def next(self) -> tuple[TasksT_co, StateT | None]:
        """Returns a batch of tasks, and the state that they go on from (`None`: a new one)."""

    def put(self, state: StateT) -> None:
        """Takes back the state that the learner left those tasks in, without gradients."""

    def state_dict(self) -> dict[str, object]:
        """Returns all that decides what follows; it may share memory with the source."""

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Goes on from there, or raises `ValueError` and stays as before."""


@runtime_checkable
class Learner(Protocol[TasksT_contra, StateT]):
    """An `nn.Module` that refines a state over the examples of a batch of tasks.

    `fit` calls `forward` and nothing else, so that the learner can be wrapped for several
    processes. What it draws, it draws from torch's global generators, whose states are in a
    checkpoint beside its `state_dict`. `testing.check_learner` is the contract in full.
    """

    def forward(
        self, tasks: TasksT_contra, state: StateT | None = None
    ) -> tuple[Float[Tensor, "step task"], Float[Tensor, "step task"], StateT]:
        """Returns the loss and the number of examples seen, both `step task`, and the last state.

        Gradients flow through the losses alone: the state is a detached pytree of tensors.
        """


@runtime_checkable
class TaskSampler(Protocol[TasksT_co]):
    """A distribution of tasks."""

    def sample(
        self, num_tasks: int, *, num_support: int, num_query: int, generator: torch.Generator
    ) -> TasksT_co:
        """Draws tasks on the generator's device; the same generator gives the same tasks."""


@runtime_checkable
class Query(Protocol):
    """The examples that predictions are compared with."""

    @property
    def x(self) -> Shaped[Tensor, "task n *x_shape"]:
        """The inputs."""

    @property
    def y(self) -> Shaped[Tensor, "task n *y_shape"] | None:
        """The targets: `task n y_dim` numbers or `task n` classes."""

    @property
    def mask(self) -> Bool[Tensor, "task n"]:
        """True where an example is observed."""


@runtime_checkable
class LabelledTasks(Protocol[SupportT_co]):
    """A batch of tasks to measure a learner on."""

    @property
    def support(self) -> SupportT_co:
        """What the learner may read."""

    @property
    def query(self) -> Query:
        """What it is measured on."""


@runtime_checkable
class Snapshot(Protocol):
    """A learner after some steps."""

    @property
    def step(self) -> int:
        """Number of steps taken; 0 before any example."""

    @property
    def seen(self) -> Float[Tensor, " task"]:
        """Number of distinct observed examples that it has read."""

    def predict(self, query_x: Shaped[Tensor, "task m *x_shape"], /) -> Shaped[Tensor, "task m _"]:
        """Answers queries: `task m num_outputs`."""


@runtime_checkable
class Traceable(Protocol[SupportT_contra]):
    """A learner that shows itself after each step. `testing.check_traceable` is the contract."""

    def trace(
        self,
        support: SupportT_contra,
        query_x: Shaped[Tensor, "task m *x_shape"],
        /,
        *,
        steps: int,
    ) -> Iterator[Snapshot]:
        """Yields the learner at step 0, 1, ..., `steps`."""


@runtime_checkable
class Estimator(Protocol):
    """A model of one task, as in scikit-learn: it is given NumPy arrays, and returns them."""

    def fit(self, x: Any, y: Any, /) -> Any:
        """Learns from inputs, `n x_dim`, and `n` classes or `n y_dim` numbers."""

    def predict(self, x: Any, /) -> Any:
        """Returns a class or `y_dim` numbers for each row of `x`."""
