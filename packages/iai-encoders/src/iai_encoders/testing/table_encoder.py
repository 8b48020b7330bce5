"""The contract of an encoder of tables."""

import torch

from iai_encoders.interfaces import TableEncoder
from iai_encoders.testing.comparison import check_gradients, check_same, draw, each, in_float64


def check_table_encoder(encoder: TableEncoder, dim: int) -> None:
    """Checks that a table encoder, an ``nn.Module``, keeps the promises of its role.

    Permuting the columns permutes the vectors, and permuting the rows changes nothing; padding (NaN
    included) and the other tasks change nothing; a table without an observed row has finite
    vectors; gradients reach the observed cells and every parameter, and never a masked row.

    Args:
        encoder: A table encoder.
        dim: Numbers a cell.

    Raises:
        AssertionError: With the sentence that does not hold.

    >>> from iai_encoders import AxialTransformer
    >>> check_table_encoder(AxialTransformer(dim=4, num_layers=1, num_heads=2), dim=4)
    """
    model = in_float64(encoder)
    tokens, queries, mask, _ = draw(model, dim)
    cells = tokens[:, :, None] * queries[:, None]  # task n column dim
    padded = cells.masked_fill(~mask[..., None, None], torch.nan).requires_grad_()
    vectors = model.encode(cells)

    assert vectors.shape == queries.shape, "There is a vector a column."
    permuted = model.encode(cells.flip(1).roll(2, 1))
    check_same(permuted, vectors, "Rows in another order change no vector.")
    permuted = model.encode(cells.flip(2).roll(2, 2))
    check_same(permuted, vectors.flip(1).roll(2, 1), "Vectors follow their columns.")
    whole = model.encode(cells, mask=torch.ones_like(mask))
    check_same(whole, vectors, "A mask that hides no row changes no vector.")
    masked = model.encode(padded, mask=mask)
    finite = model.encode(cells, mask=mask)
    check_same(finite, masked, "A masked row, NaN included, changes no vector.")
    for task in each(tokens):
        alone, kept = model.encode(cells[task]), model.encode(cells[task, mask[task][0]])
        check_same(alone, vectors[task], "A task is the same alone and in a batch.")
        check_same(masked[task], kept, "A masked row, NaN included, changes no vector.")
    assert masked.isfinite().all(), "A table without an observed row has finite vectors."
    check_gradients(model, masked, padded, mask)
