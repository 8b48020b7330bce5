"""What implicit regimes have in common: the state is the answer to each query."""

from abc import ABC, abstractmethod
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iai_regimes.check import (
    check_asked,
    check_examples,
    check_queries,
    check_role,
    check_same_tasks,
    check_sizes,
    flat_inputs,
)
from iai_regimes.evidence import Evidence, moved_where
from iai_regimes.interfaces import Examples, Likelihood
from iai_regimes.objective import mean_loss
from iai_regimes.padding import finite_queries
from iai_regimes.precision import as_weights, at_least_single
from iai_regimes.update_form import UpdateForm, move, num_proposals

AnswerState = Literal["logits", "latents", "probabilities"]


class ImplicitState(NamedTuple):
    """The answer to each query, a running mean of features, and the number of examples read."""

    answer: Float[Tensor, "task query answer"]  # float32 at least, as the whole state
    summary: Float[Tensor, "task *summary"]  # of a task, or of the column that each query is about
    seen: Float[Tensor, " task"]  # distinct examples


class AnswerRegime(nn.Module, ABC):
    """Amortizes f: what a query reads in a minibatch moves the query's answer.

    A subclass writes `encode`, whose evidence has the field `num_observed`, `read` and `summary`;
    it sets `query_dim`, `propose`, and `head` if answers are latents.

    Args:
        likelihood: Compares raw outputs with targets.
        state: "logits" (raw outputs), "latents" (`dim` numbers, which `head` maps to raw outputs)
            or "probabilities" (after the softmax; only for a likelihood with `num_classes`).
        update: "annealed", "residual" or "gated".
        dim: Numbers of a latent.

    Raises:
        ValueError: If `state` or `update` is unknown or does not fit the likelihood.
        TypeError: If `likelihood` lacks a member of its role.
    """

    needs_query = True  # the state is the answer to given queries
    query_dim: int  # numbers of one flattened query
    propose: nn.Linear  # what a query has read, to proposals for its answer
    head: nn.Linear

    def __init__(
        self, likelihood: Likelihood, state: AnswerState, update: UpdateForm, dim: int
    ) -> None:
        super().__init__()
        check_role(Likelihood, likelihood=likelihood)
        if state not in ("logits", "latents", "probabilities"):
            raise ValueError(
                f"`state` must be one of logits, latents, probabilities; got {state!r}."
            )
        if state == "probabilities" and not hasattr(likelihood, "num_classes"):
            raise ValueError("`state` can be probabilities only for a categorical likelihood.")
        self.answer_dim = dim if state == "latents" else likelihood.num_outputs
        self.num_proposals = self.answer_dim * num_proposals(update)
        self.likelihood, self.state, self.update_form = likelihood, state, update
        self.start = nn.Parameter(torch.zeros(self.answer_dim))

    @abstractmethod
    def encode(self, batch: Examples) -> Any:
        """The minibatch, encoded once for any number of queries."""

    @abstractmethod
    def summary(self, answer: Tensor) -> Tensor:
        """The running mean before any example: zeros."""

    @abstractmethod
    def read(
        self, state: ImplicitState, evidence: Evidence, query_x: Tensor
    ) -> tuple[Float[Tensor, "task *summary"], Float[Tensor, "task query dim"]]:
        """The running mean after a minibatch, and what each query reads in it.

        Args:
            state: The answers so far.
            evidence: What `encode` gave, and how many examples the minibatch has.
            query_x: The queries, some of which may not be finite.
        """

    def init(self, num_tasks: int, query_x: Tensor | None = None) -> ImplicitState:
        """The same learned answer for every query; gradients flow to it.

        Raises:
            ValueError: If there are no queries, or they are of another number of tasks or another
                size.
        """
        if query_x is None:
            raise ValueError("An implicit state is the answer to given queries; give `query_x`.")
        check_sizes(0, num_tasks=num_tasks)
        check_queries(query_x, num_tasks)
        flat_inputs("query_x", query_x, self.query_dim)
        answer = at_least_single(self.start).expand(num_tasks, query_x.shape[1], -1)
        if self.state == "probabilities":
            answer = answer.softmax(-1)
        return ImplicitState(answer, self.summary(answer), answer.new_zeros(num_tasks))

    def update(
        self, state: ImplicitState, evidence: Any, query_x: Tensor | None = None, fresh: bool = True
    ) -> ImplicitState:
        """The answers after one minibatch; with `fresh` False, one whose examples were read before.

        A task without an observed example in the minibatch keeps its answers. Gradients flow to the
        state.

        Raises:
            ValueError: If there are no queries, or not those that the state answers, or the
                minibatch has another number of tasks.
        """
        query_x = check_asked(state.answer, query_x, self.query_dim)
        check_same_tasks(state.seen, evidence.num_observed)
        num_observed = evidence.num_observed.to(state.seen.dtype)
        told = Evidence(evidence, num_observed, state.seen, fresh)
        summary, read = self.read(state, told, query_x)
        read = as_weights(read, self.propose.weight)
        proposal = self.propose(read).split(self.answer_dim, dim=-1)
        if self.state == "probabilities":
            moved = move(self.update_form, _log(state.answer), proposal, told.gain).softmax(-1)
            answer = moved_where(told.informed, moved, state.answer)
        else:
            answer = move(self.update_form, state.answer, proposal, told.gain)
        return ImplicitState(answer, summary, told.seen_after)

    def predict(
        self, state: ImplicitState, query_x: Float[Tensor, "task query *x_shape"]
    ) -> Float[Tensor, "task query num_outputs"]:
        """Raw outputs for the queries that the state answers; NaN for one that is not finite.

        Gradients flow to the state.

        Raises:
            ValueError: If these are not as many queries as the state answers, of their size.
        """
        _, finite = finite_queries(check_asked(state.answer, query_x, self.query_dim))
        outputs = state.answer
        if self.state == "latents":
            outputs = at_least_single(self.head(as_weights(outputs, self.head.weight)))
        elif self.state == "probabilities":
            outputs = _log(outputs)
        return outputs.masked_fill(~finite[..., None], float("nan"))

    def loss(
        self, outputs: Float[Tensor, "task query num_outputs"], query: Examples
    ) -> Float[Tensor, " task"]:
        """Mean negative log-likelihood of each task's observed queries, in nats."""
        return mean_loss(self.likelihood, outputs, query)

    def validate(self, batch: Examples) -> None:
        """Raises ValueError for examples that are not finite or whose targets cannot be."""
        check_examples(batch, self.likelihood)


def _log(probabilities: Tensor) -> Tensor:
    return probabilities.clamp(min=1e-12).log()
