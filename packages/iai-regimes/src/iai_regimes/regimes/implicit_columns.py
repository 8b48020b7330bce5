"""The implicit regime over tables: a query asks about a column, and the state is the answer."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import pad

from iai_regimes.check import check_role, check_sizes, flat_inputs, reading
from iai_regimes.embedding import BilinearEmbedding
from iai_regimes.evidence import (
    NUM_COUNT_FEATURES,
    Evidence,
    masked_mean,
    running_mean,
)
from iai_regimes.interfaces import Examples, Likelihood, TableEncoder
from iai_regimes.padding import finite_queries, observed_inputs
from iai_regimes.precision import as_module, at_least_single
from iai_regimes.regimes.answer import AnswerRegime, ImplicitState
from iai_regimes.scale import shortened
from iai_regimes.update_form import UpdateForm
from iai_regimes.zero_linear import zero_linear

_FEATURES = 5  # of a cell
_TINY = 1e-12


class ColumnEvidence(NamedTuple):
    """A vector for each column of a minibatch."""

    vectors: Float[Tensor, "task column dim"]
    num_observed: Float[Tensor, " task"]


class ImplicitColumns(AnswerRegime):
    """Amortizes f over tables with any number of columns: refines answers about columns.

    An example is a row of the table. A query is the index of a column, and its answer says
    something about this column among the others: whether it is a leaf of the graph that made them,
    say. The encoder turns a minibatch of rows into a vector for each column. A network maps this
    vector, the running mean of the column's vectors and the answer so far to the next answer. When
    the columns are permuted, so are the answers.

    Five numbers describe a cell: its asinh; its value standardised by the column's mean and
    deviation in the minibatch; the residual of that value in a regression on the other columns; the
    logarithm of the column's deviation, and that of its residual variance.

    Args:
        encoder: Maps the cells of a table to vectors of its columns.
        likelihood: Compares outputs with the target of a column. Rows have no targets, so this is
            `Unlabelled`.
        update: "annealed" (default), "residual" (the paper's) or "gated".
        hidden_dim: Width of the network that moves an answer; twice the encoder's by default.

    Raises:
        ValueError: If `update` is unknown, a size is below 1, or examples would need targets.
        TypeError: If `encoder` or `likelihood` lacks a member of its role.

    Source:
        Mittal et al. (2025), arXiv 2510.11471, of topological orders. Ours: the evidence count,
        the annealed form, the running mean, and the regression on the other columns.
    """

    query_dim = 1

    def __init__(
        self,
        encoder: TableEncoder,
        likelihood: Likelihood,
        *,
        update: UpdateForm = "annealed",
        hidden_dim: int | None = None,
    ) -> None:
        check_role(TableEncoder, encoder=encoder)
        check_role(Likelihood, likelihood=likelihood)
        if likelihood.num_features:
            raise ValueError("`likelihood` must be Unlabelled: the rows of a table have no target.")
        dim = encoder.dim
        hidden_dim = 2 * dim if hidden_dim is None else hidden_dim
        check_sizes(hidden_dim=hidden_dim)
        super().__init__(likelihood, "logits", update, dim)
        self.encoder = encoder
        self.embed_cell = BilinearEmbedding(_FEATURES, dim)
        in_dim = 2 * dim + likelihood.num_outputs + NUM_COUNT_FEATURES
        self.embed_query = BilinearEmbedding(in_dim, hidden_dim)
        self.hidden = nn.Sequential(nn.GELU(), nn.Linear(hidden_dim, hidden_dim), nn.GELU())
        self.propose = zero_linear(hidden_dim, self.num_proposals)

    def encode(self, batch: Examples) -> ColumnEvidence:
        """The vector of each column of a minibatch, for any number of queries.

        Raises:
            ValueError: If an example is not a row of numbers, at least one, or the encoder does not
                give a vector for each column.
        """
        x = at_least_single(observed_inputs(batch))
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
        cells = as_module(cells, self.encoder)
        with reading("encoder", self.encoder, cells):
            vectors = self.encoder.encode(cells, mask=batch.mask)
        expected = (len(x), x.shape[2], self.encoder.dim)
        if not isinstance(vectors, Tensor) or vectors.shape != expected:
            got = tuple(vectors.shape) if isinstance(vectors, Tensor) else type(vectors).__name__
            raise ValueError(
                f"`encoder` must give a vector for each column, (task, column, dim) = {expected}; "
                f"got {got}."
            )
        vectors = shortened(vectors)
        return ColumnEvidence(vectors, batch.mask.sum(1).to(x.dtype))

    def summary(
        self, answer: Float[Tensor, "task query answer"]
    ) -> Float[Tensor, "task query dim"]:
        """Zeros, a vector for the column of each query."""
        return answer.new_zeros(*answer.shape[:2], self.encoder.dim)

    def read(
        self, state: ImplicitState, evidence: Evidence, query_x: Tensor
    ) -> tuple[Float[Tensor, "task query dim"], Float[Tensor, "task query hidden"]]:
        """A network's output for each query's column; NaN for one that the table does not have."""
        index = flat_inputs("query_x", finite_queries(query_x)[0], 1).round().long()
        vectors = evidence.encoded.vectors
        column = index.clamp(0, vectors.shape[1] - 1)
        vectors = vectors.gather(1, column.expand_as(state.summary))
        summary = running_mean(state.summary, vectors, evidence)
        counts = evidence.features[:, None]
        counts = counts.expand(-1, column.shape[1], -1)
        token = self.embed_query(torch.cat([vectors, summary, state.answer, counts], dim=-1))
        read = token + self.hidden(token)
        return summary, read.masked_fill(index != column, float("nan"))


def beside_the_others(
    z: Float[Tensor, "task n column"], mask: Bool[Tensor, "task n"]
) -> tuple[Float[Tensor, "task n column"], Float[Tensor, "task column"]]:
    """The residual of each column in a ridge regression on the others, and its expected square.

    With P = (z' z / n + I / n)^-1, the expected squares are 1 / diag(P), and the residuals over
    their roots z P diag(P)^-1/2: all the regressions at once.

    Args:
        z: Columns of mean 0 and deviation 1, zeros where masked.
        mask: True where a row is observed.

    Returns:
        The residuals over the roots of their expected squares, and these, in (0, 1 + 1 / n].
        Gradients flow.

    Source:
        In a linear model with equal noise variances, leaves have the largest residuals (Chen,
        Drton, Wang, 2019, "On causal discovery with an equal-variance assumption", arXiv
        1807.03419).

    >>> z = torch.tensor([[[1.0, 1.0], [-1.0, -1.0]]])
    >>> beside_the_others(z, torch.ones(1, 2, dtype=torch.bool))[1]  # 5/4 of (3/2)^-1
    tensor([[0.8333, 0.8333]])
    """
    with torch.autocast(z.device.type, enabled=False):  # residuals may be too small for bf16
        z = z.to(torch.promote_types(z.dtype, torch.float32))
        num_rows = mask.sum(1).clamp(min=1).to(z.dtype)[:, None, None]
        eye = torch.eye(z.shape[2], dtype=z.dtype, device=z.device)
        precision = torch.linalg.inv((z.mT @ z + eye) / num_rows)
        size = 1 / precision.diagonal(dim1=1, dim2=2)
        return z @ precision * size.sqrt()[:, None], size
