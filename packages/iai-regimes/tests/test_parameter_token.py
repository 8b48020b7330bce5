import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_regimes.learned.parameter_token import ParameterTokens

SHAPES = st.lists(st.lists(st.integers(0, 5), max_size=3).map(torch.Size), min_size=1, max_size=4)


@given(shapes=SHAPES, chunk=st.integers(1, 7))
def test_tokens_hold_every_parameter_once_in_rows_no_longer_than_a_chunk(shapes, chunk):
    size = sum(shape.numel() for shape in shapes)
    named = {str(i): shape for i, shape in enumerate(shapes)}
    if size == 0:
        with pytest.raises(ValueError, match="must hold at least one number; got none"):
            ParameterTokens(named, chunk=chunk)
        return
    tokens = ParameterTokens(named, chunk=chunk)
    theta = torch.arange(1.0, 2 * size + 1).reshape(2, size).requires_grad_()
    split = tokens.split(theta)
    assert split.shape == (2, tokens.num_tokens, tokens.token_dim) and tokens.token_dim <= chunk
    assert torch.equal(tokens.join(split), theta)
    assert torch.equal(split[split > 0], theta.flatten())  # zeros elsewhere
    assert torch.equal(tokens.join(split.masked_fill(split == 0, torch.nan)), theta)
    (gradient,) = torch.autograd.grad(split.sum(), theta)
    assert torch.equal(gradient, torch.ones_like(theta))


def test_a_row_of_a_matrix_has_tokens_of_its_own():
    tokens = ParameterTokens({"weight": torch.Size([2, 3]), "scale": torch.Size([])}, chunk=2)
    expected = [[0.0, 1.0], [2.0, 0.0], [3.0, 4.0], [5.0, 0.0], [6.0, 0.0]]
    assert tokens.split(torch.arange(7.0)[None])[0].tolist() == expected
