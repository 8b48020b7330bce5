"""A Transformer over the cells of a table: along its rows, then along its columns."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from iai_encoders.block import Block, make_blocks
from iai_encoders.validation import as_weights, check_tokens


class AxialTransformer(nn.Module):
    """Maps a table of cells to a vector for each column, whatever the order of rows and columns.

    In each layer the cells of a row attend to one another, then the cells of a column. The vector
    of a column is the mean over its rows. Permuting the columns permutes the vectors; permuting the
    rows changes nothing. There are no positions, so a table may have any number of rows and
    columns. The cost of attention is rows x columns^2 + columns x rows^2.

    Args:
        dim: Numbers a cell, and a column's vector.
        num_layers: Layers, at least 1, each of two blocks.
        num_heads: Heads, which share `dim` evenly.
        ff_dim: Hidden units of the feed-forward layers; ``4 * dim`` where None.

    Raises:
        ValueError: If a size is below 1, or `num_heads` does not divide `dim`.

    Source:
        Lorenz, Rothfuss, Schölkopf, 2022, "Amortized Inference for Causal Structure Learning",
        arXiv 2205.12934, and Scetbon et al., 2024, "A Fixed-Point Approach for Causal Generative
        Modeling", arXiv 2404.06969. They take the maximum over the rows; a mean can be continued
        over minibatches of rows.

    >>> encoder = AxialTransformer(dim=8, num_layers=1, num_heads=2)
    >>> encoder.encode(torch.zeros(3, 20, 5, 8)).shape  # 3 tables of 20 rows and 5 columns
    torch.Size([3, 5, 8])
    """

    def __init__(
        self, dim: int, num_layers: int, num_heads: int, ff_dim: int | None = None
    ) -> None:
        super().__init__()
        self.dim = dim
        self.along_rows = make_blocks(dim, num_layers, num_heads, ff_dim)
        self.along_columns = make_blocks(dim, num_layers, num_heads, ff_dim)
        self.norm = nn.LayerNorm(dim)

    def encode(
        self,
        cells: Float[Tensor, "task n column dim"],
        *,
        mask: Bool[Tensor, "task n"] | None = None,
    ) -> Float[Tensor, "task column dim"]:
        """The vector of each column.

        Args:
            cells: The table of each task. Masked rows, NaN included, change neither a vector nor a
                gradient.
            mask: True where a row is observed; None where all are.

        Returns:
            One vector a column, zeros for a table without an observed row; gradients flow to
            `cells`.

        Raises:
            ValueError: If `cells` or `mask` has the wrong shape, or `mask` is not bool.
        """
        check_tokens(cells, mask, self.dim, "task, n, column", "cells")
        cells = as_weights(cells, self.norm.weight)
        shape = num_tasks, num_rows, num_columns, _ = cells.shape
        transposed = num_tasks, num_columns, num_rows, self.dim
        if mask is None:
            mask = torch.ones(num_tasks, num_rows, dtype=torch.bool, device=cells.device)
        if not num_rows:
            return cells.sum(1)
        x = cells.masked_fill(~mask[..., None, None], 0.0)
        # Rows of an empty table attend to each other: not every kernel has a softmax of no scores.
        visible = (mask | ~mask.any(1, keepdim=True)).repeat_interleave(num_columns, 0)
        for across, down in zip(self.along_rows, self.along_columns, strict=True):
            x = _attend(across, x.flatten(0, 1)).view(shape).transpose(1, 2)
            x = _attend(down, x.flatten(0, 1), visible[:, None, None]).view(transposed)
            x = x.transpose(1, 2)
        total: Tensor = self.norm(x).masked_fill(~mask[..., None, None], 0.0).sum(1)
        return total / mask.sum(1).clamp(min=1)[:, None, None]


def _attend(block: Block, x: Tensor, visible: Tensor | None = None) -> Tensor:
    query, key, value = block.project(x)
    after: Tensor = block.finish(x, F.scaled_dot_product_attention(query, key, value, visible))
    return after
