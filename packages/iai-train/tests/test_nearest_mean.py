"""The nearest class mean."""

import attrs
import pytest
import torch
from iai_train import nearest_mean
from least_squares import Batch, Examples

MASK = torch.tensor([[True, True, True, False], [True, True, False, True]])
SUPPORT_X = torch.tensor([[[0.0], [2.0], [8.0], [torch.nan]], [[5.0], [1.0], [torch.inf], [1.0]]])
SUPPORT = Examples(SUPPORT_X, torch.tensor([[0, 0, 1, 9], [0, 1, 7, 2]]), MASK)


def test_means_are_of_observed_examples_alone() -> None:
    query_x = torch.tensor([[[1.0], [8.0]], [[4.0], [1.0]]])
    query = Examples(query_x, torch.zeros(2, 2, dtype=torch.int64), MASK[:, :2])
    scores = nearest_mean(Batch(SUPPORT, query))
    assert scores[0, :, :2].tolist() == [[0, -7], [-7, 0]]
    assert scores[1].tolist() == [[-1, -3, -3], [-4, 0, 0]]


def test_a_class_without_an_example_is_never_the_answer() -> None:
    query = Examples(torch.zeros(2, 1, 1), torch.zeros(2, 1, dtype=torch.int64), MASK[:, :1])
    assert nearest_mean(Batch(SUPPORT, query))[0, 0, 2] == -torch.inf


@pytest.mark.usefixtures("own_errors")
def test_what_does_not_meet_is_refused() -> None:
    query = Examples(torch.zeros(2, 1, 1), torch.zeros(2, 1, dtype=torch.int64), MASK[:, :1])
    for y, got in ((None, "None"), (SUPPORT.y.float(), r"torch.float32 of \(2, 4\)")):
        with pytest.raises(ValueError, match=rf"^`support.y` must hold classes.*; got {got}\.$"):
            nearest_mean(Batch(attrs.evolve(SUPPORT, y=y), query))
    with pytest.raises(ValueError, match=r"^`support.y` must hold classes from 0 on; got -1\.$"):
        nearest_mean(Batch(attrs.evolve(SUPPORT, y=SUPPORT.y - 1), query))
    for x in (torch.zeros(2, 1, 2), torch.zeros(1, 1, 1)):
        with pytest.raises(ValueError, match=r"^`support.x` and `query.x` must be of the same"):
            nearest_mean(Batch(SUPPORT, attrs.evolve(query, x=x)))


def test_images_are_compared_pixel_by_pixel() -> None:
    x = torch.randn(3, 4, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    y, mask = torch.tensor([[0, 1, 2, 3]] * 3), torch.ones(3, 4, dtype=torch.bool)
    examples = Examples(x, y, mask)
    scores = nearest_mean(Batch(examples, examples))
    assert scores.argmax(-1).tolist() == y.tolist()
    assert torch.allclose(scores[0, 0, 1], -(x[0, 0] - x[0, 1]).norm())
