"""The torchvision sets, read from tiny files of the published formats written here."""

import pickle
import struct
import sys
from urllib.error import URLError

import numpy as np
import pytest
import torch
from iai_tasks import cifar10, fashion_mnist, mnist
from iai_tasks._torchvision import import_torchvision


@pytest.fixture(scope="module")
def datasets():
    try:
        return import_torchvision("datasets")
    except ImportError:
        pytest.skip("needs the extra `vision`")


def write_idx(path, array):
    """Writes bytes as an IDX file: the type, the axes and their lengths, then the bytes."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.tobytes())


@pytest.mark.usefixtures("datasets")
@pytest.mark.parametrize(("load", "folder"), [(mnist, "MNIST"), (fashion_mnist, "FashionMNIST")])
def test_mnist_is_what_the_files_hold(tmp_path, load, folder):
    raw = tmp_path / folder / "raw"
    raw.mkdir(parents=True)
    random = np.random.default_rng(0)
    expected = {}
    for part, num in (("train", 7), ("t10k", 3)):
        expected[part] = (
            random.integers(0, 256, (num, 28, 28), dtype=np.uint8),
            random.integers(0, 10, num, dtype=np.uint8),
        )
        write_idx(raw / f"{part}-images-idx3-ubyte", expected[part][0])
        write_idx(raw / f"{part}-labels-idx1-ubyte", expected[part][1])
    data = load(tmp_path)
    for images, labels, part in (
        (data.train_images, data.train_labels, "train"),
        (data.test_images, data.test_labels, "t10k"),
    ):
        assert images.dtype == torch.float32
        assert labels.dtype == torch.int64
        np.testing.assert_array_equal(images.numpy(), expected[part][0].reshape(-1, 784))
        np.testing.assert_array_equal(labels.numpy(), expected[part][1])


def test_cifar10_is_what_the_files_hold(datasets, tmp_path, monkeypatch):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    random = np.random.default_rng(0)
    parts = {}
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        rows = random.integers(0, 256, (2, 3072), dtype=np.uint8)  # red, then green, then blue
        parts[name] = rows, random.integers(0, 10, 2).tolist()
        batch = {"data": rows, "labels": parts[name][1]}
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    # Its files are known by their checksums, which these cannot have.
    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setitem(datasets.CIFAR10.meta, "md5", None)

    data = cifar10(tmp_path)
    rows, labels = parts["test_batch"]
    expected = rows.reshape(2, 3, 32, 32).transpose(0, 2, 3, 1).reshape(2, 3072)
    np.testing.assert_array_equal(data.test_images.numpy(), expected)
    assert data.test_labels.tolist() == labels
    assert data.train_images.shape == (10, 3072)
    assert data.train_labels.tolist() == [
        label for i in range(1, 6) for label in parts[f"data_batch_{i}"][1]
    ]


@pytest.mark.usefixtures("datasets")
def test_a_folder_without_the_images(tmp_path):
    with pytest.raises(RuntimeError, match="download=True"):
        mnist(tmp_path)


def test_a_download_that_fails_says_so(tmp_path, datasets, monkeypatch):
    def unreachable(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr(datasets.mnist, "download_and_extract_archive", unreachable)
    with pytest.raises(RuntimeError, match=r"Error downloading .*\s.*\s.*no route to host"):
        mnist(tmp_path, download=True)


@pytest.fixture
def pretend(monkeypatch, tmp_path):
    """Returns a function that puts a torchvision of the given code in the real one's place."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)

    def write(code):
        (tmp_path / "torchvision").mkdir()
        (tmp_path / "torchvision" / "__init__.py").write_text(code)
        for part in ("datasets", "models"):
            (tmp_path / "torchvision" / f"{part}.py").write_text("pretended = True")

    yield write
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]


def test_operators_that_the_wheel_cannot_load_are_declared(pretend):
    pretend(
        "import torch\n"
        "for name in ('nms', 'qnms'):\n"
        "    if not hasattr(torch.ops.torchvision, name):\n"
        "        raise RuntimeError(f'operator torchvision::{name} does not exist')\n"
    )
    assert import_torchvision("datasets").pretended
    assert import_torchvision("models").pretended


def test_an_import_that_fails_for_another_reason_still_fails(pretend):
    pretend("raise RuntimeError('another reason')")
    with pytest.raises(RuntimeError, match="another reason"):
        import_torchvision("datasets")


def test_without_torchvision_it_says_what_to_install(monkeypatch, pretend, tmp_path):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError, match=r"pip install 'iai-tasks\[vision\]'"):
        mnist(tmp_path)


@pytest.mark.usefixtures("datasets")
@pytest.mark.parametrize("length", [0, 3, 9, 40])
def test_a_damaged_file_is_refused_in_our_words(tmp_path, length):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        write_idx(raw / f"{part}-images-idx3-ubyte", np.zeros((4, 28, 28), dtype=np.uint8))
        write_idx(raw / f"{part}-labels-idx1-ubyte", np.zeros(4, dtype=np.uint8))
    torn = raw / "t10k-images-idx3-ubyte"
    torn.write_bytes(torn.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"`root` must hold MNIST .*; in .* it cannot be read\."):
        mnist(tmp_path)
