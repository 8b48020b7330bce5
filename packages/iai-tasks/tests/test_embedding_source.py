"""Embeddings as a program is told to get them."""

import pytest
import torch
from iai_tasks import EmbeddingSource, LabelledImages, load_backbone

SMALL = {"backbone": "random", "size": 8}


@pytest.fixture
def asked(monkeypatch, four_classes):
    """What CIFAR-10, of which the four classes take the place, is asked for."""
    calls = []

    def read(root, **options):
        calls.append((root, options))
        return four_classes

    monkeypatch.setattr("iai_tasks.embedding_source._CLASS_NAMES", tuple("abcd"))
    monkeypatch.setattr("iai_tasks.embedding_source.cifar10", read)
    return calls


@pytest.fixture
def four_classes():
    pixels = torch.arange(8.0 * 32 * 32 * 3).remainder(251).reshape(8, -1)
    labels = torch.arange(4)
    return LabelledImages(
        train_images=pixels[:4], train_labels=labels, test_images=pixels[4:], test_labels=labels
    )


def test_both_parts_are_embedded_once_and_kept(tmp_path, asked, four_classes):
    source, shown = EmbeddingSource(**SMALL), []
    found, prints = source.load(tmp_path, progress=lambda **how: shown.append(how))
    backbone = load_backbone("random", size=8)
    for part in ("train", "test"):
        pixels = getattr(four_classes, f"{part}_images").reshape(-1, 32, 32, 3).movedim(-1, 1)
        expected = backbone.embed(pixels.to(torch.uint8))
        assert torch.equal(getattr(found, f"{part}_images"), expected)
        assert torch.equal(getattr(found, f"{part}_labels"), torch.arange(4))
        end = {"description": f"embed cifar10-{part}", "completed": 4, "total": 4}
        assert end in shown
    assert prints.keys() == {"cifar10-train", "cifar10-test", "backbone"}
    assert prints["backbone"] == backbone.fingerprint
    assert asked == [(tmp_path / "images", {"download": True})]
    shown.clear()
    again, same = source.load(tmp_path, progress=lambda **how: shown.append(how))
    assert (again.fingerprint, same, shown) == (found.fingerprint, prints, [])


@pytest.mark.usefixtures("asked")
def test_each_fingerprint_is_of_what_it_names(tmp_path, four_classes):
    _, prints = EmbeddingSource(**SMALL).load(tmp_path / "a")
    _, larger = EmbeddingSource(backbone="random", size=9).load(tmp_path / "a")
    assert {name for name in prints if prints[name] != larger[name]} == {"backbone"}
    four_classes.test_images[0, 0] += 1
    _, changed = EmbeddingSource(**SMALL).load(tmp_path / "b")
    assert {name for name in prints if prints[name] != changed[name]} == {"cifar10-test"}


def test_every_third_image_of_a_folder_is_a_test_image(tmp_path):
    pillow = pytest.importorskip("PIL.Image", reason="needs the extra `images`")
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for image in range(3 + 3 * label):
            picture = pillow.new("RGB", (9, 9), (60 * label, 20 * image, 9))
            picture.save(tmp_path / "mine" / name / f"{image}.png")
    (tmp_path / "mine" / "dog" / "torn.png").write_bytes(b"torn")
    options = {"source": "folder", "data": tmp_path / "mine", "stores": tmp_path / "kept", **SMALL}
    with pytest.raises(ValueError, match=r"torn\.png"):
        EmbeddingSource(**options).load(tmp_path)
    with pytest.warns(UserWarning, match="1 of 10 images could not be read"):
        found, prints = EmbeddingSource(**options, unreadable="skip").load(tmp_path)
    assert found.train_labels.tolist() == [0] * 2 + [1] * 4
    assert found.test_labels.tolist() == [0] + [1] * 2
    assert found.train_images.shape == (6, 72)
    assert prints.keys() == {"mine", "backbone"}
    assert (tmp_path / "kept" / "yours-mine-random-8").is_dir()


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="`source` must be one of 'cifar10', 'digits', 'folder'"):
        EmbeddingSource(source="imagenet")
    with pytest.raises(ValueError, match="`data` must be set where `source` is folder; got None"):
        EmbeddingSource(source="folder")
