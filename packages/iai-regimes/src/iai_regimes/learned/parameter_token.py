"""Adapted parameters as tokens: one for each output row, long rows in chunks."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import pad

from iai_regimes.check import check_sizes


class ParameterTokens:
    """Cuts raveled parameters into tokens of at most `chunk` numbers, and joins them again.

    A parameter of shape (rows, ...) has tokens for each row; a vector or a scalar is one row. A row
    of more than `chunk` numbers becomes several tokens. Short tokens are padded with zeros, so
    `join(split(theta))` is `theta`.

    Args:
        shapes: Shape of each parameter, in the order in which they are raveled.
        chunk: Largest number of parameters in a token.

    Raises:
        ValueError: If `chunk` is below 1, or the shapes hold no number.

    >>> tokens = ParameterTokens({"weight": torch.Size([2, 3]), "bias": torch.Size([2])}, chunk=4)
    >>> tokens.split(torch.arange(8.0)[None]).tolist()
    [[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0], [6.0, 7.0, 0.0]]]
    """

    def __init__(self, shapes: Mapping[str, torch.Size], *, chunk: int = 64) -> None:
        check_sizes(chunk=chunk)
        matrices = [
            shape if len(shape) > 1 else torch.Size([1, *shape]) for shape in shapes.values()
        ]
        sizes = [(matrix[0], matrix[1:].numel()) for matrix in matrices]
        present = [width for rows, width in sizes if rows * width]
        if not present:
            raise ValueError("`shapes` must hold at least one number; got none.")
        self.token_dim = min(chunk, max(present))
        # Of each parameter: its rows, the numbers of a row, and the tokens of a row.
        self._layout = [(rows, width, math.ceil(width / self.token_dim)) for rows, width in sizes]
        self.num_tokens = sum(rows * chunks for rows, _, chunks in self._layout)

    def rows(self, num_rows: int) -> Int64[Tensor, " token"]:
        """The row of each token of the matrices with `num_rows` rows; -1 for other tokens.

        >>> tokens = ParameterTokens({"weight": torch.Size([2, 3]), "bias": torch.Size([2])})
        >>> tokens.rows(2).tolist()
        [0, 1, -1]
        """
        rows = [
            torch.arange(rows).repeat_interleave(chunks)
            if rows == num_rows
            else torch.full((rows * chunks,), -1)
            for rows, _, chunks in self._layout
        ]
        return torch.cat(rows)

    def split(self, theta: Float[Tensor, "task p"]) -> Float[Tensor, "task token token_dim"]:
        """The tokens of raveled parameters, zeros where a token is short; gradients flow."""
        pieces = torch.split(theta, [rows * width for rows, width, _ in self._layout], dim=1)
        tokens = []
        for piece, (rows, width, chunks) in zip(pieces, self._layout, strict=True):
            matrix = piece.reshape(len(theta), rows, width)
            padded = pad(matrix, (0, chunks * self.token_dim - width))
            tokens.append(padded.reshape(len(theta), rows * chunks, self.token_dim))
        return torch.cat(tokens, dim=1)

    def join(self, tokens: Float[Tensor, "task token token_dim"]) -> Float[Tensor, "task p"]:
        """The raveled parameters of tokens, whatever stands in their padding; gradients flow."""
        pieces = torch.split(tokens, [rows * chunks for rows, _, chunks in self._layout], dim=1)
        parameters = []
        for piece, (rows, width, chunks) in zip(pieces, self._layout, strict=True):
            padded = piece.reshape(len(tokens), rows, chunks * self.token_dim)
            parameters.append(padded[..., :width].flatten(1))
        return torch.cat(parameters, dim=1)
