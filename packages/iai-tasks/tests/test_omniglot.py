"""Omniglot, read from a small folder of the published layout, written here."""

from sys import modules
from types import SimpleNamespace

import pytest
import torch
from iai_tasks import omniglot

pillow = pytest.importorskip("PIL.Image", reason="needs the extra `images`")

PARTS = {"images_background": {"Latin": 2, "Greek": 1}, "images_evaluation": {"Tengwar": 2}}


def write(root):
    """Characters of three drawings: black ink on white, a square of another size each."""
    side = 0
    for part, alphabets in PARTS.items():
        for alphabet, count in alphabets.items():
            for character in range(1, count + 1):
                folder = root / "omniglot-py" / part / alphabet / f"character{character:02}"
                folder.mkdir(parents=True)
                side += 10
                for drawing in range(3):
                    image = pillow.new("1", (105, 105), 1)
                    image.paste(0, (30, 30, 30 + side, 30 + side))
                    image.save(folder / f"{side:04}_{drawing:02}.png")


def test_what_the_files_hold(tmp_path):
    write(tmp_path)
    characters = omniglot(tmp_path)
    assert characters.class_names == (
        "Greek/character01",
        "Latin/character01",
        "Latin/character02",
        "Tengwar/character01",
        "Tengwar/character02",
    )
    assert characters.groups == ("Greek", "Latin", "Latin", "Tengwar", "Tengwar")
    assert characters.image_shape == (1, 28, 28)
    assert characters.counts.tolist() == [3] * 5
    ink = characters.images.float().mean(dim=(1, 2, 3))[::3] / 255  # white on black
    sides = torch.tensor([30.0, 10.0, 20.0, 40.0, 50.0])
    torch.testing.assert_close(ink, (sides / 105) ** 2, rtol=0.05, atol=0)


@pytest.mark.parametrize("part", PARTS)
def test_a_folder_without_the_images_says_how_to_get_them(tmp_path, part):
    write(tmp_path)
    (tmp_path / "omniglot-py" / part).rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=rf"{part} holds no Omniglot\. .*`download=True`"):
        omniglot(tmp_path)


def test_what_the_folder_lacks_is_downloaded(tmp_path, monkeypatch):
    write(tmp_path / "published")
    asked = []

    def fetch(root, *, background, download):
        asked.append((background, download))
        part = "images_background" if background else "images_evaluation"
        source = tmp_path / "published" / "omniglot-py" / part
        (root / "omniglot-py").mkdir(parents=True, exist_ok=True)
        source.rename(root / "omniglot-py" / part)

    datasets = SimpleNamespace(Omniglot=fetch)
    monkeypatch.setattr(
        modules["iai_tasks.images.omniglot"], "import_torchvision", lambda part: datasets
    )
    for _ in range(2):
        images = omniglot(tmp_path / "data", size=10, download=True).images
        assert images.shape == (15, 1, 10, 10)
    assert asked == [(True, True), (False, True)]


def test_a_size_must_be_positive(tmp_path):
    with pytest.raises(ValueError, match="`size` must be at least 1; got 0"):
        omniglot(tmp_path, size=0)
