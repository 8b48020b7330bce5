"""The roles of the parts that a regime is built from. The parts need not import this file."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor

from iai_regimes.evidence import Evidence

Theta = dict[str, Float[Tensor, "task ..."]]
"""The adapted parameters of each task, `task *shape`, under the parameters' own names."""


@runtime_checkable
class Examples(Protocol):
    """A batch of sets of labelled examples, one set a task."""

    @property
    def x(self) -> Tensor:
        """Inputs, `task n *x_shape`, floating point."""

    @property
    def y(self) -> Tensor | None:
        """Targets, `task n y_dim` (real) or `task n` (classes, int64)."""

    @property
    def mask(self) -> Tensor:
        """`task n` bool, True where an example is observed; elsewhere x and y may hold anything."""


@runtime_checkable
class TaskSpec(Protocol):
    """What the tasks of a sampler look like."""

    @property
    def target(self) -> object:
        """What a query asks for: an object with `dim` (real numbers) or `num_classes`."""


@runtime_checkable
class SetEncoder(Protocol):
    """A map from a set of tokens to a memory, and a read of that memory."""

    @property
    def dim(self) -> int:
        """Numbers a token."""

    def encode(self, tokens: Float[Tensor, "task n dim"], *, mask: Bool[Tensor, "task n"]) -> Any:
        """The memory of a set, whatever its order; tokens whose mask is False do not count."""

    def read(
        self, queries: Float[Tensor, "task m dim"], memory: Any
    ) -> Float[Tensor, "task m dim"]:
        """What each query reads in the memory; no query sees another."""


@runtime_checkable
class TokenEncoder(Protocol):
    """Whatever reads tokens."""

    @property
    def dim(self) -> int:
        """Numbers a token."""


@runtime_checkable
class MemoryEncoder(TokenEncoder, Protocol):
    """A memory that goes on, minibatch after minibatch, and a read of it."""

    def empty(self, num_tasks: int) -> Any:
        """The memory of no tokens: a pytree of tensors led by the task axis."""

    def extend(
        self,
        memory: Any,
        tokens: Float[Tensor, "task n dim"],
        *,
        questions: Float[Tensor, "task n dim"] | None,
        mask: Bool[Tensor, "task n"],
    ) -> Any:
        """The memory of the tokens before and the observed ones of these, of the same size.

        A task without an observed token keeps its memory, bit for bit. `questions` are the tokens
        without their targets, as queries come; None where there are no targets.
        """

    def read(
        self, queries: Float[Tensor, "task m dim"], memory: Any
    ) -> Float[Tensor, "task m dim"]:
        """What each query reads in the memory; no query sees another."""


@runtime_checkable
class TracingMemory(MemoryEncoder, Protocol):
    """A memory that reads several minibatches of each task as one batch.

    Row ``i * step + j`` is minibatch `j` of task `i`.
    """

    def trace(
        self,
        memory: Any,
        tokens: Float[Tensor, "row n dim"],
        queries: Float[Tensor, "task m dim"],
        *,
        questions: Float[Tensor, "row n dim"] | None,
        mask: Bool[Tensor, "row n"],
    ) -> tuple[Float[Tensor, "row m dim"], Any]:
        """What `read` gives after each `extend` by the next minibatch; and the last memory."""


@runtime_checkable
class RunningEncoder(TokenEncoder, Protocol):
    """A state for each query, which reads minibatch after minibatch, or several as one batch."""

    def start(self, num_tasks: int, num_queries: int) -> Any:
        """Nothing read yet: a pytree of tensors led by the task axis."""

    def encode(
        self,
        tokens: Float[Tensor, "row n dim"],
        *,
        questions: Float[Tensor, "row n dim"] | None,
        mask: Bool[Tensor, "row n"],
    ) -> Any:
        """Work on minibatches that needs neither queries nor what was read before."""

    def read(
        self, queries: Float[Tensor, "task m dim"], minibatch: Any, state: Any
    ) -> tuple[Float[Tensor, "row m dim"], Any]:
        """Each query's answer from all that was read so far and this minibatch; the next state.

        With several minibatches of each task, as `TracingMemory` has them, the answers after each,
        and the state after the last. A task without an observed token keeps its state, bit for bit.
        """


@runtime_checkable
class TableEncoder(Protocol):
    """A map from a table of cells to a vector for each of its columns."""

    @property
    def dim(self) -> int:
        """Numbers a cell, and a vector."""

    def encode(
        self, cells: Float[Tensor, "task n column dim"], *, mask: Bool[Tensor, "task n"]
    ) -> Float[Tensor, "task column dim"]:
        """The vectors, whatever the order of the rows; rows whose mask is False do not count."""


