"""Projected classification: what is wrong with arguments is said where they enter."""

import pytest
import torch
from iai_tasks import ProjectedClassification

IMAGES = torch.randn(20, 5, generator=torch.Generator().manual_seed(0)) * 3 + 7
LABELS = torch.arange(20) % 4


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        (
            {"images": IMAGES[:, 0]},
            ValueError,
            "`images` must have shape (image, *image_shape) and hold at least one number; "
            "got (20,).",
        ),
        (
            {"images": IMAGES[:0], "labels": LABELS[:0]},
            ValueError,
            "`images` must have shape (image, *image_shape) and hold at least one number; "
            "got (0, 5).",
        ),
        (
            {"images": IMAGES.masked_fill(IMAGES > 9, torch.nan)},
            ValueError,
            "`images` must be finite; NaN or infinity is among the numbers.",
        ),
        (
            {"images": torch.ones(20, 5)},
            ValueError,
            "`images` must differ somewhere; every number is 1.0.",
        ),
        ({"labels": LABELS.float()}, TypeError, "`labels` must be integers; got torch.float32."),
        (
            {"labels": LABELS[:19]},
            ValueError,
            "`labels` must have shape (image,) = (20,), one for each image; got (19,).",
        ),
        (
            {"labels": LABELS - 1},
            ValueError,
            "`labels` must be from 0 to 2; got classes from -1 to 2.",
        ),
        (
            {"labels": LABELS * 2},
            ValueError,
            "`labels` must use every class from 0 to 6; no image has class 1.",
        ),
        (
            {"query_images": IMAGES},
            ValueError,
            "`query_images` and `query_labels` must be given together.",
        ),
        (
            {"query_images": IMAGES, "query_labels": LABELS + 1},
            ValueError,
            "`query_labels` must be from 0 to 3; got classes from 1 to 4.",
        ),
        (
            {"query_images": IMAGES[:, :4], "query_labels": LABELS},
            ValueError,
            "`query_images` must have the 5 numbers an image of `images`; got 4.",
        ),
        (
            {"query_images": IMAGES / 0, "query_labels": LABELS},
            ValueError,
            "`query_images` must be finite; NaN or infinity is among the numbers.",
        ),
        (
            {"num_classes": 5},
            ValueError,
            "`num_classes` must be from 1 to 4, the classes of `labels`, or two such numbers, the "
            "smaller one first; got 5.",
        ),
        (
            {"num_classes": (3, 2)},
            ValueError,
            "`num_classes` must be from 1 to 4, the classes of `labels`, or two such numbers, the "
            "smaller one first; got (3, 2).",
        ),
        (
            {"num_labels": 3},
            ValueError,
            "`num_labels` must be at least 4, the most classes of a task; got 3.",
        ),
        (
            {"projection": "rotation", "projection_dim": 6},
            ValueError,
            "`projection_dim` of a rotation must be at most 5, the numbers of an image; got 6.",
        ),
        ({"projection_dim": 0}, ValueError, "`projection_dim` must be at least 1; got 0."),
        ({"num_tasks": 0}, ValueError, "`num_tasks` must be at least 1; got 0."),
        ({"first_seed": -1}, ValueError, "`first_seed` must be at least 0; got -1."),
    ],
)
def test_arguments_that_do_not_fit(options, error, text):
    with pytest.raises(error) as caught:
        ProjectedClassification(**{"images": IMAGES, "labels": LABELS, **options})
    assert str(caught.value) == text
