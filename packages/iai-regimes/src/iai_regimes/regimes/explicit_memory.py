"""The explicit regime whose latent is an encoder's memory."""

from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor

from iai_regimes.check import (
    check_kept,
    check_queries,
    check_same_tasks,
    check_sizes,
    check_steps,
)
from iai_regimes.example_embedding import ExampleTokens
from iai_regimes.interfaces import Examples, Likelihood, MemoryEncoder, TracingMemory
from iai_regimes.padding import finite_queries
from iai_regimes.precision import at_least_single
from iai_regimes.regimes.memory_regime import MemoryRegime


class MemoryState(NamedTuple):
    """An encoder's memory of all examples read, and their number."""

    memory: Any  # of the encoder, led by the task axis
    seen: Float[Tensor, " task"]  # distinct examples, float32 at least


class ExplicitMemory(MemoryRegime):
    """Amortizes f and g: a minibatch extends the memory of an encoder, which any query then reads.

    The state is the memory, so the size of the memory is what bounds the learner (the accessible
    state of Kirsch et al., 2022). With `MemoryTransformer` this is the **ridge memory**, with
    `DeepSet` a neural process.

    Examples that were read before change nothing: they are in the memory.

    Args:
        encoder: Extends and reads the memory.
        likelihood: Compares raw outputs with targets.
        x_dim: Numbers of one flattened input of the support.
        query_dim: The same for a query; `x_dim` if None.

    Raises:
        ValueError: If a size is below 1.
        TypeError: If `encoder` or `likelihood` lacks a member of its role.

    Source:
        Mittal et al. (2025), arXiv 2510.11471: z_{i+1} = h(z_i, B_i), prediction f(x, z_K). Ours: a
        memory that sums over examples for z, so that h loses nothing.
    """

    encoder: MemoryEncoder
    needs_query = False  # any query can read a memory

    def __init__(
        self,
        encoder: MemoryEncoder,
        likelihood: Likelihood,
        *,
        x_dim: int,
        query_dim: int | None = None,
    ) -> None:
        super().__init__(MemoryEncoder, encoder, likelihood, x_dim, query_dim)

    def init(self, num_tasks: int, query_x: Tensor | None = None) -> MemoryState:
        """The empty memory.

        Raises:
            ValueError: If `num_tasks` is below 0.
        """
        check_sizes(0, num_tasks=num_tasks)
        zeros = at_least_single(self.head.weight).new_zeros(num_tasks)
        return MemoryState(self.encoder.empty(num_tasks), zeros)

    def encode(self, batch: Examples) -> ExampleTokens:
        """The minibatch as tokens.

        Raises:
            ValueError: If there are no targets, or an input has not `x_dim` numbers.
        """
        return self._tokens(batch)

    def update(
        self,
        state: MemoryState,
        evidence: ExampleTokens,
        query_x: Tensor | None = None,
        fresh: bool = True,
    ) -> MemoryState:
        """The memory with a minibatch added; with `fresh` False, the memory as it was.

        A task without an observed example keeps its memory. Gradients flow to the state.

        Raises:
            ValueError: If the minibatch has another number of tasks, or the encoder's memory grows
                or changes its dtype.
        """
        tokens, questions, mask = evidence
        check_same_tasks(state.seen, mask)
        if not fresh:
            return state
        memory = self.encoder.extend(state.memory, tokens, questions=questions, mask=mask)
        check_kept("encoder", state.memory, memory)
        return MemoryState(memory, state.seen + mask.sum(1).to(state.seen.dtype))

    @property
    def traces(self) -> bool:
        """Whether the encoder can `trace`."""
        return isinstance(self.encoder, TracingMemory)

    def trace(
        self, state: MemoryState, evidence: ExampleTokens, query_x: Tensor | None = None
    ) -> tuple[Float[Tensor, "task step query num_outputs"], MemoryState]:
        """What `predict` gives after each `update`, for several fresh minibatches as one batch.

        Args:
            state: Before the first.
            evidence: Of the minibatches, minibatch `j` of task `i` in row ``i * step + j``.
            query_x: The queries of each task; None for none.

        Returns:
            The raw outputs after each minibatch, and the state after the last.

        Raises:
            ValueError: As `update` and `predict`.
        """
        tokens, asked, mask = evidence
        shape = len(state.seen), check_steps(state.seen, mask)
        if query_x is None:
            query_x = tokens.new_zeros(shape[0], 0, self.embed.query_dim)
        check_queries(query_x, shape[0])
        queries, (_, finite) = self._questions(query_x), finite_queries(query_x)
        trace = cast(TracingMemory, self.encoder).trace
        answers, memory = trace(state.memory, tokens, queries, questions=asked, mask=mask)
        check_kept("encoder", state.memory, memory)
        outputs = torch.unflatten(self._outputs(answers, queries, steps=shape[1]), 0, shape)
        seen = state.seen + mask.sum(1).view(shape).sum(1).to(state.seen.dtype)
        return outputs.masked_fill(~finite[:, None, :, None], torch.nan), MemoryState(memory, seen)

    def predict(
        self, state: MemoryState, query_x: Float[Tensor, "task query *x_shape"]
    ) -> Float[Tensor, "task query num_outputs"]:
        """Raw outputs at any queries; NaN for one that is not finite. Gradients flow to the state.

        Raises:
            ValueError: If a query has not `query_dim` numbers, or there are those of another number
                of tasks.
        """
        check_queries(query_x, len(state.seen))
        questions = self._questions(query_x)
        outputs = self._outputs(self.encoder.read(questions, state.memory), questions)
        return outputs.masked_fill(~finite_queries(query_x)[1][..., None], torch.nan)
