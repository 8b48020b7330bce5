"""The handwritten digits: all of them, once, on one side of the split."""

import sys

import pytest
import torch
from iai_tasks import digits


@pytest.fixture
def sklearn_datasets():
    return pytest.importorskip("sklearn.datasets", reason="needs the extra `digits`")


def test_the_two_parts_are_all_the_digits(sklearn_datasets):
    data = digits()
    images = torch.cat((data.train_images, data.test_images))
    labels = torch.cat((data.train_labels, data.test_labels))
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    got = sorted(
        (label, *image) for label, image in zip(labels.tolist(), images.tolist(), strict=True)
    )
    every = sklearn_datasets.load_digits()
    pairs = zip(every.target.tolist(), every.data.tolist(), strict=True)
    assert got == sorted((label, *image) for label, image in pairs)


@pytest.mark.usefixtures("sklearn_datasets")
def test_every_class_is_split_alike():
    data = digits(test_fraction=0.25)
    train, test = data.train_labels.bincount(), data.test_labels.bincount()
    assert len(data.test_images) == 450
    assert (test / (train + test) - 0.25).abs().max() < 0.01


@pytest.mark.usefixtures("sklearn_datasets")
def test_the_seed_fixes_the_split():
    first, again, other = (digits(seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.test_images, again.test_images)
    assert not torch.equal(first.test_images, other.test_images)


@pytest.mark.usefixtures("sklearn_datasets")
@pytest.mark.parametrize("fraction", [0.0, 1.0, float("nan")])
def test_a_part_must_be_held_out(fraction):
    with pytest.raises(ValueError, match="`test_fraction` must be between 0 and 1; got"):
        digits(test_fraction=fraction)


def test_without_scikit_learn_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"pip install 'iai-tasks\[digits\]'"):
        digits()
