"""ImageClasses: every image has a class, every class an image and a name."""

import pytest
import torch
from iai_tasks import ImageClasses, ImageSource

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
            "`labels` must be from 0 to 2, the classes of `class_names`, and use each; 3 is unused "
            "or has no name.",
        ),
        ("labels", torch.tensor([0, -1, 2, 1]), ValueError, "use each; -1 is unused or has no"),
        (
            "labels",
            torch.tensor([0, 2, 2, 0]),
            ValueError,
            "use each; 1 is unused or has no name.",
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


def source(**changes):
    images = torch.arange(3 * 3 * 16).to(torch.uint8).view(3, 3, 4, 4)
    kept = {"images": images, "labels": torch.tensor([0, 1, 1]), "class_names": ("cat", "dog")}
    return ImageClasses(**kept | changes)


def test_it_is_a_source_of_images_as_they_are_grey_ones_three_times():
    colour = source()
    assert isinstance(colour, ImageSource)
    assert len(colour) == 3
    assert colour.name(2) == "image 2"
    assert torch.equal(colour.read(2, 99), colour.images[2])
    grey = source(images=colour.images[:, :1])
    assert torch.equal(grey.read(1, 99), colour.images[1, :1].repeat(3, 1, 1))


@pytest.mark.parametrize(
    "changes",
    [
        {"images": source().images + 1},
        {"images": source().images.float()},
        {"images": source().images[:, :1]},
        {"images": source().images.view(3, 3, 16)[..., :9].reshape(3, 3, 3, 3)},
        {"labels": torch.tensor([1, 0, 1])},
        {"class_names": ("cat", "cow")},
    ],
)
def test_what_changes_changes_the_fingerprint(changes):
    assert source(**changes).fingerprint != source().fingerprint
    again = {name: value.clone() for name, value in changes.items() if name != "class_names"}
    assert source(**changes | again).fingerprint == source(**changes).fingerprint
