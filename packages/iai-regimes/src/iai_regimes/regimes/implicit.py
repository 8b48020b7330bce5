"""The implicit regime: the state is the answer to each query."""

from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iai_regimes.check import check_sizes, flat_inputs
from iai_regimes.embedding import BilinearEmbedding
from iai_regimes.evidence import (
    NUM_COUNT_FEATURES,
    Evidence,
    count_features,
    masked_mean,
    moved_where,
    running_mean,
)
from iai_regimes.interfaces import Examples, Likelihood, SetEncoder
from iai_regimes.padding import finite_queries, observed_features, observed_inputs
from iai_regimes.regimes.answer import AnswerRegime, ImplicitState, zero_linear
from iai_regimes.update_form import UpdateForm

AnswerState = Literal["logits", "latents", "probabilities"]


class ImplicitEvidence(NamedTuple):
    """A minibatch, encoded without a query: kept, it answers queries that come later."""

    memory: Any
    statistic: Float[Tensor, "task summary"]
    num_observed: Float[Tensor, " task"]


class Implicit(AnswerRegime):
    """Amortizes f: each query's answer is refined by reading minibatches.

    No parameters of the task are formed. A query sees the minibatch, its own input and its own
    answer so far, and never another query. Inputs of the support and of the queries, where they
    have one size, are embedded by one map, which is most of a token at the start, beside a target's
    features at half its size: an encoder whose attention starts as a similarity then looks up the
    targets of similar examples from the first iteration on, and training has no plateau at chance.

    Args:
        encoder: Encodes the observations of a minibatch and reads them for a query.
        likelihood: What raw outputs say about a target.
        x_dim: Numbers of one flattened input of the support.
        query_dim: The same for a query; `x_dim` if None.
        state: What is carried: "logits" (raw outputs, before any softmax), "latents" (`encoder.dim`
            numbers, before the output head) or "probabilities" (after the softmax; only for a
            likelihood with `num_classes`).
        update: "annealed" (default), "residual" (the paper's) or "gated".
        summary_dim: Size of the running mean of learned features of all examples seen; 0 for none
            (the paper's state).
        count: Whether the update reads how many examples the state has seen; False for the paper's
            state.

    Raises:
        ValueError: If an option is unknown or does not fit the likelihood, or a size is out of
            range.

    Source:
        Mittal et al. (2025), arXiv 2510.11471: y_{i+1} = r([x, y_i], B_i). Ours: the evidence
        count, the annealed form, the summary. Probabilities move by their logarithm's change and
        are normalised again.
    """

    def __init__(
        self,
        encoder: SetEncoder,
        likelihood: Likelihood,
        *,
        x_dim: int,
        query_dim: int | None = None,
        state: AnswerState = "logits",
        update: UpdateForm = "annealed",
        summary_dim: int = 32,
        count: bool = True,
    ) -> None:
        query_dim = x_dim if query_dim is None else query_dim
        check_sizes(x_dim=x_dim, query_dim=query_dim)
        check_sizes(0, summary_dim=summary_dim)
        if state not in ("logits", "latents", "probabilities"):
            raise ValueError(
                f"`state` must be one of logits, latents, probabilities; got {state!r}."
            )
        if state == "probabilities" and not hasattr(likelihood, "num_classes"):
            raise ValueError("`state` can be probabilities only for a categorical likelihood.")
        dim, example_dim = encoder.dim, x_dim + likelihood.num_features
        answer_dim = dim if state == "latents" else likelihood.num_outputs
        super().__init__(likelihood, update, answer_dim)
        self.encoder, self.state, self.count = encoder, state, count
        self.x_dim, self.query_dim, self.summary_dim = x_dim, query_dim, summary_dim
        self.embed_input = nn.Linear(x_dim, dim)
        if query_dim != x_dim:
            self.embed_query_input = nn.Linear(query_dim, dim)
        self.embed_example = BilinearEmbedding(example_dim, dim)
        self.embed_query = BilinearEmbedding(query_dim + answer_dim + summary_dim, dim)
        if count:
            self.embed_count = nn.Linear(NUM_COUNT_FEATURES, dim)
        if summary_dim:
            self.statistic = BilinearEmbedding(example_dim, summary_dim, hidden_dim=dim)
        with torch.no_grad():
            self.embed_input.weight.normal_(std=x_dim**-0.5)
            _begin_small(self.embed_example, x_dim)
            self.embed_example.linear.weight[:, x_dim:].normal_(std=0.5)
            _begin_small(self.embed_query, query_dim)
        self.propose = zero_linear(dim, self.num_proposals)
        if state == "latents":
            self.head = nn.Linear(dim, likelihood.num_outputs)

    def init(self, num_tasks: int, query_x: Tensor | None = None) -> ImplicitState:
        """The learned answer to every query before anything is seen; gradients flow to it.

        Raises:
            ValueError: If there are no queries.
        """
        state = self._start(num_tasks, query_x, (self.summary_dim,))
        if self.state == "probabilities":
            return state._replace(answer=state.answer.softmax(-1))
        return state

    def encode(self, batch: Examples) -> ImplicitEvidence:
        """The minibatch, encoded once for any number of queries.

        Raises:
            ValueError: If there are no targets, or an input has not `x_dim` numbers.
        """
        x = flat_inputs("x", observed_inputs(batch), self.x_dim)
        inputs = torch.cat([x, observed_features(batch, self.likelihood)], dim=-1)
        tokens = self.embed_input(x) + self.embed_example(inputs)
        memory = self.encoder.encode(tokens, mask=batch.mask)
        statistic = inputs.new_zeros(len(inputs), 0)
        if self.summary_dim:
            statistic = masked_mean(self.statistic(inputs), batch.mask)
        return ImplicitEvidence(memory, statistic, batch.mask.sum(1).to(x.dtype))

    def update(
        self,
        state: ImplicitState,
        evidence: ImplicitEvidence,
        query_x: Tensor | None = None,
        fresh: bool = True,
    ) -> ImplicitState:
        """Every query's answer after one minibatch; with `fresh` False, of examples seen before.

        A task without an observed example in the minibatch keeps its answers. Gradients flow to the
        state.

        Raises:
            ValueError: If there are no queries, or not those that the state answers.
        """
        queries = finite_queries(_asked(state, query_x))[0]
        x = flat_inputs("query_x", queries, self.query_dim)
        told = Evidence(evidence.memory, evidence.num_observed, state.seen, fresh)
        summary = running_mean(state.summary, evidence.statistic, told)
        spread = summary[:, None].expand(-1, x.shape[1], -1)
        embed_input = self.embed_input if self.query_dim == self.x_dim else self.embed_query_input
        tokens = embed_input(x) + self.embed_query(torch.cat([x, state.answer, spread], dim=-1))
        if self.count:
            counts = count_features(told.seen, told.num_observed)
            tokens = tokens + self.embed_count(counts)[:, None]
        read = self.encoder.read(tokens, evidence.memory)
        if self.state != "probabilities":
            return self._moved(state, told, summary, read)
        logarithms = state._replace(answer=_log(state.answer))
        moved = self._moved(logarithms, told, summary, read)
        answer = moved_where(told.informed, moved.answer.softmax(-1), state.answer)
        return moved._replace(answer=answer)

    def predict(
        self, state: ImplicitState, query_x: Float[Tensor, "task query *x_shape"]
    ) -> Float[Tensor, "task query num_outputs"]:
        """Raw outputs for the queries that the state answers; NaN for one that is not finite.

        Gradients flow to the state.

        Raises:
            ValueError: If these are not as many queries as the state answers.
        """
        _, finite = finite_queries(_asked(state, query_x))
        outputs = state.answer
        if self.state == "latents":
            outputs = self.head(outputs)
        elif self.state == "probabilities":
            outputs = _log(outputs)
        return outputs.masked_fill(~finite[..., None], float("nan"))


def _asked(state: ImplicitState, query_x: Tensor | None) -> Tensor:
    expected = tuple(state.answer.shape[:2])
    if query_x is None or query_x.shape[:2] != expected:
        got = None if query_x is None else tuple(query_x.shape[:2])
        raise ValueError(
            "An implicit state answers the queries that it was started with, (task, query) = "
            f"{expected}; got {got}."
        )
    return query_x


def _begin_small(embedding: BilinearEmbedding, x_dim: int) -> None:
    """An input's own share of what it is embedded in starts at 0, and that of products at 1/10."""
    embedding.linear.weight[:, :x_dim] = 0.0
    embedding.products.weight.mul_(0.1)


def _log(probabilities: Tensor) -> Tensor:
    return probabilities.clamp(min=1e-12).log()
