"""Sources of images: every file is read as image_folder reads it, and no change goes unseen."""

import os
import shutil
import sys

import pytest
import torch
from iai_tasks import Backbone, ImageArrays, ImageSource, image_files, image_folder
from iai_tasks.interfaces import Embedder

pillow = pytest.importorskip("PIL.Image", reason="needs the extra `images`")


def arrays(**changes):
    images = torch.arange(3 * 3 * 16).to(torch.uint8).view(3, 3, 4, 4)
    kept = {"images": images, "labels": torch.tensor([0, 1, 1]), "class_names": ("cat", "dog")}
    return ImageArrays(**kept | changes)


@pytest.fixture
def folder(tmp_path):
    """Images of every kind, in two classes."""
    root = tmp_path / "pets"
    kinds = {"L": 100, "RGB": (255, 0, 0), "RGBA": (10, 20, 30, 51), "I;16": 100 * 256, "P": 1}
    for label, name in enumerate(("cat", "dog")):
        (root / name / "deep").mkdir(parents=True)
        for number, (mode, ink) in enumerate(kinds.items()):
            image = pillow.new(mode, (6 + label, 6), ink)
            if mode == "P":
                image.putpalette([0, 0, 0, 9, 90, 200])
            image.save(root / name / "deep" / f"{number}.png")
    (root / ".hidden").mkdir()
    (root / "cat" / "notes.txt").write_text("no image")
    return root


def test_files_are_read_one_at_a_time_as_image_folder_reads_them(folder):
    together, lazy = image_folder(folder, size=4), image_files(str(folder))
    assert isinstance(lazy, ImageSource)
    assert len(lazy) == 10
    assert lazy.class_names == together.class_names == ("cat", "dog")
    assert torch.equal(lazy.labels, together.labels)
    assert lazy.name(9) == "dog/deep/4.png"
    for index, image in enumerate(together.images):
        assert torch.equal(lazy.read(index, 4), image)
    assert lazy.read(0, 7).shape == (3, 7, 7)


def test_a_copy_of_a_folder_has_its_fingerprint(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)
    assert image_files(tmp_path / "copy").fingerprint == image_files(folder).fingerprint


def change_in_place(folder):
    file = folder / "cat/deep/1.png"
    before = file.stat()
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        change_in_place,
        lambda folder: (folder / "cat/deep/1.png").unlink(),
        lambda folder: (folder / "cat/deep/1.png").rename(folder / "cat/deep/x.png"),
        lambda folder: (folder / "cat/deep/1.png").rename(folder / "dog/1.png"),
        lambda folder: (folder / "cat").rename(folder / "a cat"),
    ],
)
def test_what_changes_in_a_folder_changes_the_fingerprint(folder, change):
    before = image_files(folder).fingerprint
    change(folder)
    assert image_files(folder).fingerprint != before


def test_a_file_that_has_gone_has_a_fingerprint_and_is_named_when_read(folder):
    files = image_files(folder)
    (folder / files.name(3)).unlink()
    assert len(files.fingerprint) == 64
    with pytest.raises(ValueError, match=r"cat.deep.3\.png cannot be read as an image: "):
        files.read(3, 4)


def test_folders_without_classes_or_images(tmp_path):
    with pytest.raises(ValueError, match=r"`root` must hold a folder for each class; .* none"):
        image_files(tmp_path)
    (tmp_path / "dog").mkdir()
    with pytest.raises(
        ValueError, match=r"must hold images of every class; .*dog holds none that ends with \.bmp"
    ):
        image_files(tmp_path)


def test_without_pillow_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"pip install 'iai-tasks\[images\]'"):
        image_files(tmp_path)


def test_arrays_are_given_as_they_are_and_grey_ones_three_times():
    source = arrays()
    assert isinstance(source, ImageSource)
    assert len(source) == 3
    assert source.name(2) == "image 2"
    assert torch.equal(source.read(2, 99), source.images[2])
    grey = arrays(images=source.images[:, :1])
    assert torch.equal(grey.read(1, 99), source.images[1, :1].repeat(3, 1, 1))


@pytest.mark.parametrize(
    "changes",
    [
        {"images": arrays().images + 1},
        {"images": arrays().images[:, :1]},
        {"images": arrays().images.view(3, 3, 16)[..., :9].reshape(3, 3, 3, 3)},
        {"labels": torch.tensor([1, 0, 1])},
        {"class_names": ("cat", "cow")},
    ],
)
def test_what_changes_in_arrays_changes_the_fingerprint(changes):
    assert arrays(**changes).fingerprint != arrays().fingerprint
    again = {name: value.clone() for name, value in changes.items() if name != "class_names"}
    assert arrays(**changes | again).fingerprint == arrays(**changes).fingerprint


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"images": torch.zeros(3, 3, 4, 4)}, TypeError, "`images` must be uint8; got torch.float"),
        ({"labels": torch.tensor([0.0, 1, 1])}, TypeError, "`labels` must be int64; got torch.f"),
        ({"images": arrays().images[:, :2]}, ValueError, "hold at least one number; got (3, 2, 4"),
        ({"images": arrays().images[..., :3]}, ValueError, "square and hold at least one number"),
        ({"images": arrays().images[:0]}, ValueError, "at least one number; got (0, 3, 4, 4)."),
        ({"labels": torch.tensor([0, 1])}, ValueError, "(image,) = (3,), one for each image; got"),
        ({"labels": torch.tensor([0, 1, 2])}, ValueError, "from 0 to 1, the classes of `class_n"),
        ({"labels": torch.tensor([0, 1, -1])}, ValueError, "use each; -1 is unused or has no nam"),
        ({"labels": torch.tensor([0, 0, 0])}, ValueError, "use each; 1 is unused or has no name."),
    ],
)
def test_arrays_that_do_not_fit(changes, error, text):
    with pytest.raises(error) as caught:
        arrays(**changes)
    assert text in str(caught.value)


def test_a_backbone_is_an_embedder_and_takes_what_sources_give(folder):
    pooled = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    backbone = Backbone(name="colour", module=pooled, size=4, mean=(0, 0, 0), std=(1, 1, 1))
    assert isinstance(backbone, Embedder)
    for source in (image_files(folder), arrays(), arrays(images=arrays().images[:, :1])):
        assert backbone.embed(source.read(1, backbone.size)[None]).shape == (1, 3)
