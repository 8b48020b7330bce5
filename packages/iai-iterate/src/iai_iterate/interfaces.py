"""What iteration needs from the parts that it is given. Nothing here is imported by those parts."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

State = TypeVar("State")
BatchT = TypeVar("BatchT", bound="Batch")

Step = Callable[[State, Any], State]
Loss = Callable[[State], Float[Tensor, " task"]]
Rollout = tuple[Float[Tensor, "step task"], State]
GradientMode = Callable[[Step[State], Loss[State], State, Iterable[Any]], Rollout[State]]
"""`mode(step, loss, state, batches) -> (losses "step task", detached state)`: how a meta-gradient crosses the steps."""


@runtime_checkable
class Batch(Protocol):
    """A batch of sets, one a task, that can be cut along the axis of its examples."""

    @property
    def mask(self) -> Tensor:
        """`task n` bool, True where an example is observed."""

    def __getitem__(self: BatchT, key: Any) -> BatchT:
        """`batch[:, i:j]` and `batch[:, index]`: some of the examples of every task."""


@runtime_checkable
class Tasks(Protocol):
    """A batch of tasks: what is read, and what is asked."""

    @property
    def support(self) -> Any:
        """A `Batch` of examples to read."""

    @property
    def query(self) -> Any:
        """Examples to answer; their inputs are `query.x`, `task query *x_shape`."""


@runtime_checkable
class Regime(Protocol):
    """A state that minibatches refine, and the answers that it gives. States are pytrees of tensors with a field `seen`."""

    @property
    def needs_query(self) -> bool:
        """Whether the state is the answer to given queries, rather than one that answers any."""

    def init(self, num_tasks: int, query_x: Tensor | None) -> Any:
        """The start of each task. Its `seen`, `task`, is 0."""

    def encode(self, batch: Any) -> Any:
        """Work on a minibatch that needs neither state nor query."""

    def update(self, state: Any, evidence: Any, query_x: Tensor | None, fresh: bool) -> Any:
        """The state after one minibatch; with `fresh` False its examples add nothing to `seen`."""

    def predict(self, state: Any, query_x: torch.Tensor) -> Tensor:
        """Raw outputs at the queries, `task query num_outputs`."""

    def loss(self, outputs: Tensor, query: Any) -> Tensor:
        """One number a task, `task`."""

    def validate(self, batch: Any) -> None:
        """Raises ValueError for a minibatch that a user must not hand in."""


@runtime_checkable
class Sampler(Protocol):
    """A distribution of tasks that can be drawn from again: `latent` names tasks drawn before."""

    def sample(
        self,
        num_tasks: int,
        *,
        num_support: int,
        num_query: int,
        generator: torch.Generator,
        latent: Any = None,
    ) -> Any:
        """Tasks with `support`, `query` and `latent`; given `latent`, new examples of those very tasks."""
