"""Sources of images: every file is read as image_folder reads it, and no change goes unseen."""

import os
import shutil
import sys

import pytest
import torch
from iai_tasks import Backbone, ImageSource, image_files, image_folder
from iai_tasks.interfaces import Embedder

pillow = pytest.importorskip("PIL.Image", reason="needs the extra `images`")


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


def test_a_backbone_is_an_embedder_and_takes_what_sources_give(folder):
    pooled = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    backbone = Backbone(name="colour", module=pooled, size=4, mean=(0, 0, 0), std=(1, 1, 1))
    assert isinstance(backbone, Embedder)
    for source in (image_files(folder), image_folder(folder, size=8, channels=1)):
        assert backbone.embed(source.read(1, backbone.size)[None]).shape == (1, 3)
