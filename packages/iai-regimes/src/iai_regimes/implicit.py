"""The implicit regime: the state is the answer to each query."""

from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iai_regimes.check import check_examples
from iai_regimes.embedding import BilinearEmbedding
from iai_regimes.evidence import (
    NUM_COUNT_FEATURES,
    annealed_gain,
    count_features,
    masked_mean,
    refresh_summary,
)
from iai_regimes.interfaces import Examples, Likelihood, SetEncoder
from iai_regimes.objective import mean_loss, observed_inputs, targets
from iai_regimes.update_form import UpdateForm, heads, move

AnswerState = Literal["logits", "latents", "probabilities"]


class ImplicitState(NamedTuple):
    """The answer to each query, the running summary of the task, and the evidence behind both."""

    answer: Float[Tensor, "task query answer"]
    summary: Float[Tensor, "task summary"]
    seen: Float[Tensor, " task"]  # distinct examples


class ImplicitEvidence(NamedTuple):
    """A minibatch, encoded without a query: kept, it answers queries that come later."""

    memory: Any
    statistic: Float[Tensor, "task summary"]
    count: Float[Tensor, " task"]


class Implicit(nn.Module):
    """Amortizes f: each query's answer is refined by reading minibatches; no parameters of the task are formed.

    A query sees the minibatch, its own input and its own answer so far, and never another query. Inputs of the support
    and of the queries, where they have one size, are embedded by one map: an encoder whose attention starts as a
    similarity then looks up the labels of similar examples from the first iteration on, and training
    has no plateau at chance.

    Args:
        encoder: Encodes the observations of a minibatch and reads them for a query.
        likelihood: What raw outputs say about a target.
        x_dim: Numbers in one flattened input of the support.
        query_dim: The same for a query; `x_dim` if None.
        state: What is carried: "logits" (raw outputs, before any softmax), "latents" (`encoder.dim` numbers, before
            the output head) or "probabilities" (categorical only: after the softmax).
        update: "annealed" (default), "residual" (the paper's) or "gated".
        summary_dim: Size of the running mean of learned features of all examples seen; 0 for none (the paper's state).
        count: Whether the update reads how many examples the state has seen; False for the paper's state.

    Raises:
        ValueError: If an option is unknown or does not fit the likelihood, or a size is out of range.

    Source:
        Mittal et al. (2025), arXiv 2510.11471: y_{i+1} = r([x, y_i], B_i). Ours: the evidence count, the annealed form,
        the summary. Probabilities move by their logarithm's change and are normalised again.
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
        super().__init__()
        if state not in ("logits", "latents", "probabilities"):
            raise ValueError(f"`state` must be logits, latents or probabilities; got {state!r}.")
        if state == "probabilities" and not hasattr(likelihood, "num_classes"):
            raise ValueError("`state` can be probabilities only for a categorical likelihood.")
        query_dim = x_dim if query_dim is None else query_dim
        for name, size, least in (
            ("x_dim", x_dim, 1),
            ("query_dim", query_dim, 1),
            ("summary_dim", summary_dim, 0),
        ):
            if size < least:
                raise ValueError(f"`{name}` must be at least {least}; got {size}.")
        self.encoder, self.likelihood = encoder, likelihood
        self.state, self.update_form, self.summary_dim, self.count = state, update, summary_dim, count
        dim = encoder.dim
        self.answer_dim = dim if state == "latents" else likelihood.num_outputs
        self.start = nn.Parameter(torch.zeros(self.answer_dim))
        self.embed_input = nn.Linear(x_dim, dim)
        self.embed_query_input = self.embed_input if query_dim == x_dim else nn.Linear(query_dim, dim)
        self.embed_example = BilinearEmbedding(x_dim + likelihood.num_features, dim)
        self.embed_query = BilinearEmbedding(query_dim + self.answer_dim + summary_dim, dim)
        if count:
            self.embed_count = nn.Linear(NUM_COUNT_FEATURES, dim)
        if summary_dim:
            self.statistic = BilinearEmbedding(
                x_dim + likelihood.num_features, summary_dim, hidden_dim=dim
            )
        self.num_heads = heads(update)
        self.propose = nn.Linear(dim, self.answer_dim * self.num_heads)
        nn.init.zeros_(self.propose.weight)
        nn.init.zeros_(self.propose.bias)
        if state == "latents":
            self.head = nn.Linear(dim, likelihood.num_outputs)

    @property
    def needs_query(self) -> bool:
        """True: the state is the answer to given queries."""
        return True

    def init(self, num_tasks: int, query_x: Tensor | None = None) -> ImplicitState:
        """The learned answer to every query before anything is seen; gradients flow to it.

        Raises:
            ValueError: If there are no queries.
        """
        if query_x is None:
            raise ValueError("An implicit state is the answer to given queries; give `query_x`.")
        answer = self.start.expand(num_tasks, query_x.shape[1], -1)
        if self.state == "probabilities":
            answer = answer.softmax(-1)
        summary = answer.new_zeros(num_tasks, self.summary_dim)
        return ImplicitState(answer, summary, answer.new_zeros(num_tasks))

    def encode(self, batch: Examples) -> ImplicitEvidence:
        """The minibatch, encoded once for any number of queries."""
        x = observed_inputs(batch).flatten(2)
        y = self.likelihood.features(targets(batch)).to(x.dtype)
        inputs = torch.cat([x, y.masked_fill(~batch.mask[..., None], 0.0)], dim=-1)
        tokens = self.embed_input(x) + self.embed_example(inputs)
        memory = self.encoder.encode(tokens, mask=batch.mask)
        if self.summary_dim:
            statistic = masked_mean(self.statistic(inputs), batch.mask)
        else:
            statistic = inputs.new_zeros(inputs.shape[0], 0)
        return ImplicitEvidence(memory, statistic, batch.mask.sum(1).to(x.dtype))

    def update(
        self,
        state: ImplicitState,
        evidence: ImplicitEvidence,
        query_x: Tensor | None = None,
        fresh: bool = True,
    ) -> ImplicitState:
        """Every query's answer after one minibatch; `fresh` False says that its examples were seen before.

        A task without an observed example in the minibatch keeps its answers. Gradients flow to the state.

        Raises:
            ValueError: If there are no queries, or not those that the state answers.
        """
        query_x = self._queries(state, query_x)
        count = evidence.count
        summary = refresh_summary(state.summary, evidence.statistic, state.seen, count, fresh)
        spread = summary[:, None].expand(-1, query_x.shape[1], -1)
        x = query_x.flatten(2)
        tokens = self.embed_query_input(x) + self.embed_query(torch.cat([x, state.answer, spread], -1))
        if self.count:
            tokens = tokens + self.embed_count(count_features(state.seen, count))[:, None]
        read = self.propose(self.encoder.read(tokens, evidence.memory))
        proposal = read.split(self.answer_dim, dim=-1)
        gain = annealed_gain(state.seen, count)
        if self.state == "probabilities":
            logits = state.answer.clamp(min=1e-12).log()
            moved = move(self.update_form, logits, proposal, gain).softmax(-1)
            answer = torch.where(count[:, None, None] > 0, moved, state.answer)
        else:
            answer = move(self.update_form, state.answer, proposal, gain)
        seen = state.seen + count if fresh else state.seen
        return ImplicitState(answer, summary, seen)

    def predict(
        self, state: ImplicitState, query_x: Float[Tensor, "task query *x_shape"]
    ) -> Float[Tensor, "task query num_outputs"]:
        """Raw outputs for the queries that the state answers; gradients flow to the state.

        Raises:
            ValueError: If these are not as many queries as the state answers.
        """
        self._queries(state, query_x)
        if self.state == "latents":
            outputs: Tensor = self.head(state.answer)
            return outputs
        if self.state == "probabilities":
            return state.answer.clamp(min=1e-12).log()
        return state.answer

    def loss(
        self, outputs: Float[Tensor, "task query num_outputs"], query: Examples
    ) -> Float[Tensor, " task"]:
        """Mean negative log-likelihood of each task's observed queries, in nats."""
        return mean_loss(self.likelihood, outputs, query)

    def validate(self, batch: Examples) -> None:
        """Raises ValueError for examples that are not finite or whose classes are out of range."""
        check_examples(batch, self.likelihood)

    @staticmethod
    def _queries(state: ImplicitState, query_x: Tensor | None) -> Tensor:
        if query_x is None or query_x.shape[1] != state.answer.shape[1]:
            got = "none" if query_x is None else str(query_x.shape[1])
            raise ValueError(
                f"An implicit state answers the {state.answer.shape[1]} queries that it was started with; got {got}."
            )
        return query_x
