import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_encoders.memories.rotary import rotate, rotation


@given(seed=st.integers(0, 2**32), half=st.integers(1, 8), shift=st.integers(0, 1000))
def test_inner_products_know_only_the_distance(seed, half, shift):
    generator = torch.Generator().manual_seed(seed)
    query, key = torch.randn(2, 1, 1, 7, 2 * half, generator=generator, dtype=torch.float64)
    positions = torch.randint(0, 100, (1, 7), generator=generator)
    here = rotation(positions, 2 * half, torch.float64)
    there = rotation(positions + shift, 2 * half, torch.float64)
    torch.testing.assert_close(
        rotate(query, here) @ rotate(key, here).mT,
        rotate(query, there) @ rotate(key, there).mT,
        rtol=0,
        atol=1e-9,
    )


def test_positions_of_low_precision_tokens_stay_exact():
    x = torch.ones(1, 1, 2, 2, dtype=torch.bfloat16)
    near, far = rotate(x, rotation(torch.tensor([[4096, 4097]]), 2, x.dtype))[0, 0]
    assert near.dtype == torch.bfloat16  # which cannot tell 4096 from 4097
    assert not torch.equal(near, far)
