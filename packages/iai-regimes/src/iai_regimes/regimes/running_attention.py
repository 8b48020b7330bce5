"""The implicit regime whose state is what each query's attention has found so far."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iai_regimes.check import (
    check_asked,
    check_kept,
    check_queries,
    check_same_tasks,
    check_sizes,
    check_steps,
)
from iai_regimes.evidence import moved_where
from iai_regimes.interfaces import Examples, Likelihood, RunningEncoder
from iai_regimes.padding import finite_queries
from iai_regimes.precision import at_least_single
from iai_regimes.regimes.memory_regime import MemoryRegime


class RunningState(NamedTuple):
    """The answer to each query, what its attention has found, and the number of examples read."""

    answer: Float[Tensor, "task query num_outputs"]  # raw outputs, float32 at least
    found: Any  # of the encoder, led by the task axis
    seen: Float[Tensor, " task"]  # distinct examples


class RunningEvidence(NamedTuple):
    """A minibatch, encoded without the queries, so that it can be kept for later ones."""

    minibatch: Any
    num_observed: Float[Tensor, " task"]


class RunningAttention(MemoryRegime):
    """Amortizes f: each query attends to everything read so far, one minibatch after the other.

    `Implicit` refines a few numbers a query. Here the state is what every layer and head of the
    encoder has found, so nothing that was read is lost, and its size does not grow.

    Examples that were read before change nothing: they have been attended to.

    Args:
        encoder: Keeps and extends what the queries find, such as `RunningTransformer`.
        likelihood: Compares raw outputs with targets.
        x_dim: Numbers of one flattened input of the support.
        query_dim: The same for a query; `x_dim` if None.

    Raises:
        ValueError: If a size is below 1.
        TypeError: If `encoder` or `likelihood` lacks a member of its role.

    Source:
        Mittal et al. (2025), arXiv 2510.11471, implicit regime: y_{i+1} = r([x, y_i], B_i). Ours:
        sums of attention in place of the answer y_i.
    """

    encoder: RunningEncoder
    needs_query = True  # the state is about given queries

    def __init__(
        self,
        encoder: RunningEncoder,
        likelihood: Likelihood,
        *,
        x_dim: int,
        query_dim: int | None = None,
    ) -> None:
        super().__init__(RunningEncoder, encoder, likelihood, x_dim, query_dim)

    def init(self, num_tasks: int, query_x: Tensor | None = None) -> RunningState:
        """The answer to each query before any example.

        Raises:
            ValueError: If there are no queries, or they are of another number of tasks or another
                size.
        """
        if query_x is None:
            raise ValueError("A running state is about given queries; give `query_x`.")
        check_sizes(0, num_tasks=num_tasks)
        check_queries(query_x, num_tasks)
        questions = self._questions(query_x)
        found = self.encoder.start(num_tasks, query_x.shape[1])
        mask = torch.zeros(num_tasks, 0, dtype=torch.bool, device=questions.device)
        nothing = self.encoder.encode(questions[:, :0], questions=None, mask=mask)
        answers, _ = self.encoder.read(questions, nothing, found)
        outputs = self._outputs(answers, questions)
        return RunningState(outputs, found, outputs.new_zeros(num_tasks))

    def encode(self, batch: Examples) -> RunningEvidence:
        """The minibatch, encoded once for any number of queries.

        Raises:
            ValueError: If there are no targets, or an input has not `x_dim` numbers.
        """
        tokens, questions, mask = self._tokens(batch)
        minibatch = self.encoder.encode(tokens, questions=questions, mask=mask)
        return RunningEvidence(minibatch, mask.sum(1).to(at_least_single(tokens).dtype))

    def update(
        self,
        state: RunningState,
        evidence: RunningEvidence,
        query_x: Tensor | None = None,
        fresh: bool = True,
    ) -> RunningState:
        """The answers after one more minibatch; with `fresh` False, as they were.

        A task without an observed example keeps its answers. Gradients flow to the state.

        Raises:
            ValueError: If there are no queries, or not those that the state is about, or the
                minibatch has another number of tasks.
        """
        query_x = check_asked(state.answer, query_x, self.embed.query_dim)
        check_same_tasks(state.seen, evidence.num_observed)
        if not fresh:
            return state
        questions = self._questions(query_x)
        answers, found = self.encoder.read(questions, evidence.minibatch, state.found)
        check_kept("encoder", state.found, found)
        seen = state.seen + evidence.num_observed.to(state.seen.dtype)
        outputs = self._outputs(answers, questions)
        outputs = moved_where(evidence.num_observed > 0, outputs, state.answer)
        return RunningState(outputs, found, seen)

    @property
    def traces(self) -> bool:
        """Always: a `RunningEncoder` reads several minibatches as one batch."""
        return True

    def trace(
        self, state: RunningState, evidence: RunningEvidence, query_x: Tensor | None = None
    ) -> tuple[Float[Tensor, "task step query num_outputs"], RunningState]:
        """What `predict` gives after each `update`, for several fresh minibatches as one batch.

        Args:
            state: Before the first.
            evidence: Of the minibatches, minibatch `j` of task `i` in row ``i * step + j``.
            query_x: The queries of each task, those that the state is about.

        Returns:
            The raw outputs after each minibatch, and the state after the last.

        Raises:
            ValueError: As `update` and `predict`.
        """
        query_x = check_asked(state.answer, query_x, self.embed.query_dim)
        shape = len(state.seen), check_steps(state.seen, evidence.num_observed)
        queries, (_, finite) = self._questions(query_x), finite_queries(query_x)
        answers, found = self.encoder.read(queries, evidence.minibatch, state.found)
        check_kept("encoder", state.found, found)
        counts = evidence.num_observed.view(shape)
        outputs = torch.unflatten(self._outputs(answers, queries, steps=shape[1]), 0, shape)
        outputs = _held(outputs, state.answer, counts > 0)
        seen = state.seen + counts.sum(1).to(state.seen.dtype)
        shown = outputs.masked_fill(~finite[:, None, :, None], torch.nan)
        return shown, RunningState(outputs[:, -1], found, seen)

    def predict(
        self, state: RunningState, query_x: Float[Tensor, "task query *x_shape"]
    ) -> Float[Tensor, "task query num_outputs"]:
        """Raw outputs for the queries that the state is about; NaN for one that is not finite.

        Raises:
            ValueError: If these are not as many queries as the state is about, of their size.
        """
        _, finite = finite_queries(check_asked(state.answer, query_x, self.embed.query_dim))
        return state.answer.masked_fill(~finite[..., None], torch.nan)


def _held(
    outputs: Float[Tensor, "task step query num_outputs"],
    before: Float[Tensor, "task query num_outputs"],
    moved: Bool[Tensor, "task step"],
) -> Float[Tensor, "task step query num_outputs"]:
    """The outputs after each step, with those of the last step that moved a task where none did.

    >>> outputs, before = torch.tensor([[1.0, 2.0, 3.0]]).view(1, 3, 1, 1), torch.zeros(1, 1, 1)
    >>> _held(outputs, before, torch.tensor([[False, True, False]])).flatten().tolist()
    [0.0, 2.0, 2.0]
    """
    steps = torch.arange(1, moved.shape[1] + 1, device=moved.device)
    latest = (steps * moved).cummax(1).values
    tasks = torch.arange(len(moved), device=moved.device)[:, None]
    return torch.cat([before[:, None], outputs], 1)[tasks, latest]
