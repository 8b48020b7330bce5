"""Folders of images: every kind of image becomes bytes of one kind, and what cannot is named."""

import errno
import sys

import numpy as np
import pytest
import torch
from iai_tasks import FewShotClassification, image_folder

pillow = pytest.importorskip("PIL.Image", reason="needs the extra `images`")

RED, CLEAR = (255, 0, 0), (10, 20, 30, 0)


def save(folder, name, image, **options):
    folder.mkdir(parents=True, exist_ok=True)
    image.save(folder / name, **options)


def one(folder, channels=3, size=4):
    """The only image of a folder of folders."""
    return image_folder(folder, size=size, channels=channels).images[0]


def test_folders_are_classes_and_other_files_nothing(tmp_path):
    for name, count in (("cat", 2), ("dog", 3)):
        for number in range(count):
            save(tmp_path / name / "deep", f"{number}.PNG", pillow.new("L", (5, 5), number))
        (tmp_path / name / "notes.txt").write_text("no image")
        (tmp_path / name / "._0.png").write_text("what an operating system keeps")
        save(tmp_path / name / ".checkpoints", "0.png", pillow.new("L", (5, 5), 9))
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "README").write_text("no class")
    images = image_folder(str(tmp_path), size=4, channels=1)
    assert images.class_names == images.groups == ("cat", "dog")
    assert images.labels.tolist() == [0, 0, 1, 1, 1]
    assert images.images.dtype == torch.uint8
    assert images.images.shape == (5, 1, 4, 4)
    assert images.images[:, 0, 0, 0].tolist() == [0, 1, 0, 1, 2]


@pytest.mark.parametrize(
    ("mode", "ink", "channels", "expected"),
    [
        ("1", 1, 3, (255, 255, 255)),
        ("L", 100, 3, (100, 100, 100)),
        ("L", 100, 1, (100,)),
        ("RGB", RED, 3, RED),
        ("RGB", RED, 1, (76,)),
        ("CMYK", (0, 255, 255, 0), 3, RED),
        ("RGBA", (*RED, 255), 3, RED),
        ("RGBA", CLEAR, 3, (255, 255, 255)),
        ("RGBA", (0, 0, 0, 51), 1, (204,)),
        ("LA", (0, 51), 3, (204, 204, 204)),
        ("I;16", 100 * 256 + 7, 1, (100,)),
    ],
)
def test_every_mode_becomes_bytes(tmp_path, mode, ink, channels, expected):
    name = "image.tif" if mode == "CMYK" else "image.png"
    save(tmp_path / "class", name, pillow.new(mode, (6, 6), ink))
    image = one(tmp_path, channels)
    assert image.shape == (channels, 4, 4)
    assert image[:, 1, 2].tolist() == list(expected)


def test_a_palette_and_its_transparent_colour(tmp_path):
    palette = pillow.new("P", (6, 6), 1)
    palette.putpalette([0, 0, 0, *RED])
    save(tmp_path / "a" / "class", "image.gif", palette)
    assert one(tmp_path / "a")[:, 0, 0].tolist() == list(RED)
    save(tmp_path / "b" / "class", "image.png", palette, transparency=1)
    assert one(tmp_path / "b")[:, 0, 0].tolist() == [255, 255, 255]


def test_the_middle_square_is_kept_and_turned_as_the_camera_noted(tmp_path):
    wide = np.zeros((4, 8), dtype=np.uint8)
    wide[:, 2:6] = np.arange(16).reshape(4, 4) * 10
    image = pillow.fromarray(wide)
    save(tmp_path / "a" / "class", "image.png", image)
    assert one(tmp_path / "a", 1)[0].flatten().tolist() == list(range(0, 160, 10))
    exif = pillow.Exif()
    exif[0x0112] = 3  # upside down
    save(tmp_path / "b" / "class", "image.png", image, exif=exif)
    assert one(tmp_path / "b", 1)[0].flatten().tolist() == list(range(150, -1, -10))


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    save(tmp_path / "cat", "good.png", pillow.effect_noise((40, 40), 50))
    whole = (tmp_path / "cat" / "good.png").read_bytes()
    for content in (whole[:200], b"no image", b""):
        (tmp_path / "cat" / "bad.png").write_bytes(content)
        with pytest.raises(ValueError, match=r"cat.bad\.png cannot be read as an image"):
            image_folder(tmp_path, size=4)


def test_numbers_of_unknown_range_are_refused(tmp_path):
    save(tmp_path / "class", "image.tif", pillow.new("F", (6, 6), 0.5))
    with pytest.raises(ValueError, match=r"image\.tif .* 32 bits \(mode F\), not of 8 or 16"):
        one(tmp_path)


def test_folders_without_classes_or_images(tmp_path):
    with pytest.raises(ValueError, match=r"`root` must hold a folder for each class; .* none"):
        image_folder(tmp_path, size=4)
    with pytest.raises(ValueError, match=r"`root` must be a folder; there is none at .*absent\."):
        image_folder(tmp_path / "absent", size=4)
    save(tmp_path / "cat", "image.png", pillow.new("L", (6, 6)))
    (tmp_path / "dog").mkdir()
    with pytest.raises(
        ValueError, match=r"must hold images of every class; .*dog holds none that ends with \.bmp"
    ):
        image_folder(tmp_path, size=4)


def test_links_to_folders_are_looked_into_once(tmp_path):
    save(tmp_path / "elsewhere", "image.png", pillow.new("L", (6, 6)))
    save(tmp_path / "root" / "cat", "image.png", pillow.new("L", (6, 6)))
    (tmp_path / "root" / "cat" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "root" / "cat")
    (tmp_path / "root" / "cat" / "folder.png").mkdir()
    assert len(image_folder(tmp_path / "root", size=4).labels) == 2


def test_grey_maps_of_16_bits(tmp_path):
    (tmp_path / "class").mkdir()
    pixels = b"\x80\x00" * 16
    (tmp_path / "class" / "image.pgm").write_bytes(b"P5 4 4 65535\n" + pixels)
    assert (image_folder(tmp_path, size=4, channels=1).images == 128).all()


def test_a_disk_that_errs_is_no_bad_image(tmp_path, monkeypatch):
    save(tmp_path / "cat", "image.png", pillow.new("L", (6, 6)))

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("iai_tasks.images._image_file._read", fail)
    with pytest.raises(OSError, match="Input/output error"):
        image_folder(tmp_path, size=4)


def test_a_class_with_too_few_images_is_named(tmp_path):
    for name, count in (("cat", 3), ("dog", 4)):
        for number in range(count):
            save(tmp_path / name, f"{number}.png", pillow.new("L", (6, 6), number))
    sampler = FewShotClassification(image_folder(tmp_path, size=4), range(2), ways=2)
    generator = torch.Generator().manual_seed(0)
    sampler.sample(3, num_support=2, num_query=4, generator=generator)
    with pytest.raises(ValueError, match=r"take 1 \+ 3 images of a class; class 'cat' has 3\."):
        sampler.sample(3, num_support=2, num_query=6, generator=generator)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"size": 0}, "`size` must be at least 1; got 0."),
        ({"size": 4, "channels": 4}, "`channels` must be 1 or 3; got 4."),
    ],
)
def test_calls_that_do_not_fit(tmp_path, options, text):
    with pytest.raises(ValueError, match="must") as caught:
        image_folder(tmp_path, **options)
    assert str(caught.value) == text


def test_without_pillow_it_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "class").mkdir()
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"pip install 'iai-tasks\[images\]'"):
        image_folder(tmp_path, size=4)
