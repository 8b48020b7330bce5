"""Images and labels that someone damaged or forged: refused in a sentence, or read."""

import functools
import io
import json
import tempfile
from pathlib import Path

import pytest
import torch
from forgery import damages, tried
from hypothesis import given
from hypothesis import strategies as st
from iai_tasks.images import _cifar_png
from iai_tasks.images._image_file import read_image

pillow = pytest.importorskip("PIL.Image", reason="needs the extra `images`")

NUMBERS = st.integers(-1, 11) | st.floats() | st.integers() | st.booleans() | st.none()
LISTS = st.lists(NUMBERS | st.lists(NUMBERS, max_size=2), max_size=3).map(json.dumps)


@given(text=st.sampled_from(["[" * 100_000, "[1e999]", f"[{'9' * 5000}]"]) | st.text() | LISTS)
def test_labels_are_labels_or_refused(text):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(_cifar_png, "_ROWS", 2)
        file = Path(folder, "labels.json")
        file.write_text(text, errors="surrogatepass")
        labels = tried(lambda: _cifar_png._read_labels(file, 1))
        if labels is not None:
            assert labels.shape == (2,) and labels.min() >= 0 and labels.max() < 10


FORMATS = ["bmp", "gif", "jpeg", "pgm", "png", "ppm", "tiff", "webp"]


@functools.cache
def whole_image(ending):
    numbers = torch.arange(16 * 16 * 3).mul(37).to(torch.uint8).view(16, 16, 3).numpy()
    file = io.BytesIO()
    pillow.fromarray(numbers).save(file, {"pgm": "ppm"}.get(ending, ending))
    return file.getvalue()


@pytest.mark.filterwarnings("ignore:::PIL", "ignore:.*:UserWarning")
@pytest.mark.parametrize("ending", FORMATS)
@given(damage=damages)
def test_an_image_is_an_image_or_refused(ending, damage):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"image.{ending}")
        file.write_bytes(damage(whole_image(ending)))
        image = tried(lambda: read_image(file, size=8, channels=3))
        assert image is None or (image.shape == (3, 8, 8) and image.dtype == torch.uint8)
