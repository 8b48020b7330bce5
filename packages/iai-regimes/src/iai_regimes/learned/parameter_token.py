"""Adapted parameters as tokens: one for each output row, long rows in chunks."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad


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
        if chunk < 1:
            raise ValueError(f"`chunk` must be at least 1; got {chunk}.")
        rows = [shape[0] if len(shape) > 1 else 1 for shape in shapes.values()]
        widths = [
            shape[1:].numel() if len(shape) > 1 else shape.numel() for shape in shapes.values()
        ]
        self._sizes = [row * width for row, width in zip(rows, widths, strict=True)]
        if not any(self._sizes):
            raise ValueError("`shapes` must hold at least one number; got none.")
        present = (width for size, width in zip(self._sizes, widths, strict=True) if size)
        self.token_dim = max(min(chunk, width) for width in present)
        chunks = [math.ceil(width / self.token_dim) for width in widths]
        self._layout = list(zip(rows, widths, chunks, strict=True))
        self.num_tokens = sum(row * chunk for row, _, chunk in self._layout)

    def split(self, theta: Float[Tensor, "task p"]) -> Float[Tensor, "task token token_dim"]:
        """The tokens of raveled parameters, zeros where a token is short; gradients flow."""
        tokens = []
        for piece, (rows, width, chunks) in zip(
            theta.split(self._sizes, dim=1), self._layout, strict=True
        ):
            matrix = piece.reshape(len(theta), rows, width)
            padded = pad(matrix, (0, chunks * self.token_dim - width))
            tokens.append(padded.reshape(len(theta), rows * chunks, self.token_dim))
        return torch.cat(tokens, dim=1)

    def join(self, tokens: Float[Tensor, "task token token_dim"]) -> Float[Tensor, "task p"]:
        """The raveled parameters of tokens, whatever stands in their padding; gradients flow."""
        counts, pieces = [rows * chunks for rows, _, chunks in self._layout], []
        for piece, (rows, width, chunks) in zip(
            tokens.split(counts, dim=1), self._layout, strict=True
        ):
            padded = piece.reshape(len(tokens), rows, chunks * self.token_dim)
            pieces.append(padded[..., :width].flatten(1))
        return torch.cat(pieces, dim=1)
