"""LabelledImages: every part has its labels, both have the same pixels; splits."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_tasks import LabelledImages

FIELDS = {
    "train_images": torch.zeros(4, 9),
    "train_labels": torch.zeros(4, dtype=torch.int64),
    "test_images": torch.zeros(2, 9),
    "test_labels": torch.zeros(2, dtype=torch.int64),
}


@pytest.mark.parametrize(
    ("field", "shape", "text"),
    [
        (
            "test_images",
            (2, 8),
            "`test_images` must have shape (image, pixel) with the 9 pixels of `train_images`; "
            "got (2, 8).",
        ),
        (
            "train_images",
            (4, 3, 9),
            "`train_images` must have shape (image, pixel) with the 9 pixels of `train_images`; "
            "got (4, 3, 9).",
        ),
        (
            "test_labels",
            (4,),
            "`test_labels` must have shape (image,) = (2,), one for each image; got (4,).",
        ),
    ],
)
def test_shapes_that_do_not_fit(field, shape, text):
    LabelledImages(**FIELDS)
    value = torch.zeros(shape, dtype=FIELDS[field].dtype)
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        LabelledImages(**{**FIELDS, field: value})


@given(labels=st.lists(st.integers(0, 3), max_size=40), every=st.integers(2, 5))
def test_of_each_class_every_so_many_is_held_out(labels, every):
    labels = [label for label in labels if labels.count(label) >= every]
    labels = [sorted(set(labels)).index(label) for label in labels]
    images = torch.arange(float(len(labels)))[:, None]
    split = LabelledImages.hold_out(images, torch.tensor(labels, dtype=torch.int64), every=every)
    both = torch.cat([split.train_images, split.test_images])
    assert sorted(both.flatten().tolist()) == images.flatten().tolist()
    for part, numbers in (("train", split.train_images), ("test", split.test_images)):
        assert [labels[int(n)] for n in numbers] == getattr(split, f"{part}_labels").tolist()
    for label in set(labels):
        of_class = [n for n, other in enumerate(labels) if other == label]
        held = [int(n) for n in split.test_images if labels[int(n)] == label]
        assert held == of_class[every - 1 :: every]


@pytest.mark.parametrize(
    ("labels", "every", "text"),
    [
        ([0, 1, 0, 1], 1, "`every` must be at least 2; got 1."),
        (
            [0, 2, 0, 0, 2, 2],
            3,
            "`labels` must have each class at least 3 times, so that an image of it is held out; "
            "class 1 has 0.",
        ),
    ],
)
def test_what_cannot_be_held_out(labels, every, text):
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        LabelledImages.hold_out(torch.zeros(len(labels), 1), torch.tensor(labels), every=every)


def test_some_classes_are_numbered_anew():
    x = torch.arange(6.0)[:, None]
    images = LabelledImages(
        train_images=x,
        train_labels=torch.tensor([3, 0, 1, 3, 2, 0]),
        test_images=10 + x[:3],
        test_labels=torch.tensor([1, 3, 2]),
    )
    part = images.of_classes([3, 1])
    assert part.train_images[:, 0].tolist() == [0, 2, 3]
    assert part.train_labels.tolist() == [0, 1, 0]
    assert part.test_images[:, 0].tolist() == [10, 11]
    assert part.test_labels.tolist() == [1, 0]
    assert images.of_classes(range(4)).train_labels.tolist() == images.train_labels.tolist()
    with pytest.raises(ValueError, match=r"`classes` must hold at least one class; got none\."):
        images.of_classes(range(0))


def test_both_parts_are_changed():
    changed = LabelledImages(**FIELDS).map(lambda x: x[:, :2] + 1)
    assert changed.train_images.tolist() == [[1, 1]] * 4
    assert changed.test_images.tolist() == [[1, 1]] * 2
    assert changed.train_labels is FIELDS["train_labels"]


def test_the_fingerprint_tells_images_and_labels_apart():
    fingerprint = LabelledImages(**FIELDS).fingerprint
    assert LabelledImages(**FIELDS).fingerprint == fingerprint
    for name, tensor in FIELDS.items():
        changed = LabelledImages(**FIELDS | {name: tensor + 1})
        assert changed.fingerprint != fingerprint, name


def test_classes_are_those_up_to_the_largest_of_a_training_image():
    assert LabelledImages(**FIELDS).num_classes == 1
    labels = {"train_labels": torch.tensor([0, 2, 2, 1])}
    assert LabelledImages(**FIELDS | labels).num_classes == 3