@runtime_checkable
class Likelihood(Protocol):
    """What the raw outputs of a model say about a target.

    Any real numbers are outputs. Each target is judged by its own outputs alone.
    `testing.check_likelihood` holds a class to the role.
    """

    @property
    def num_outputs(self) -> int:
        """Raw numbers a query, the last axis of `outputs`."""

    @property
    def num_features(self) -> int:
        """Size of a target as a model reads it; 0 where examples need no target."""

    def features(self, y: Tensor) -> Tensor:
        """Targets as numbers of any dtype, `task n num_features`."""

    def negative_log(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Negative log-likelihood of each target in nats, `task n`."""

    def residual(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Derivative of `negative_log` by the outputs, `task n num_outputs`."""

    def check(self, y: Tensor | None, mask: Tensor) -> None:
        """Raises ValueError for targets of another shape or kind, and for impossible observed ones.

        Impossible is NaN, say. Training asks this on the CPU, and elsewhere of the first batch.
        """


@runtime_checkable
class Objective(Protocol):
    """The loss on one minibatch as a function of the adapted parameters.

    A rule gets this function rather than its gradient, for some rules evaluate it at other points.
    """

    @property
    def shared(self) -> bool:
        """Whether gradients flow to anything but `theta`: shared weights or inputs."""

    def loss(self, theta: Theta) -> Float[Tensor, " task"]:
        """Mean loss over the observed examples of each task's minibatch; 0 where none is."""

    def residual(self, theta: Theta) -> Float[Tensor, "task n num_outputs"]:
        """Derivative of each example's own loss by the outputs at `theta`; 0 where masked."""


@runtime_checkable
class Rule(Protocol):
    """How adapted parameters move when a minibatch is read.

    A task without an observed example in the minibatch must not move. `testing.check_rule` holds a
    class to the role.
    """

    def start(self, theta: Theta) -> Any:
        """The rule's memory before the first step: a pytree of tensors led by the task axis."""

    def encode(self, batch: Examples) -> Any:
        """What can be computed from a minibatch alone.

        Raises:
            ValueError: If the rule cannot read such examples.
        """

    def step(
        self, theta: Theta, carry: Any, evidence: Evidence, objective: Objective
    ) -> tuple[Theta, Any]:
        """Moves `theta` and the carry by one minibatch.

        Args:
            theta: The adapted parameters of each task.
            carry: What `start`, or the step before, gave.
            evidence: What `encode` gave, and how many examples the minibatch has.
            objective: The loss on the minibatch.

        Returns:
            The new `theta`, of the same names and shapes, and the new carry.
        """


@runtime_checkable
class Solver(Rule, Protocol):
    """A rule that converges: at its solution, a residual is zero."""

    def residual(self, theta: Theta, carry: Any, objective: Objective) -> Theta:
        """A function of `theta`, of its names and shapes, that is zero at the rule's solution.

        Gradients flow to `theta`, to the carry and to what the objective shares.
        """


@runtime_checkable
class Solve(Protocol):
    """The result of a linear solver for the system of each task; constants."""

    @property
    def solution(self) -> Any:
        """x, shaped as the right-hand side; finite wherever the system is."""

    @property
    def negative(self) -> Tensor:
        """`task` bool, True where the matrix was found not to be positive definite."""


@runtime_checkable
class LinearSolver(Protocol):
    """Solves A x = b for each task, by products with A alone."""

    def solve(self, product: Callable[[Any], Any], right: Any, /) -> Solve:
        """An x with `product(x)` near `right`; both are `task p`."""


@runtime_checkable
class Regime(Protocol):
    """A state that minibatches refine, and the answers that it gives."""

    @property
    def needs_query(self) -> bool:
        """True if a state holds the answers to given queries, False if it answers any query."""

    def init(self, num_tasks: int, query_x: Tensor | None, /) -> Any:
        """The initial state: a pytree of tensors led by the task axis, with a field `seen`."""

    def encode(self, batch: Examples, /) -> Any:
        """What can be computed from a minibatch without the state and the queries."""

    def update(self, state: Any, evidence: Any, query_x: Tensor | None, fresh: bool, /) -> Any:
        """The state after one minibatch."""

    def predict(self, state: Any, query_x: Tensor, /) -> Tensor:
        """Raw outputs at the queries, `task query num_outputs`."""

    def loss(self, outputs: Tensor, query: Examples, /) -> Tensor:
        """One number a task, `task`."""

    def validate(self, batch: Examples, /) -> None:
        """Raises ValueError for a minibatch that must not be read: one with NaN, say."""
