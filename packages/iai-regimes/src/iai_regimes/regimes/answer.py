"""What implicit regimes have in common: the state is the answer to each query."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iai_regimes.check import check_examples
from iai_regimes.evidence import Evidence
from iai_regimes.interfaces import Examples, Likelihood
from iai_regimes.objective import mean_loss
from iai_regimes.update_form import UpdateForm, move, num_proposals


class ImplicitState(NamedTuple):
    """The answer to each query, a running mean of learned features, and the evidence behind both."""

    answer: Float[Tensor, "task query answer"]
    summary: Float[Tensor, "task *summary"]  # of a task, or of the column that each query is about
    seen: Float[Tensor, " task"]  # distinct examples


class AnswerRegime(nn.Module, ABC):
    """A regime whose state a network moves, by what each query reads in a minibatch.

    Args:
        likelihood: What raw outputs say about a target.
        update: "annealed", "residual" or "gated".
        answer_dim: Numbers of an answer.

    Raises:
        ValueError: If `update` is unknown.
    """

    propose: nn.Linear  # what a query read, to proposals for its answer

    def __init__(self, likelihood: Likelihood, update: UpdateForm, answer_dim: int) -> None:
        super().__init__()
        self.num_proposals = answer_dim * num_proposals(update)
        self.likelihood, self.update_form, self.answer_dim = likelihood, update, answer_dim
        self.start = nn.Parameter(torch.zeros(answer_dim))

    @property
    def needs_query(self) -> bool:
        """True: the state is the answer to given queries."""
        return True

    @abstractmethod
    def update(
        self,
        state: ImplicitState,
        evidence: Any,
        query_x: Tensor | None = None,
        fresh: bool = True,
    ) -> ImplicitState:
        """Every query's answer after one minibatch; with `fresh` False, of examples seen before."""

    def loss(
        self, outputs: Float[Tensor, "task query num_outputs"], query: Examples
    ) -> Float[Tensor, " task"]:
        """Mean negative log-likelihood of each task's observed queries, in nats."""
        return mean_loss(self.likelihood, outputs, query)

    def validate(self, batch: Examples) -> None:
        """Raises ValueError for examples that are not finite or whose targets cannot be."""
        check_examples(batch, self.likelihood)

    def _start(
        self, num_tasks: int, query_x: Tensor | None, summary: tuple[int, ...]
    ) -> ImplicitState:
        if query_x is None:
            raise ValueError("An implicit state is the answer to given queries; give `query_x`.")
        answer = self.start.expand(num_tasks, query_x.shape[1], -1)
        return ImplicitState(
            answer, answer.new_zeros(num_tasks, *summary), answer.new_zeros(num_tasks)
        )

    def _moved(
        self, state: ImplicitState, evidence: Evidence, summary: Tensor, read: Tensor
    ) -> ImplicitState:
        """The state after a minibatch in which each query read `task query dim`."""
        proposal = self.propose(read).split(self.answer_dim, dim=-1)
        answer = move(self.update_form, state.answer, proposal, evidence.gain)
        return ImplicitState(answer, summary, evidence.seen_after)


def zero_linear(in_dim: int, out_dim: int) -> nn.Linear:
    """A linear layer that gives zeros until it is trained."""
    layer = nn.Linear(in_dim, out_dim)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
