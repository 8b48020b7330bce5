"""The memory of a Transformer: keys and values of its tokens."""

from typing import NamedTuple

from torch import Tensor


class TransformerMemory(NamedTuple):
    """Each layer's keys and values of each token.

    Attributes:
        keys: For each layer, ``task head n key``.
        values: For each layer, ``task head n key``.
        mask: ``task n`` bool, True where the token was observed.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    mask: Tensor

    @property
    def num_elements(self) -> int:
        """Numbers a task that a read has access to: ``2 * num_layers * n * dim``.

        Keys and values both count, over all heads and all `n` slots, padding included. The
        accessible state of a Transformer in GPICL, key size x layers x sequence length, counts the
        keys of one head: this number is ``2 * num_heads`` times that one.
        """
        return sum(leaf.shape[1:].numel() for leaf in (*self.keys, *self.values))
