"""LabelledImages: every part has its labels, and both parts have the same pixels."""

import re

import pytest
import torch
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
