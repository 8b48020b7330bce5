"""Density estimators fitted to each task alone."""

import numpy as np
import pytest
import torch
from iai_train import sample_by_bic


class Near:
    """Draws the mean of what it was fitted to, plus an offset."""

    def __init__(self, offset):
        self.offset = offset

    def fit(self, x):
        assert not hasattr(self, "mean"), "each task has a model of its own"
        assert x.dtype == "float64"
        self.mean = x.mean(0)

    def bic(self, x):
        return abs(self.mean + self.offset - x[0]).sum()

    def sample(self, num_samples):
        return np.tile(self.mean + self.offset, (num_samples, 1)), None


SAMPLES = torch.tensor([[[0.0, 0.0], [2.0, 2.0]], [[5.0, 5.0], [3.0, 3.0]]])  # means 1 and 4


def test_each_task_has_samples_of_its_estimator_of_the_lowest_bic():
    drawn = sample_by_bic([Near(0.0), Near(1.0), Near(-1.0)], SAMPLES, 3)
    assert drawn.dtype == SAMPLES.dtype
    assert torch.equal(drawn, torch.tensor([0.0, 5.0])[:, None, None].expand(2, 3, 2))


def test_of_equal_ones_the_first_draws():
    assert (
        sample_by_bic([Near(0.0), Near(0.0)], SAMPLES, 1)[:, 0, 0] == torch.tensor([1, 4])
    ).all()


def test_samples_lead_with_tasks(own_errors):
    for samples in (SAMPLES[0], SAMPLES[:0]):
        with pytest.raises(ValueError, match=r"^`samples` must be \(task, n, dim\), of at least"):
            sample_by_bic([Near(0.0)], samples, 1)


def test_there_must_be_an_estimator():
    with pytest.raises(ValueError, match="`estimators` must hold at least one; got none"):
        sample_by_bic([], SAMPLES, 1)
