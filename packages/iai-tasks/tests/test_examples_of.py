"""Examples of whatever a newcomer has: arrays, lists and tensors, of one task or of a batch."""

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from iai_tasks import Examples

FLOATS = [numpy.float16, numpy.float32, numpy.float64, numpy.longdouble]
INTS = [numpy.bool_, numpy.int8, numpy.int32, numpy.int64, numpy.uint8, numpy.uint16]
sizes = st.integers(0, 4)


@given(st.data(), sizes, sizes, st.sampled_from(FLOATS + INTS), st.sampled_from(INTS))
def test_one_task_with_classes(data, n, width, x_dtype, y_dtype):
    x = data.draw(arrays(x_dtype, (n, width), elements={"min_value": 0, "max_value": 1}))
    y = data.draw(arrays(y_dtype, n, elements={"min_value": 0, "max_value": 1}))
    examples = Examples.of(x, y)
    assert examples.x.dtype == torch.float32 and examples.y.dtype == torch.int64
    assert examples.mask.all() and examples.mask.shape == (1, n)
    assert numpy.array_equal(examples.x[0].numpy(), x.astype(numpy.float32))
    assert numpy.array_equal(examples.y[0].numpy(), y.astype(numpy.int64))


@given(sizes, sizes, st.sampled_from([(), (2,), (1, 2)]), st.sampled_from(FLOATS))
def test_a_batch_is_told_by_its_targets(task, n, x_shape, dtype):
    x, y = numpy.ones((task, n, *x_shape), dtype), numpy.ones((task, n, 2), dtype)
    examples = Examples.of(x, y)
    assert examples.x.shape == (task, n, *(x_shape or (1,)))
    assert examples.y.shape == (task, n, 2) and examples.y.dtype == torch.float32
    if x_shape or n != 1:  # a column of classes beside a column of inputs is more likely one task
        assert Examples.of(x, y[..., 0].astype(int)).y.shape == (task, n)


def test_lists_numbers_and_tensors():
    examples = Examples.of([0, 1, 2], [0.0, 1.0, 4.0])
    assert examples.x.tolist() == [[[0.0], [1.0], [2.0]]]
    assert examples.y.tolist() == [[[0.0], [1.0], [4.0]]]
    assert Examples.of([torch.ones(2), torch.zeros(2)], (1, 0)).x.tolist() == [[[1, 1], [0, 0]]]
    assert Examples.of([[1.0, 2.0]]).y is None
    x = torch.ones(4, 3, requires_grad=True)
    Examples.of(x, x[:, :1]).y.sum().backward()
    assert x.grad[:, 0].tolist() == [1.0] * 4
    assert Examples.of(x, x[:, 0], dtype=torch.float64).y.dtype == torch.float64


def test_arrays_that_torch_does_not_read():
    x = numpy.arange(6.0).reshape(3, 2)[::-1]
    x.flags.writeable = False
    assert Examples.of(x, [0, 1, 2]).x[0, 0].tolist() == [4.0, 5.0]


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (3.0, None, ValueError, r"`x` must have the shape \(n, \*x_shape\); got \(\)\."),
        ([0.0], [[1]], ValueError, r"`x` must have the shape \(task, n, \*x_shape\), as `y`"),
        ([[1.0], [1.0, 2.0]], None, ValueError, "`x` must be an array of numbers, not ragged"),
        ([["a"]], None, TypeError, "`x` must hold real numbers; got an array of <U1"),
        ([[0.0]], ["a"], TypeError, "`y` must hold real numbers; got an array of <U1"),
        ([[None]], None, TypeError, "`x` must hold real numbers; got an array of object"),
        ({"x": 1}, None, TypeError, "`x` must hold real numbers; got an array of object"),
        (numpy.ma.ones((2, 2)), None, TypeError, "`x` must hold every number; got a masked array"),
        (torch.ones(2, 2) + 0j, None, TypeError, "`x` must be dense and real; got torch.complex64"),
        (torch.ones(2, 3), [0, 1, 1], ValueError, r"`y` of dtype torch.int64 must have shape"),
        (
            [[0.0], [1.0]],
            [[0], [1]],
            ValueError,
            r"`y` of classes must .*; got \(2, 1\): take `y\[",
        ),
        ([[0.0, 2.0]], [[0]], ValueError, r"`y` of classes must have the shape \(n,\)"),
        (torch.ones(2, 5, 3), torch.ones(2, 5), ValueError, "`x` of .* may be one task or a batch"),
    ],
)
def test_what_is_no_set_of_examples(x, y, error, message):
    with pytest.raises(error, match=f"^{message}"):
        Examples.of(x, y)
