import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_encoders import LinearAttention
from iai_encoders.memories.linear_attention import LinearAttentionMoments
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import elu

TASKS, HEADS, KEY = 2, 2, 3


def randn(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def build():
    attention = LinearAttention(HEADS, KEY).double()
    attention.log_scale.data += torch.tensor([-0.5, 1.0])
    return attention


def recall(attention, keys, values, queries, mask):
    seen = mask.sum(1).to(keys.dtype)
    sums = attention.sums(keys, values, mask)
    means = [total / seen.clamp(min=1).view(-1, *[1] * (total.dim() - 1)) for total in sums]
    return attention.recall(LinearAttentionMoments(*means), queries, seen)


@given(seed=st.integers(0, 2**32), n=st.integers(0, 15))
def test_is_the_weighted_mean_of_the_values_and_a_zero(seed, n):
    """Each weight is that of one query and one key: n^2 of them, and none kept."""
    attention = build()
    keys, values = randn(seed, 2, TASKS, HEADS, n, KEY)
    queries, mask = randn(seed + 1, TASKS, HEADS, 4, KEY), randn(seed, TASKS, n) < 0.5
    recalled = recall(attention, keys, values, queries, mask)
    scale = attention.log_scale.exp()[:, None, None] / KEY**0.5
    weights = (elu(queries * scale) + 1) @ (elu(keys * scale) + 1).mT * mask[:, None, None]
    expected = weights @ values / (weights.sum(3, keepdim=True) + 1)
    torch.testing.assert_close(recalled, expected, rtol=1e-11, atol=1e-11)


def test_derivatives_are_those_of_finite_differences():
    attention = build()
    mask = torch.tensor([[True, True, False, True], [False] * 4])
    inputs = [leaf.requires_grad_() for leaf in randn(0, 3, TASKS, HEADS, 4, KEY).unbind()]

    def function(keys, values, queries):
        return recall(attention, keys, values, queries, mask)

    assert gradcheck(function, inputs, fast_mode=True)
    assert gradgradcheck(function, inputs, fast_mode=True)
