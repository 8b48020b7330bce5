"""Images of many classes as a program is told to get them."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from drawn_font import pattern, write_font
from iai_tasks import ImageClasses, ImageClassSource, glyphs, image_folder

needs_fonts = pytest.mark.skipif(
    not (find_spec("fontTools") and find_spec("PIL")), reason="needs the extra `fonts`"
)


@needs_fonts
def test_glyphs_are_drawn_from_the_fonts_of_a_folder_and_kept(tmp_path):
    letters = {letter: pattern(ord(letter)) for letter in "ABCDEFGHIJKLMN"}
    (tmp_path / "fonts" / "deep").mkdir(parents=True)
    font = write_font(tmp_path / "fonts" / "deep" / "drawn.ttf", letters)
    source = ImageClassSource(data=tmp_path / "fonts", size=20, letters=12)
    found, expected = source.load(tmp_path / "cache"), glyphs([font], size=20, max_letters=12)
    assert torch.equal(found.images, expected.images)
    assert found.class_names == tuple("ABCDEFGHIJKL")
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_folder_is_read_with_a_folder_for_each_class(tmp_path):
    pillow = pytest.importorskip("PIL.Image", reason="needs the extra `images`")
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        pillow.new("L", (9, 9), len(name)).save(tmp_path / name / "0.png")
    found = ImageClassSource(source="folder", data=tmp_path).load(tmp_path / "none")
    assert torch.equal(found.images, image_folder(tmp_path, size=28).images)


def test_omniglot_is_looked_for_in_the_cache_that_is_set_then_in_the_default(monkeypatch):
    asked, image = [], torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
    images = ImageClasses(images=image, labels=torch.tensor([0]), class_names="a")

    def read(root, **options):
        asked.append((root, options))
        return images

    monkeypatch.setattr("iai_tasks.image_class_source.omniglot", read)
    for options in ({}, {"cache": Path("c")}, {"cache": Path("c"), "data": Path("d")}):
        assert ImageClassSource(source="omniglot", **options).load(Path("default")) is images
    assert [root for root, _ in asked] == [Path("default"), Path("c"), Path("d")]
    assert all(options == {"size": 28, "download": True} for _, options in asked)


def test_an_unknown_source_is_refused():
    with pytest.raises(ValueError, match="`source` must be one of 'glyphs', 'omniglot', 'folder'"):
        ImageClassSource(source="imagenet")
