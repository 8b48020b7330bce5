"""The three roles that an encoder can play, and the memory that two of them make."""

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
class SequenceEncoder(Protocol[M]):
    """Maps a sequence of tokens, read in pieces of any length, to a memory that queries read.

    `testing.check_sequence_encoder` holds a class to the role.
    """

    def empty(self, num_tasks: int) -> M:
        """The memory of no tokens."""
        ...

    def extend(
        self,
        memory: M,
        tokens: Float[Tensor, "task n dim"],
        *,
        mask: Bool[Tensor, "task n"] | None = None,
    ) -> tuple[Float[Tensor, "task n dim"], M]:
        """One output a token, from it and those before it; and the memory of all of them."""
        ...

    def read(self, queries: Float[Tensor, "task m dim"], memory: M) -> Float[Tensor, "task m dim"]:
        """One answer a query: the output that `extend` would give it as the next token."""
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
