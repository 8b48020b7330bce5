"""The implicit regime: the state is the answer to each query."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iai_regimes.check import check_role, check_sizes, flat_inputs
from iai_regimes.embedding import BilinearEmbedding
from iai_regimes.evidence import (
    NUM_COUNT_FEATURES,
    Evidence,
    masked_mean,
    running_mean,
)
from iai_regimes.interfaces import Examples, Likelihood, SetEncoder
from iai_regimes.padding import finite_queries, observed_features, observed_inputs
from iai_regimes.precision import as_module, as_weights, at_least_single
from iai_regimes.regimes.answer import AnswerRegime, AnswerState, ImplicitState
from iai_regimes.scale import shortened, within_reach
from iai_regimes.update_form import UpdateForm
from iai_regimes.zero_linear import zero_linear


class ImplicitEvidence(NamedTuple):
    """A minibatch, encoded without the queries, so that it can be kept for later ones."""

    memory: Any
    statistic: Float[Tensor, "task summary"]
    num_observed: Float[Tensor, " task"]


class Implicit(AnswerRegime):
    """Amortizes f: each query's answer is refined by reading minibatches.

    A query sees the minibatch, its own input and its own answer so far, and never another query.
    If inputs of the support and of the queries have one size, one map embeds both. It dominates the
    tokens before training; a target's features are half as large. So if the encoder's attention is
    initialised as a similarity, it looks up the targets of similar examples from the first
    iteration on, and training has no plateau at chance.

    Args:
        encoder: Encodes the examples of a minibatch and reads them for a query.
        likelihood: Compares raw outputs with targets.
        x_dim: Numbers of one flattened input of the support.
        query_dim: The same for a query; `x_dim` if None.
        state: The form of an answer: "logits" (raw outputs, before any softmax), "latents"
            (`encoder.dim` numbers, before the output head) or "probabilities" (after the softmax;
            only for a likelihood with `num_classes`).
        update: "annealed" (default), "residual" (the paper's) or "gated".
        summary_dim: Size of the running mean of learned features of all examples seen; 0 for none
            (the paper's state).
        count: Whether the update reads how many examples the state has seen; False for the paper's
            state.

    Raises:
        ValueError: If an option is unknown or does not fit the likelihood, or a size is out of
            range.
        TypeError: If `encoder` or `likelihood` lacks a member of its role.

    Source:
        Mittal et al. (2025), arXiv 2510.11471: y_{i+1} = r([x, y_i], B_i). Ours: the evidence
        count, the annealed form, the summary. The update of probabilities moves their logarithms
        and normalises them.
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
        check_role(SetEncoder, encoder=encoder)
        check_role(Likelihood, likelihood=likelihood)
        dim, example_dim = encoder.dim, x_dim + likelihood.num_features
        super().__init__(likelihood, state, update, dim)
        query_dim = x_dim if query_dim is None else query_dim
        check_sizes(x_dim=x_dim, query_dim=query_dim)
        check_sizes(0, summary_dim=summary_dim)
        self.encoder, self.count = encoder, count
        self.x_dim, self.query_dim, self.summary_dim = x_dim, query_dim, summary_dim
        self.embed_input = nn.Linear(x_dim, dim)
        if query_dim != x_dim:
            self.embed_query_input = nn.Linear(query_dim, dim)
        self.embed_example = BilinearEmbedding(example_dim, dim)
        self.embed_query = BilinearEmbedding(query_dim + self.answer_dim + summary_dim, dim)
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

    def encode(self, batch: Examples) -> ImplicitEvidence:
        """The minibatch, encoded once for any number of queries.

        Raises:
            ValueError: If there are no targets, or an input has not `x_dim` numbers.
        """
        x = flat_inputs("x", observed_inputs(batch), self.x_dim)
        inputs = torch.cat([x, observed_features(batch, self.likelihood)], dim=-1)
        tokens = _embed(self.embed_input, x) + self.embed_example(inputs)
        tokens = as_module(tokens, self.encoder)
        memory = self.encoder.encode(tokens, mask=batch.mask)
        statistic = inputs.new_zeros(len(inputs), 0)
        if self.summary_dim:
            statistic = masked_mean(self.statistic(inputs), batch.mask)
        num_observed = batch.mask.sum(1).to(at_least_single(x).dtype)
        return ImplicitEvidence(memory, statistic, num_observed)

    def summary(self, answer: Float[Tensor, "task query answer"]) -> Float[Tensor, "task summary"]:
        """Zeros, one vector a task."""
        return answer.new_zeros(len(answer), self.summary_dim)

    def read(
        self, state: ImplicitState, evidence: Evidence, query_x: Tensor
    ) -> tuple[Float[Tensor, "task summary"], Float[Tensor, "task query dim"]]:
        """What the encoder reads for each query's input, its answer so far and the summary.

        Raises:
            ValueError: If the encoder does not give `dim` numbers for each query.
        """
        x = flat_inputs("query_x", finite_queries(query_x)[0], self.query_dim)
        summary = running_mean(state.summary, evidence.encoded.statistic, evidence)
        spread = summary[:, None].expand(-1, x.shape[1], -1)
        embed_input = self.embed_input if self.query_dim == self.x_dim else self.embed_query_input
        query = torch.cat([x, state.answer, spread], dim=-1)
        tokens = _embed(embed_input, x) + self.embed_query(query)
        if self.count:
            tokens = tokens + _embed(self.embed_count, evidence.features)[:, None]
        tokens = as_module(tokens, self.encoder)
        read = self.encoder.read(tokens, evidence.encoded.memory)
        if read.shape != tokens.shape:
            raise ValueError(
                f"`encoder` must read (task, query, dim), here {tuple(tokens.shape)}; "
                f"it gave {tuple(read.shape)}."
            )
        return summary, shortened(read)


def _embed(layer: nn.Linear, values: Tensor) -> Tensor:
    embedded: Tensor = layer(within_reach(as_weights(values, layer.weight)))
    return embedded


def _begin_small(embedding: BilinearEmbedding, x_dim: int) -> None:
    """An input's own share of what it is embedded in starts at 0, and that of products at 1/10."""
    embedding.linear.weight[:, :x_dim] = 0.0
    embedding.products.weight.mul_(0.1)
