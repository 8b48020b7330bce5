"""Flat parameters as tokens: one for each output row, long rows in chunks."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


class ParameterTokens(nn.Module):
    """Cuts a flat vector of parameters into tokens of at most `chunk` numbers, and joins them.

    A tensor of shape (rows, ...) gives each row its own tokens; a vector or a scalar is one row. A
    row longer than `chunk` becomes several tokens, the last one padded with zeros. State and
    gradient have the same layout. Nothing is dropped: `join(split(theta))` is `theta`.

    Args:
        shapes: Shape of each parameter, in the order in which they lie in the flat vector.
        chunk: Largest number of parameters in a token.

    Raises:
        ValueError: If `chunk` is below 1, or the shapes hold no number.

    >>> tokens = ParameterTokens({"weight": torch.Size([2, 3]), "bias": torch.Size([2])}, chunk=4)
    >>> tokens.split(torch.arange(8.0)[None]).tolist()
    [[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0], [6.0, 7.0, 0.0]]]
    """

    index: Int[Tensor, "token token_dim"]  # the place in the flat vector of each number of a token
    kept: Bool[Tensor, "token token_dim"]  # False in the padding of a token
    place: Int[Tensor, " p"]  # the place in the tokens, one behind another, of each parameter

    def __init__(self, shapes: Mapping[str, torch.Size], *, chunk: int = 64) -> None:
        super().__init__()
        if chunk < 1:
            raise ValueError(f"`chunk` must be at least 1; got {chunk}.")
        pieces: list[range] = []
        offset = 0
        for shape in shapes.values():
            row = max(1, shape[1:].numel() if len(shape) > 1 else shape.numel())
            for start in range(offset, offset + shape.numel(), row):
                end = start + row
                pieces += [range(i, min(i + chunk, end)) for i in range(start, end, chunk)]
            offset += shape.numel()
        if not pieces:
            raise ValueError("`shapes` must hold at least one number; got none.")
        self.size = offset
        self.num_tokens = len(pieces)
        self.token_dim = max(len(piece) for piece in pieces)
        index = torch.full((self.num_tokens, self.token_dim), -1)
        for i, piece in enumerate(pieces):
            index[i, : len(piece)] = torch.tensor(piece)
        kept = index >= 0
        self.register_buffer("index", index.clamp(min=0), persistent=False)
        self.register_buffer("kept", kept, persistent=False)
        self.register_buffer("place", kept.flatten().nonzero()[:, 0], persistent=False)

    def split(self, theta: Float[Tensor, "task p"]) -> Float[Tensor, "task token token_dim"]:
        """The tokens of a flat vector, zeros where a token is short; gradients flow."""
        return theta[:, self.index].masked_fill(~self.kept, 0.0)

    def join(self, tokens: Float[Tensor, "task token token_dim"]) -> Float[Tensor, "task p"]:
        """The flat vector of tokens, without what stands in their padding; gradients flow."""
        return tokens.flatten(1).index_select(1, self.place)
