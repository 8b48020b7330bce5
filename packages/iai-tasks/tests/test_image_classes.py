"""ImageClasses: every image has a class, every class an image and a name."""

import pytest
import torch
from iai_tasks import ImageClasses

FIELDS = {
    "images": torch.zeros(4, 1, 5, 6, dtype=torch.uint8),
    "labels": torch.tensor([0, 2, 1, 2]),
    "class_names": ("a", "b", "c"),
    "groups": ("x", "x", "y"),
}


def test_what_it_says_of_itself():
    images = ImageClasses(**FIELDS)
    assert images.num_classes == 3
    assert images.counts.tolist() == [1, 1, 2]
    assert images.image_shape == (1, 5, 6)
    moved = images.to("cpu")
    assert (moved.class_names, moved.groups) == (images.class_names, images.groups)


def test_the_fingerprint_tells_images_apart():
    images = ImageClasses(**FIELDS)
    assert images.fingerprint.startswith("4 images of 3 classes in 2 groups, sha256 ")
    other = images.images.clone()
    other[3, 0, 4, 5] = 1
    assert ImageClasses(**FIELDS | {"images": other}).fingerprint != images.fingerprint
    assert ImageClasses(**FIELDS).fingerprint == images.fingerprint


def test_by_default_every_class_is_a_group():
    fields = {name: value for name, value in FIELDS.items() if name != "groups"}
    assert ImageClasses(**fields).groups == ("a", "b", "c")


@pytest.mark.parametrize(
    ("field", "value", "error", "text"),
    [
        ("images", torch.zeros(4, 1, 5, 6, dtype=torch.int64), TypeError, "got torch.int64"),
        (
            "images",
            torch.zeros(4, 5, 6),
            ValueError,
            "`images` must have shape (image, channel, height, width) and hold at least one "
            "number; got (4, 5, 6).",
        ),
        ("images", torch.zeros(0, 1, 5, 6), ValueError, "got (0, 1, 5, 6)."),
        ("labels", torch.zeros(4), TypeError, "`labels` must be int64; got torch.float32."),
        (
            "labels",
            torch.zeros(3, dtype=torch.int64),
            ValueError,
            "`labels` must have shape (image,) = (4,), one for each image; got (3,).",
        ),
        (
            "labels",
            torch.tensor([0, 1, 2, 3]),
            ValueError,
            "`labels` must be from 0 to 2, the classes of `class_names`; got 3.",
        ),
        ("labels", torch.tensor([0, -1, 2, 1]), ValueError, "got -1."),
        (
            "labels",
            torch.tensor([0, 2, 2, 0]),
            ValueError,
            "`labels` must use every class; no image is of 'b'.",
        ),
        (
            "groups",
            ("x", "y"),
            ValueError,
            "`groups` must name the group of each of the 3 classes; got 2.",
        ),
    ],
)
def test_fields_that_do_not_fit(field, value, error, text):
    with pytest.raises(error) as caught:
        ImageClasses(**{**FIELDS, field: value})
    assert text in str(caught.value)
