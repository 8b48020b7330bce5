import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_train import accuracy, mean_squared_error
from least_squares import Examples

shapes = st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 3))


def draw(seed: int, task: int, n: int, dim: int) -> tuple[torch.Tensor, Examples, Examples]:
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(task, n, dim, generator=generator)
    mask = torch.rand(task, n, generator=generator) < 0.7
    mask[:, 0] = True
    numbers = torch.randn(task, n, dim, generator=generator)
    classes = torch.randint(dim, (task, n), generator=generator)
    x = torch.zeros(task, n, 1)
    return outputs, Examples(x, numbers, mask), Examples(x, classes, mask)


@given(st.integers(0, 2**31), shapes)
def test_each_task_is_its_observed_queries_alone(seed: int, shape: tuple[int, int, int]) -> None:
    outputs, numbers, classes = draw(seed, *shape)
    errors, rates = mean_squared_error(outputs, numbers), accuracy(outputs, classes)
    for task, observed in enumerate(numbers.mask):
        error = (outputs[task, observed] - numbers.y[task, observed]).square().mean()
        torch.testing.assert_close(errors[task], error)
        hits = outputs[task, observed].argmax(-1) == classes.y[task, observed]
        torch.testing.assert_close(rates[task], hits.float().mean())


@given(st.integers(0, 2**31), shapes)
def test_what_is_masked_may_be_anything(seed: int, shape: tuple[int, int, int]) -> None:
    outputs, numbers, _ = draw(seed, *shape)
    spoiled = torch.where(numbers.mask[..., None], numbers.y, torch.nan)
    other = attrs.evolve(numbers, y=spoiled)
    assert torch.equal(mean_squared_error(outputs, numbers), mean_squared_error(outputs, other))


def test_a_task_without_queries_has_no_error() -> None:
    outputs, numbers, _ = draw(0, 2, 3, 1)
    numbers.mask[1] = False
    assert mean_squared_error(outputs, numbers).isnan().tolist() == [False, True]


def test_an_answer_that_is_not_a_number_is_no_class() -> None:
    outputs = torch.tensor([[[torch.nan, torch.nan], [0.0, 1.0]]])
    query = Examples(torch.zeros(1, 2, 1), torch.tensor([[0, 1]]), torch.tensor([[True, True]]))
    assert accuracy(outputs, query).isnan().all()
    observed = attrs.evolve(query, mask=torch.tensor([[False, True]]))
    assert accuracy(outputs, observed).tolist() == [1.0]


@pytest.mark.usefixtures("own_errors")
def test_what_would_broadcast_is_refused() -> None:
    outputs, numbers, classes = draw(0, 2, 3, 2)
    flat = attrs.evolve(numbers, y=numbers.y[..., 0])
    with pytest.raises(ValueError, match=r"numbers of an answer.*, \(2, 3\); got \(2, 3\)\.$"):
        mean_squared_error(outputs[..., 0], flat)
    for metric, query in ((mean_squared_error, numbers), (accuracy, classes)):
        for mask in (query.mask[:1], query.mask[:, :1], query.mask[..., None]):
            with pytest.raises(ValueError, match=r"of the examples \(task, n\) of `query.mask`"):
                metric(outputs, attrs.evolve(query, mask=mask))
    with pytest.raises(ValueError, match=r"^`query.y` must hold classes, int64; got torch.float32"):
        accuracy(outputs, attrs.evolve(classes, y=classes.y.float()))
    with pytest.raises(ValueError, match=r"^`outputs` must be floating point; got torch.int64\.$"):
        accuracy(outputs.long(), classes)


def test_targets_of_another_shape_are_refused() -> None:
    outputs, numbers, classes = draw(0, 2, 3, 2)
    with pytest.raises(ValueError, match=r"targets' shape, \(2, 3, 2\); got \(2, 3, 1\)"):
        mean_squared_error(outputs[..., :1], numbers)
    with pytest.raises(ValueError, match=r"than the classes, \(2, 3\); got \(2, 2, 2\)"):
        accuracy(outputs[:, :2], classes)
    with pytest.raises(ValueError, match="targets' shape, None"):
        mean_squared_error(outputs, attrs.evolve(numbers, y=None))
