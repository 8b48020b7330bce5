import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_regimes.ravel import of_vectors, ravel, shifted, task_zeros, unravel

SHAPES = st.lists(st.lists(st.integers(1, 3), max_size=3), min_size=1, max_size=4)


def draw(num_tasks, shapes):
    generator = torch.Generator().manual_seed(0)
    return {
        str(index): torch.randn(num_tasks, *shape, generator=generator)
        for index, shape in enumerate(shapes)
    }


@given(st.integers(1, 3), SHAPES)
def test_unravel_is_the_inverse_of_ravel_and_copies_nothing(num_tasks, shapes):
    theta = draw(num_tasks, shapes)
    flat = ravel(theta)
    again = unravel(flat, theta)
    assert list(again) == list(theta)
    for name, value in theta.items():
        assert torch.equal(again[name], value)
        assert again[name].untyped_storage().data_ptr() == flat.untyped_storage().data_ptr()


@given(st.integers(1, 3), SHAPES)
def test_what_is_made_of_vectors(num_tasks, shapes):
    theta = draw(num_tasks, shapes)
    flat = ravel(theta)
    loss = of_vectors(lambda named: named["0"].reshape(num_tasks, -1).sum(1), theta)
    first = theta["0"][0].numel()
    torch.testing.assert_close(loss(flat), flat[:, :first].sum(1))
    torch.testing.assert_close(ravel(shifted(theta, 2 * flat)), 3 * flat)
    zeros = task_zeros({name: value.double() for name, value in theta.items()})
    assert zeros.tolist() == [0.0] * num_tasks and zeros.dtype == torch.float64
