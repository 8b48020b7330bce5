"""check_examples: what is observed is checked, what is padding is not."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_tasks import (
    Categorical,
    Examples,
    Real,
    TaskSpec,
    check_examples,
)

REAL = TaskSpec(support_x_shape=(2,), query_x_shape=(3,), target=Real(1))
CLASSES = TaskSpec(support_x_shape=(2,), query_x_shape=(3,), target=Categorical(4))


@given(seed=st.integers(0, 999), n=st.integers(1, 6), bad=st.sampled_from(["x", "y", "class"]))
def test_padding_may_hold_anything_and_examples_may_not(seed, n, bad):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, n, 2, generator=generator)
    mask = torch.rand(3, n, generator=generator) < 0.5
    place = tuple(int(torch.randint(size, (), generator=generator)) for size in (3, n))
    if bad == "class":
        spec, y = CLASSES, torch.randint(4, (3, n), generator=generator)
        y[place] = 4
    else:
        spec, y = REAL, torch.randn(3, n, 1, generator=generator)
        (x if bad == "x" else y)[place] = torch.nan
    mask[place] = False
    check_examples(Examples(x=x, y=y, mask=mask), spec)
    mask[place] = True
    with pytest.raises(ValueError, match="support"):
        check_examples(Examples(x=x, y=y, mask=mask), spec)


X = torch.zeros(1, 2, 2)
NAN = torch.tensor([[[0.0], [torch.nan]]])


@pytest.mark.parametrize(
    ("examples", "spec", "error", "text"),
    [
        (
            Examples(x=torch.zeros(1, 2, 3)),
            REAL,
            ValueError,
            "support `x` must have shape (task, n, *(2,)); got (1, 2, 3).",
        ),
        (
            Examples(x=X + torch.inf),
            REAL,
            ValueError,
            "support `x` must be finite wherever the mask is True; 4 of its numbers are not.",
        ),
        (
            Examples(x=X, y=NAN),
            REAL,
            ValueError,
            "support `y` must be finite wherever the mask is True; 1 of its numbers are not.",
        ),
        (
            Examples(x=X, y=torch.zeros(1, 2, 2)),
            REAL,
            ValueError,
            "support `y` must have 1 numbers an example; got 2.",
        ),
        (
            Examples(x=X, y=torch.zeros(1, 2, dtype=torch.int64)),
            REAL,
            TypeError,
            "support `y` must be floating point, as the target is; got torch.int64.",
        ),
        (
            Examples(x=X, y=torch.zeros(1, 2, 1)),
            CLASSES,
            TypeError,
            "support `y` must hold classes (int64); got torch.float32.",
        ),
        (
            Examples(x=X, y=torch.tensor([[0, -1]])),
            CLASSES,
            ValueError,
            "support `y` must hold classes from 0 to 3; got -1.",
        ),
    ],
)
def test_values_that_do_not_fit(examples, spec, error, text):
    with pytest.raises(error) as caught:
        check_examples(examples, spec)
    assert str(caught.value) == text


def test_queries_have_a_shape_of_their_own():
    check_examples(Examples(x=torch.zeros(1, 1, 3)), REAL, role="query")
    with pytest.raises(ValueError, match=r"query `x` must have shape \(task, n, \*\(3,\)\)"):
        check_examples(Examples(x=X), REAL, role="query")


@pytest.mark.parametrize("make", [Real, Categorical])
def test_a_target_has_a_size(make):
    with pytest.raises(ValueError, match=r"must be at least 1; got 0\."):
        make(0)


def test_equal_specs_are_equal():
    assert TaskSpec(support_x_shape=(2,), query_x_shape=(3,), target=Real(1)) == REAL != CLASSES
