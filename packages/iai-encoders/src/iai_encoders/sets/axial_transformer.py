"""A Transformer over the cells of a table: along its rows, then along its columns."""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from iai_encoders.block import Block
from iai_encoders.validation import check_cells, check_heads, check_sizes


class AxialTransformer(nn.Module):
    """A table of cells in, a vector for each column out, whatever the order of rows and columns.

    In each layer the cells of a row attend to one another, then those of a column; what a column
    has become is the mean over its rows. So the vectors follow the columns when these change
    places, and stay the same when the rows do. Any number of either will do: nothing has a
    position. Attention costs the rows times the square of the columns, and the other way round.

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
        Modeling", arXiv 2404.06969. They take the largest over the rows; a mean over minibatches of
        means is the mean over all the rows.

    Example:
        >>> encoder = AxialTransformer(dim=8, num_layers=1, num_heads=2)
        >>> encoder.encode(torch.zeros(3, 20, 5, 8)).shape  # 3 tables of 20 rows and 5 columns
        torch.Size([3, 5, 8])
    """

    def __init__(
        self, dim: int, num_layers: int, num_heads: int, ff_dim: int | None = None
    ) -> None:
        super().__init__()
        ff_dim = 4 * dim if ff_dim is None else ff_dim
        check_sizes(dim=dim, num_layers=num_layers, num_heads=num_heads, ff_dim=ff_dim)
        check_heads(dim, num_heads)
        self.dim = dim
        along_rows, along_columns = (
            nn.ModuleList(Block(dim, num_heads, ff_dim) for _ in range(num_layers))
            for _ in range(2)
        )
        # A ModuleList does not say of what it is.
        self.along_rows = cast(Sequence[Block], along_rows)
        self.along_columns = cast(Sequence[Block], along_columns)
        self.norm = nn.LayerNorm(dim)

    def encode(
        self,
        cells: Float[Tensor, "task n column dim"],
        *,
        mask: Bool[Tensor, "task n"] | None = None,
    ) -> Float[Tensor, "task column dim"]:
        """The vector of each column.

        Args:
            cells: The table of each task. What stands in a masked row, NaN included, reaches
                neither a vector nor a gradient.
            mask: True where a row is observed; None where all are.

        Returns:
            One vector a column, zeros for a table without an observed row; gradients flow to
            `cells`.

        Raises:
            ValueError: If `cells` or `mask` has the wrong shape, or `mask` is not bool.
        """
        check_cells(cells, mask, self.dim)
        shape = num_tasks, num_rows, num_columns, _ = cells.shape
        transposed = num_tasks, num_columns, num_rows, self.dim
        if mask is None:
            mask = torch.ones(num_tasks, num_rows, dtype=torch.bool, device=cells.device)
        if not num_rows:
            return cells.sum(1)
        x = cells.masked_fill(~mask[..., None, None], 0.0)
        # The rows of an empty table see each other: not every kernel has a softmax over nothing.
        visible = (mask | ~mask.any(1, keepdim=True)).repeat_interleave(num_columns, 0)
        for across, down in zip(self.along_rows, self.along_columns, strict=True):
            x = _attend(across, x.flatten(0, 1)).view(shape).transpose(1, 2)
            x = _attend(down, x.flatten(0, 1), visible[:, None, None]).view(transposed)
            x = x.transpose(1, 2)
        total: Tensor = self.norm(x).masked_fill(~mask[..., None, None], 0.0).sum(1)
        return total / mask.sum(1).clamp(min=1)[:, None, None]


def _attend(block: Block, x: Tensor, visible: Tensor | None = None) -> Tensor:
    query, key, value = block.project(x)
    return block.finish(x, F.scaled_dot_product_attention(query, key, value, visible))
