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
    data = digits()
    train, test = data.train_labels.bincount(), data.test_labels.bincount()
    assert len(data.test_images) == 360
    assert (test / (train + test) - 0.2).abs().max() < 0.01


@pytest.mark.usefixtures("sklearn_datasets")
def test_the_split_is_always_the_same():
    assert torch.equal(digits().test_images, digits().test_images)


def test_without_scikit_learn_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"pip install 'iai-tasks\[digits\]'"):
        digits()
