import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_encoders import AxialTransformer, SetTransformer
from iai_encoders.testing import check_table_encoder

DIM = 4


def build(seed=0, num_layers=1):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AxialTransformer(DIM, num_layers, num_heads=2).double()


@pytest.mark.parametrize("num_layers", [1, 2])
def test_contract(num_layers):
    check_table_encoder(build(num_layers=num_layers), DIM)


@given(seed=st.integers(0, 2**32), rows=st.integers(1, 4), columns=st.integers(1, 4))
def test_is_attention_along_each_row_and_then_along_each_column(seed, rows, columns):
    encoder = build(seed)
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randn(1, rows, columns, DIM, generator=generator, dtype=torch.float64)

    def attend(block, tokens):  # one set, `n dim`
        query, key, value = block.project(tokens[None])
        scores = query @ key.mT / (DIM // 2) ** 0.5
        return block.finish(tokens[None], scores.softmax(-1) @ value)[0]

    across = torch.stack([attend(encoder.along_rows[0], cells[0, row]) for row in range(rows)])
    down = torch.stack(
        [attend(encoder.along_columns[0], across[:, column]) for column in range(columns)]
    )
    torch.testing.assert_close(encoder.encode(cells)[0], encoder.norm(down).mean(1))


def test_one_column_is_a_set_of_rows_without_company():
    encoder, alone = build(), SetTransformer(DIM, 1, 2).double()
    cells = torch.randn(2, 5, 1, DIM, dtype=torch.float64)
    vectors = encoder.encode(cells)
    assert vectors.shape == (2, 1, DIM)
    assert not torch.equal(vectors[:, 0], alone.encode(cells[:, :, 0]).keys[0].mean((1, 2)))
    torch.testing.assert_close(encoder.encode(cells.expand(-1, -1, 3, -1))[:, 2], vectors[:, 0])


def test_tables_without_rows_or_columns():
    assert build().encode(torch.zeros(2, 0, 3, DIM, dtype=torch.float64)).eq(0).all()
    assert build().encode(torch.zeros(2, 3, 0, DIM, dtype=torch.float64)).shape == (2, 0, DIM)


@pytest.mark.usefixtures("own_errors")
def test_says_what_is_wrong():
    with pytest.raises(ValueError, match=r"`dim` must be divisible by `num_heads`; got 6 and 4."):
        AxialTransformer(6, 1, 4)
    with pytest.raises(ValueError, match=r"`num_layers` must be at least 1; got 0."):
        AxialTransformer(4, 0, 1)
    cells = torch.zeros(2, 3, 5, DIM, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"two axes of `cells`, \(2, 3\); got \(2, 5\)."):
        build().encode(cells, mask=torch.ones(2, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"`mask` must have dtype torch.bool"):
        build().encode(cells, mask=torch.ones(2, 3))


@pytest.mark.usefixtures("own_errors")
def test_says_which_shape_cells_have():
    with pytest.raises(ValueError, match=r"`cells` must have shape \(task, n, column, 4\)"):
        build().encode(torch.zeros(2, 3, DIM, dtype=torch.float64))
