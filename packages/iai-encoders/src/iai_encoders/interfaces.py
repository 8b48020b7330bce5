"""The roles that an encoder can play, the memory that most of them make, and what stores it."""

from typing import Protocol, TypeVar, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor


@runtime_checkable
class Memory(Protocol):
    """A pytree of tensors, best a NamedTuple, each leading with the batch of tasks."""

    @property
    def num_elements(self) -> int:
        """Numbers a task that a read has access to."""
        ...


M = TypeVar("M", bound=Memory)
A = TypeVar("A")
B = TypeVar("B")
S = TypeVar("S")


@runtime_checkable
class SetEncoder(Protocol[M]):
    """Maps a set of tokens, in any order, to a memory that queries read.

    `testing.check_set_encoder` holds a class to the role.
    """

    def encode(
        self, tokens: Float[Tensor, "task n dim"], *, mask: Bool[Tensor, "task n"] | None = None
    ) -> M:
        """The memory of the observed tokens of each set."""
        ...

    def read(self, queries: Float[Tensor, "task m dim"], memory: M) -> Float[Tensor, "task m dim"]:
        """One answer a query, which depends on the memory and that query alone."""
        ...


@runtime_checkable
class MemoryEncoder(Protocol[M]):
    """Reads a set of any size, one minibatch after the other, into a memory that queries read.

    The order within a minibatch changes nothing, and the memory keeps its size; except for a
    `SequenceEncoder`. `testing.check_memory_encoder` holds a class to the role.
    """

    def empty(self, num_tasks: int) -> M:
        """The memory of no tokens."""
        ...

    def extend(
        self,
        memory: M,
        tokens: Float[Tensor, "task n dim"],
        *,
        questions: Float[Tensor, "task n dim"] | None = None,
        mask: Bool[Tensor, "task n"] | None = None,
    ) -> M:
        """The memory of the tokens before and these.

        Args:
            memory: Of the tokens before; it is not changed.
            tokens: The next tokens: examples, each an input with its target.
            questions: The same inputs without their targets, as a query gives them. A memory that
                looks up values by keys takes its keys from them; others do not need them.
            mask: True where a token is observed; None where all are.
        """
        ...

    def read(self, queries: Float[Tensor, "task m dim"], memory: M) -> Float[Tensor, "task m dim"]:
        """One answer a query, which depends on the memory and that query alone."""
        ...


@runtime_checkable
class TracingMemory(MemoryEncoder[M], Protocol[M]):
    """A memory encoder that reads several minibatches of each task as one batch.

    Where a layer needs the minibatches before only through sums, the sums after each minibatch are
    known at once, and no step waits for another. With steps minibatches a task, row
    ``i * step + j`` is minibatch `j` of task `i`.
    """

    def trace(
        self,
        memory: M,
        tokens: Float[Tensor, "row n dim"],
        queries: Float[Tensor, "task m dim"],
        *,
        questions: Float[Tensor, "row n dim"] | None = None,
        mask: Bool[Tensor, "row n"] | None = None,
    ) -> tuple[Float[Tensor, "row m dim"], M]:
        """What `read` gives after each `extend` by the next minibatch; and the last memory."""
        ...


@runtime_checkable
class LowerMemory(TracingMemory[M], Protocol[M]):
    """A memory encoder that can be the lower layers of another: each token has an output."""

    def pass_through(
        self,
        memory: M,
        tokens: Float[Tensor, "row n dim"],
        queries: Float[Tensor, "task m dim"],
        *,
        questions: Float[Tensor, "row n dim"] | None = None,
        mask: Bool[Tensor, "row n"] | None = None,
    ) -> tuple[Float[Tensor, "row n dim"], Float[Tensor, "row m dim"], M]:
        """As `trace`, after an output for each token, as `read` gives a query one."""
        ...


@runtime_checkable
class SequenceEncoder(MemoryEncoder[M], Protocol[M]):
    """A memory encoder for which the order counts: outputs depend on the tokens so far alone.

    `read` gives a query the output that it would have as the next token.
    `testing.check_sequence_encoder` holds a class to the role.
    """

    def scan(
        self,
        memory: M,
        tokens: Float[Tensor, "task n dim"],
        *,
        questions: Float[Tensor, "task n dim"] | None = None,
        mask: Bool[Tensor, "task n"] | None = None,
    ) -> tuple[Float[Tensor, "task n dim"], M]:
        """One output a token, and the memory that `extend` gives."""
        ...


@runtime_checkable
class RunningEncoder(Protocol[S, B]):
    """Keeps a state of one size for given queries, which reads minibatch after minibatch of a set.

    `testing.check_running_encoder` holds a class to the role.
    """

    def start(self, num_tasks: int, num_queries: int) -> S:
        """Nothing read yet: a pytree of tensors that lead with the tasks."""
        ...

    def encode(
        self,
        tokens: Float[Tensor, "row n dim"],
        *,
        questions: Float[Tensor, "row n dim"] | None = None,
        mask: Bool[Tensor, "row n"] | None = None,
    ) -> B:
        """All work on minibatches that needs neither queries nor a state.

        Tokens, questions and mask are those of `MemoryEncoder.extend`; or, with several minibatches
        of each task, those of `TracingMemory.trace`.
        """
        ...

    def read(
        self, queries: Float[Tensor, "task m dim"], minibatch: B, state: S
    ) -> tuple[Float[Tensor, "row m dim"], S]:
        """One answer a query, from all that was read so far and this minibatch; the next state.

        With several minibatches of each task, the answers after each, and the state after the last.
        An answer depends on no other query. A task without an observed token in the minibatch keeps
        its state, bit for bit.
        """
        ...


@runtime_checkable
class Association(Protocol[A]):
    """What a layer of a `MemoryTransformer` keeps of keys and values: an ``nn.Module``.

    It keeps sums over pairs, as means over all pairs so far: a pytree of tensors that lead with the
    tasks, of the same size whatever was stored.
    """

    def sums(
        self,
        keys: Float[Tensor, "task head n key"],
        values: Float[Tensor, "task head n value"],
        mask: Bool[Tensor, "task n"],
    ) -> A:
        """The sums over the observed pairs, in float32 at least; zeros where there is none."""
        ...

    def recall(
        self, means: A, queries: Float[Tensor, "task head m key"], seen: Float[Tensor, " task"]
    ) -> Float[Tensor, "task head m value"]:
        """The value at each query, from the means over `seen` pairs; zero where there was none."""
        ...


@runtime_checkable
class TableEncoder(Protocol):
    """Maps a table of cells to a vector for each column, whatever the order of rows and columns.

    `testing.check_table_encoder` holds a class to the role.
    """

    def encode(
        self,
        cells: Float[Tensor, "task n column dim"],
        *,
        mask: Bool[Tensor, "task n"] | None = None,
    ) -> Float[Tensor, "task column dim"]:
        """The vector of each column, from all observed rows."""
        ...
