"""The implicit regime over tables: a query asks about a column, and the state is the answer."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn.functional import pad

from iai_regimes.check import check_sizes
from iai_regimes.embedding import BilinearEmbedding
from iai_regimes.evidence import (
    NUM_COUNT_FEATURES,
    Evidence,
    count_features,
    masked_mean,
    running_mean,
)
from iai_regimes.interfaces import Examples, Likelihood, TableEncoder
from iai_regimes.padding import finite_queries, observed_inputs
from iai_regimes.regimes.answer import AnswerRegime, ImplicitState, zero_linear
from iai_regimes.update_form import UpdateForm

_FEATURES = 5  # of a cell
_TINY = 1e-12


class ColumnEvidence(NamedTuple):
    """What a minibatch says of each column."""

    vectors: Float[Tensor, "task column dim"]
    num_observed: Float[Tensor, " task"]


class ImplicitColumns(AnswerRegime):
    """Amortizes f over tables of any number of columns: answers about columns, which move.

    An example is a row of the table. A query is the index of a column, and its answer says
    something about this column among the others: whether it is a leaf of the graph that made them,
    say. A minibatch of rows becomes a vector for each column; the running mean of a column's
    vectors, the latest one and the present answer give the next answer. Columns in another order
    have the same answers in that order.

    A cell enters as five numbers: itself, as asinh; itself less its column's mean over the column's
    deviation, both of the minibatch; what regression on the other columns leaves of that; and the
    logarithms of the deviation and of the share of the column that is left.

    Args:
        encoder: Makes vectors of tables.
        likelihood: What outputs say about the target of a column; the rows have none, so this is
            `Unlabelled`.
        update: "annealed" (default), "residual" (the paper's) or "gated".
        hidden_dim: Width of the network that moves an answer; twice the encoder's by default.

    Raises:
        ValueError: If `update` is unknown, a size is below 1, or examples would need targets.

    Source:
        Mittal et al. (2025), arXiv 2510.11471, of topological orders. Ours: the evidence count,
        the annealed form, the running mean, and the regression on the other columns.
    """

    def __init__(
        self,
        encoder: TableEncoder,
        likelihood: Likelihood,
        *,
        update: UpdateForm = "annealed",
        hidden_dim: int | None = None,
    ) -> None:
        if likelihood.num_features:
            raise ValueError("`likelihood` must be Unlabelled: the rows of a table have no target.")
        dim = encoder.dim
        hidden_dim = 2 * dim if hidden_dim is None else hidden_dim
        check_sizes(hidden_dim=hidden_dim)
        super().__init__(likelihood, update, likelihood.num_outputs)
        self.encoder = encoder
        self.embed_cell = BilinearEmbedding(_FEATURES, dim)
        in_dim = 2 * dim + likelihood.num_outputs + NUM_COUNT_FEATURES
        self.embed_query = BilinearEmbedding(in_dim, hidden_dim)
        self.hidden = nn.Sequential(nn.GELU(), nn.Linear(hidden_dim, hidden_dim), nn.GELU())
        self.propose = zero_linear(hidden_dim, self.num_proposals)

    def init(self, num_tasks: int, query_x: Tensor | None = None) -> ImplicitState:
        """The learned answer to every query before anything is seen; gradients flow to it.

        Raises:
            ValueError: If there are no queries.
        """
        num_queries = 0 if query_x is None else query_x.shape[1]
        return self._start(num_tasks, query_x, (num_queries, self.encoder.dim))

    def encode(self, batch: Examples) -> ColumnEvidence:
        """The vector of each column of a minibatch, for any number of queries.

        Raises:
            ValueError: If an example is not a row of numbers, at least one.
        """
        x = observed_inputs(batch)
        if x.dim() != 3:
            raise ValueError(f"`x` must have shape (task, n, column); got {tuple(x.shape)}.")
        if not x.shape[2]:
            raise ValueError("`x` must have at least one column; got none.")
        # By the largest, if that is above 1, so that no square overflows.
        size = pad(x.abs(), (0, 0, 1, 0), value=1.0).amax(1, keepdim=True)
        scaled = x / size
        centred = scaled - masked_mean(scaled, batch.mask)[:, None]
        tiny = (_TINY / size[:, 0].square()).clamp(min=1e-30)
        deviation = (masked_mean(centred.square(), batch.mask) + tiny).sqrt()[:, None]
        z = (centred / deviation).masked_fill(~batch.mask[..., None], 0.0)
        rest, unexplained = beside_the_others(z, batch.mask)
        of_columns = torch.stack([deviation.log() + size.log(), unexplained[:, None].log()], dim=-1)
        of_cells = torch.stack([z, rest, x.asinh()], dim=-1)
        spread = of_columns.expand(-1, x.shape[1], -1, -1)
        cells = self.embed_cell(torch.cat([of_cells, spread], dim=-1))
        vectors = self.encoder.encode(cells, mask=batch.mask)
        return ColumnEvidence(vectors, batch.mask.sum(1).to(x.dtype))

    def update(
        self,
        state: ImplicitState,
        evidence: ColumnEvidence,
        query_x: Tensor | None = None,
        fresh: bool = True,
    ) -> ImplicitState:
        """Every query's answer after one minibatch; with `fresh` False, of rows seen before.

        A task without an observed row in the minibatch keeps its answers. The answer to a query of
        a column that is not there is NaN. Gradients flow to the state.

        Raises:
            ValueError: If there are no queries, or not those that the state answers.
        """
        index, _ = _columns(state, query_x)
        told = Evidence(evidence.vectors, evidence.num_observed, state.seen, fresh)
        column = index.clamp(0, evidence.vectors.shape[1] - 1)
        vectors = evidence.vectors.gather(1, column[..., None].expand_as(state.summary))
        summary = running_mean(state.summary, vectors, told)
        counts = count_features(told.seen, told.num_observed)[:, None]
        counts = counts.expand(-1, column.shape[1], -1)
        token = self.embed_query(torch.cat([vectors, summary, state.answer, counts], dim=-1))
        moved = self._moved(state, told, summary, token + self.hidden(token))
        absent = (index != column)[..., None]
        return moved._replace(answer=moved.answer.masked_fill(absent, float("nan")))

    def predict(
        self, state: ImplicitState, query_x: Float[Tensor, "task query 1"]
    ) -> Float[Tensor, "task query num_outputs"]:
        """Raw outputs for the queries that the state answers; NaN for one that is not finite.

        Gradients flow to the state.

        Raises:
            ValueError: If these are not as many queries as the state answers.
        """
        _, finite = _columns(state, query_x)
        return state.answer.masked_fill(~finite[..., None], float("nan"))


def beside_the_others(
    z: Float[Tensor, "task n column"], mask: Bool[Tensor, "task n"]
) -> tuple[Float[Tensor, "task n column"], Float[Tensor, "task column"]]:
    """What ridge regression on the other columns leaves of each, and the share that it leaves.

    With P the inverse of the second moments plus I / n, these are z P over the root of its diagonal
    and one over its diagonal: all the regressions at once.

    Args:
        z: Columns of mean 0 and deviation 1, zeros where masked.
        mask: True where a row is observed.

    Returns:
        The residuals over the root of their expected size, and that size, in (0, 1 + 1 / n].
        Gradients flow.

    Source:
        Of a linear model with noise of one size, the leaves are where most is left (Chen, Drton,
        Wang, 2019, "On causal discovery with an equal-variance assumption", arXiv 1807.03419).

    >>> z = torch.tensor([[[1.0, 1.0], [-1.0, -1.0]]])
    >>> beside_the_others(z, torch.ones(1, 2, dtype=torch.bool))[1]  # 5/4 of (3/2)^-1
    tensor([[0.8333, 0.8333]])
    """
    with torch.autocast(z.device.type, enabled=False):  # what is left may be less than bf16 sees
        z = z.to(torch.promote_types(z.dtype, torch.float32))
        num_rows = mask.sum(1).clamp(min=1).to(z.dtype)[:, None, None]
        eye = torch.eye(z.shape[2], dtype=z.dtype, device=z.device)
        precision = torch.linalg.inv((z.mT @ z + eye) / num_rows)
        size = 1 / precision.diagonal(dim1=1, dim2=2)
        return z @ precision * size.sqrt()[:, None], size


def _columns(
    state: ImplicitState, query_x: Tensor | None
) -> tuple[Int64[Tensor, "task query"], Tensor]:
    """The index of the column that each query names, and which queries are finite."""
    expected = (*state.answer.shape[:2], 1)
    if query_x is None or query_x.shape != expected:
        got = None if query_x is None else tuple(query_x.shape)
        raise ValueError(
            "An implicit state answers the queries that it was started with, each the index of "
            f"a column, {expected}; got {got}."
        )
    index, finite = finite_queries(query_x)
    return index[..., 0].round().long(), finite
