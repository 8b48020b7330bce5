"""What iteration needs from the parts that it is given; those parts import nothing of it."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

State = TypeVar("State")
SelfT = TypeVar("SelfT")

Step = Callable[[State, Any], State]
Loss = Callable[[State], Float[Tensor, " task"]]
Rollout = tuple[Float[Tensor, "step task"], State]
GradientMode = Callable[[Step[State], Loss[State], State, Iterable[Any]], Rollout[State]]
"""How a meta-gradient crosses the steps.

`mode(step, loss, state, batches)` gives the losses, `step task`, and the last state, detached.
Weights that all tasks share reach it through `step` and `loss` alone. What it draws, it draws from
torch's global generators, whose states are in a checkpoint; a generator of its own would break
exact resumption. `testing.check_gradient_mode` is the contract in full.
"""


@runtime_checkable
class Batch(Protocol):
    """A batch of sets, one a task, that can be cut along the axis of its examples.

    If it has `x` and `y`, these are tensors led by `task n`, too.
    """

    @property
    def mask(self) -> Tensor:
        """`task n` bool, True where an example is observed."""

    def __getitem__(self: SelfT, key: Any, /) -> SelfT:
        """Some of the examples of every task, as a tensor of `task n` gives them.

        `batch[:, i:j]` and `batch[:, index]`: the same of all tasks. `batch[rows, index]`, with
        rows `task 1` and an index `task k`: others of each task.
        """


BatchT = TypeVar("BatchT", bound=Batch)


@runtime_checkable
class Query(Protocol):
    """The queries of a batch of tasks."""

    @property
    def x(self) -> Tensor:
        """Inputs, `task query *x_shape`."""


@runtime_checkable
class LabelledQuery(Query, Protocol):
    """Queries with their answers."""

    @property
    def y(self) -> Tensor | None:
        """Targets, led by `task query`; None where there are only inputs."""

    @property
    def mask(self) -> Tensor:
        """`task query` bool, True where the query counts in the loss."""


@runtime_checkable
class Tasks(Protocol):
    """A batch of tasks: the examples to read, and the queries."""

    @property
    def support(self) -> Batch:
        """Examples to read."""

    @property
    def query(self) -> Query:
        """Queries, as `Regime.loss` takes them."""


@runtime_checkable
class Regime(Protocol):
    """A state that minibatches refine, and the answers that it gives.

    A state is a pytree of tensors that lead with the axis of tasks and keep their shapes and
    dtypes: a NamedTuple, whose fields may be dicts of parameters by name. Its field `seen`, `task`,
    counts the distinct examples behind it. `testing.check_regime` is the contract in full.
    """

    @property
    def needs_query(self) -> bool:
        """Whether a state is the answer to given queries; otherwise it answers any."""

    def init(self, num_tasks: int, query_x: Tensor | None, /) -> Any:
        """The start of each task, the same for all. Its `seen` is 0."""

    def encode(self, batch: Any, /) -> Any:
        """Work on a minibatch that needs neither state nor query."""

    def update(self, state: Any, evidence: Any, query_x: Tensor | None, fresh: bool, /) -> Any:
        """The state after one minibatch; with `fresh` False its examples add nothing to `seen`."""

    def predict(self, state: Any, query_x: Tensor, /) -> Tensor:
        """Raw outputs at the queries, `task query num_outputs`."""

    def loss(self, outputs: Tensor, query: Any, /) -> Tensor:
        """One number a task, `task`; queries whose mask is False do not count."""

    def validate(self, batch: Any, /) -> None:
        """Raises ValueError for a minibatch that a user must not give: one with NaN, say.

        Adapting asks this of each minibatch; training of a whole support, on the CPU, and elsewhere
        of the first one.
        """


@runtime_checkable
class TracingRegime(Regime, Protocol):
    """A regime that reads several minibatches of each task as one batch.

    Its steps are then taken so wherever gradients cross all of them (`unrolled`), or no gradient is
    asked for and the set is in memory.
    """

    @property
    def traces(self) -> bool:
        """Whether `trace` can be asked for."""

    def trace(
        self, state: Any, evidence: Any, query_x: Tensor | None, /
    ) -> tuple[Float[Tensor, "task step query num_outputs"], Any]:
        """What `predict` gives after each `update` by fresh minibatches, and the last state.

        The evidence is what `encode` gives of a batch in which row ``i * step + j`` is minibatch
        `j` of task `i`. Where a state answers any query there may be no `query_x`, and then there
        are outputs at no query.
        """


@runtime_checkable
class DrawnTasks(Tasks, Protocol):
    """Tasks that a sampler drew, and the latent that they were drawn from."""

    @property
    def query(self) -> LabelledQuery:
        """Queries with their answers."""

    @property
    def latent(self) -> Any:
        """A tensor, or a pytree of tensors, led by the axis of tasks."""


@runtime_checkable
class Sampler(Protocol):
    """A distribution of tasks, which draws new examples of tasks drawn before, by their latent."""

    def sample(
        self,
        num_tasks: int,
        *,
        num_support: int,
        num_query: int,
        generator: torch.Generator,
        latent: Any = None,
    ) -> DrawnTasks:
        """Tasks on the generator's device; given `latent`, new examples of the tasks it is of."""
