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
class ScanningMemory(MemoryEncoder[M], Protocol[M]):
    """A memory encoder that can be the lower layers of another: each token has an output."""

    def scan(
        self,
        memory: M,
        tokens: Float[Tensor, "task n dim"],
        *,
        questions: Float[Tensor, "task n dim"] | None = None,
        mask: Bool[Tensor, "task n"] | None = None,
    ) -> tuple[Float[Tensor, "task n dim"], M]:
        """One output a token, as `read` gives a query one; and the memory that `extend` gives."""
        ...


@runtime_checkable
class SequenceEncoder(ScanningMemory[M], Protocol[M]):
    """A memory encoder for which the order counts: outputs depend on the tokens so far alone.

    `read` gives a query the output that it would have as the next token.
    `testing.check_sequence_encoder` holds a class to the role.
    """


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
        tokens: Float[Tensor, "task n dim"],
        *,
        questions: Float[Tensor, "task n dim"] | None = None,
        mask: Bool[Tensor, "task n"] | None = None,
    ) -> B:
        """All work on a minibatch that needs neither queries nor a state.

        Tokens, questions and mask are those of `MemoryEncoder.extend`.
        """
        ...

    def read(
        self, queries: Float[Tensor, "task m dim"], minibatch: B, state: S
    ) -> tuple[Float[Tensor, "task m dim"], S]:
        """One answer a query, from all that was read so far and this minibatch; the next state.

        An answer depends on no other query. A task without an observed token in the minibatch keeps
        its state, bit for bit.
        """
        ...


@runtime_checkable
class Association(Protocol[A]):
    """What a layer of a `MemoryTransformer` keeps of keys and values: an ``nn.Module``.

    Its state is a pytree of tensors that lead with the tasks, of the same size whatever was stored.
    """

    def empty(self, num_tasks: int) -> A:
        """The state before any token."""
        ...

    def store(
        self,
        state: A,
        keys: Float[Tensor, "task head n key"],
        values: Float[Tensor, "task head n key"],
        mask: Bool[Tensor, "task n"],
        seen: Float[Tensor, " task"],
    ) -> A:
        """The state with these pairs, too, whatever their order; those before were `seen`."""
        ...

    def recall(
        self, state: A, queries: Float[Tensor, "task head m key"], seen: Float[Tensor, " task"]
    ) -> Float[Tensor, "task head m key"]:
        """The value at each query, after `seen` pairs; zero where there was none."""
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
