"""CIFAR-10 from PNG files, written here with two images each."""

import json
import sys

import numpy as np
import pytest
from iai_tasks import cifar10
from iai_tasks.images import _cifar_png

pillow = pytest.importorskip("PIL.Image", reason="needs the extra `images`")

FILES = [f"data_batch_{number}.png" for number in range(1, 6)] + ["test_batch.png"]


@pytest.fixture
def written(tmp_path, monkeypatch):
    """The images by file, `image 32 32 3`, and the labels; the folder is `tmp_path`."""
    monkeypatch.setattr(_cifar_png, "_ROWS", 2)
    random = np.random.default_rng(0)
    images = {}
    for name in FILES:
        images[name] = random.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
        pillow.fromarray(images[name].reshape(2, 1024, 3)).save(tmp_path / name)
    labels = {"train": random.integers(0, 10, 10).tolist(), "test": [3, 9]}
    for part, numbers in labels.items():
        (tmp_path / f"{part}_lables.json").write_text(json.dumps(numbers))
    return images, labels


def test_what_the_files_hold(tmp_path, written):
    images, labels = written
    data = cifar10(str(tmp_path))
    train = np.concatenate([images[name] for name in FILES[:-1]])
    np.testing.assert_array_equal(data.train_images.view(-1, 32, 32, 3).numpy(), train)
    np.testing.assert_array_equal(data.test_images.view(-1, 32, 32, 3).numpy(), images[FILES[-1]])
    assert data.train_labels.tolist() == labels["train"]
    assert data.test_labels.tolist() == labels["test"]


@pytest.mark.usefixtures("written")
@pytest.mark.parametrize("name", [*FILES, "train_lables.json", "test_lables.json"])
def test_a_file_that_is_missing_or_damaged_is_named(tmp_path, name):
    whole = (tmp_path / name).read_bytes()
    for content in (b"", whole[: len(whole) // 2], b'["cat", "dog"]', b"[3, 10]", b"[3]"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name} cannot be read as .* of CIFAR-10: "):
            cifar10(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        cifar10(tmp_path)


@pytest.mark.usefixtures("written")
@pytest.mark.parametrize(("shape", "mode"), [((3, 1024, 3), "RGB"), ((2, 1024), "L")])
def test_a_file_of_another_shape_is_named(tmp_path, shape, mode):
    pillow.fromarray(np.zeros(shape, dtype=np.uint8)).save(tmp_path / FILES[2])
    text = rf"{FILES[2]} .* 2 rows of 1024 pixels \(RGB\); got {shape[0]} rows of 1024 \({mode}\)"
    with pytest.raises(ValueError, match=text):
        cifar10(tmp_path)


@pytest.mark.usefixtures("written")
def test_without_pillow_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"pip install 'iai-tasks\[images\]'"):
        cifar10(tmp_path)
