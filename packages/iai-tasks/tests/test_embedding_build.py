"""Building a store: a process that is stopped loses a shard at most, and the bytes do not tell."""

import errno
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from fake_embedder import (
    FakeEmbedder,
    SomeUnreadable,
    content,
    flip,
    numbered,
    of_another_format,
    opened,
    sealed,
)
from hypothesis import given
from hypothesis import strategies as st
from iai_tasks import EmbeddingStore, ImageClasses, embed, image_files
from iai_tasks.embeddings import _embedding_build

CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from fake_embedder import FakeEmbedder, numbered
from iai_tasks import EmbeddingStore, embed
from iai_tasks.embeddings import _embedding_build
_embedding_build._SHARD = 4
if sys.argv[2] == "read":
    print(int(EmbeddingStore.open(sys.argv[3]).embeddings.sum()))
else:
    backbone = FakeEmbedder(seconds=float(sys.argv[4]))
    show = lambda done, total: print(done, flush=True)
    embed(numbered(), backbone, sys.argv[3], progress=show)
    print("calls", backbone.num_calls, flush=True)
"""


@pytest.fixture(autouse=True)
def shards_of_four(monkeypatch):
    monkeypatch.setattr(_embedding_build, "_SHARD", 4)


def child(*arguments):
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parent), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


class Undefined(FakeEmbedder):
    """Gives an infinite number for the darkest image."""

    def embed(self, images):
        rows = FakeEmbedder.embed(self, images)
        rows[images.flatten(1).sum(1) == 0, 1] = torch.inf
        return rows


@given(
    num_images=st.integers(2, 30),
    unreadable=st.sets(st.integers(2, 29)),
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    stops=st.lists(st.integers(0, 6), max_size=3),
    torn=st.integers(0, 200),
)
@pytest.mark.filterwarnings("ignore:.*could not be read and were left out")
def test_no_interruption_shows_in_the_bytes(num_images, unreadable, sizes, stops, torn):
    source = SomeUnreadable(num_images, {one for one in unreadable if one < num_images})
    with tempfile.TemporaryDirectory() as temporary, pytest.MonkeyPatch.context() as patch:
        whole, stopped = Path(temporary, "whole"), Path(temporary, "stopped")
        embed(source, FakeEmbedder(), whole, unreadable="skip")
        for number, stop in enumerate(stops):
            patch.setattr(_embedding_build, "_SHARD", sizes[number % len(sizes)])
            try:
                embed(source, FakeEmbedder(stop_after=stop), stopped, unreadable="skip")
            except KeyboardInterrupt:
                for shard in stopped.glob(".shards/*.safetensors"):  # as after a power cut
                    written = shard.read_bytes()
                    shard.write_bytes(written[: len(written) - torn % (number + 2)])
        patch.setattr(_embedding_build, "_SHARD", sizes[-1])
        store = embed(source, FakeEmbedder(), stopped, unreadable="skip")
        assert content(stopped) == content(whole)
        assert store.skipped == tuple(f"{one}.png" for one in sorted(source.unreadable))


def twice_the_first_image(file):
    tensors, record = opened(file)
    tensors["index"][1] = tensors["index"][0]
    sealed(file, tensors, record)


def without_index(file):
    tensors, record = opened(file)
    sealed(file, {"embeddings": tensors["embeddings"]}, record)


@pytest.mark.parametrize(
    ("damage", "kept"),
    [
        (lambda file: None, 5),
        (flip, 4),
        (lambda file: file.write_bytes(b""), 4),
        (of_another_format, 4),
        (lambda file: file.unlink(), 4),
        (lambda file: shutil.copy(file.with_name("images-4-8.safetensors"), file), 4),
        (twice_the_first_image, 4),
        (without_index, 4),
    ],
)
def test_shards_that_are_not_as_written_are_embedded_again_and_no_others(tmp_path, damage, kept):
    folder = tmp_path / "store"
    with pytest.raises(KeyboardInterrupt):
        embed(numbered(), FakeEmbedder(stop_after=5), folder)
    damage(folder / ".shards" / "images-8-12.safetensors")
    with pytest.raises(KeyboardInterrupt):
        embed(numbered(), FakeEmbedder(stop_after=2), folder)
    backbone = FakeEmbedder()
    embed(numbered(), backbone, folder)
    assert backbone.num_calls == 10 - kept - 2
    embed(numbered(), FakeEmbedder(), tmp_path / "whole")
    assert content(folder) == content(tmp_path / "whole")


def test_a_killed_build_goes_on_and_ends_with_the_same_bytes(tmp_path):
    folder = tmp_path / "store"
    with child("build", folder, 0.05) as process:
        for line in process.stdout:
            if int(line) >= 12:
                process.send_signal(signal.SIGKILL)
                break
        with pytest.raises(
            FileNotFoundError, match=r"finished store; .*store has no emb.* goes on"
        ):
            EmbeddingStore.open(folder)
        process.wait()
    assert not (folder / "embeddings.safetensors").exists()
    backbone = FakeEmbedder()
    embed(numbered(), backbone, folder)
    assert 0 < backbone.num_calls <= 7
    embed(numbered(), FakeEmbedder(), tmp_path / "whole")
    assert content(folder) == content(tmp_path / "whole")


def test_of_two_builders_one_waits_and_others_read_at_once(tmp_path):
    folder = tmp_path / "store"
    with child("build", folder, 0.2) as one, child("build", folder, 0.2) as other:
        ends = [process.communicate()[0].splitlines() for process in (one, other)]
    assert [one.returncode, other.returncode] == [0, 0]
    assert sorted(lines[-1] for lines in ends) == ["calls 0", "calls 10"]
    assert sorted(len(lines) for lines in ends) == [1, 12]
    store = EmbeddingStore.open(folder)
    with child("read", folder) as reader:
        assert int(reader.communicate()[0]) == int(store.embeddings.sum())


def test_an_unreadable_image_stops_the_work_or_is_left_out(tmp_path):
    source, folder = SomeUnreadable(20, [9, 11, 13, 17]), tmp_path / "store"
    with pytest.raises(ValueError, match=r"9\.png cannot be read .*\(What is done is kept; unread"):
        embed(source, FakeEmbedder(), folder)
    backbone = FakeEmbedder()
    with pytest.warns(UserWarning, match="were left out") as warned:
        store = embed(source, backbone, folder, unreadable="skip")
    assert [str(one.message) for one in warned] == [
        "4 of 20 images could not be read and were left out: 9.png, 11.png, 13.png and 1 more."
    ]
    assert backbone.num_images == 20 - 8 - 4
    assert store.skipped == ("9.png", "11.png", "13.png", "17.png")
    kept = [index for index in range(20) if index not in source.unreadable]
    assert torch.equal(store.embeddings, FakeEmbedder().embed(source.whole.images[kept]))
    assert torch.equal(store.labels, source.labels[kept])
    with pytest.warns(UserWarning, match="4 of 20 images could not be read"):
        assert embed(source, backbone, folder, unreadable="skip").skipped == store.skipped
    with pytest.raises(ValueError, match=r"was made without 9\.png, .* and 1 more, which could"):
        embed(source, backbone, folder)


def test_what_an_earlier_call_left_out_is_read_again_by_a_stricter_one(tmp_path):
    source, folder = SomeUnreadable(8, [1]), tmp_path / "store"
    with pytest.raises(KeyboardInterrupt):
        embed(source, FakeEmbedder(stop_after=1), folder, unreadable="skip")
    with pytest.raises(ValueError, match=r"1\.png cannot be read .*\(What is done is kept; unread"):
        embed(source, FakeEmbedder(), folder)
    source.unreadable.clear()  # the disk is well again
    backbone = FakeEmbedder()
    assert len(embed(source, backbone, folder).labels) == 8
    assert backbone.num_images == 8


def test_corrupt_files_of_a_folder(tmp_path):
    pillow = pytest.importorskip("PIL.Image", reason="needs the extra `images`")
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(3):
            image = pillow.effect_noise((40, 30), 50 + number)
            image.save(tmp_path / "pets" / name / f"{number}.png")
    torn = tmp_path / "pets" / "dog" / "1.png"
    torn.write_bytes(torn.read_bytes()[:200])
    source = image_files(tmp_path / "pets")
    with pytest.raises(ValueError, match=r"dog.1\.png cannot be read as an image"):
        embed(source, FakeEmbedder(), tmp_path / "store")
    with pytest.warns(UserWarning, match=r"1 of 6 images .* left out: dog/1\.png\."):
        store = embed(source, FakeEmbedder(), tmp_path / "store", unreadable="skip")
    assert store.labels.tolist() == [0, 0, 0, 1, 1]
    assert store.embeddings[1].tolist() == FakeEmbedder().embed(source.read(1, 4)[None])[0].tolist()
    for file in (tmp_path / "pets" / "dog").iterdir():
        file.write_bytes(b"")
    emptied = image_files(tmp_path / "pets")
    with pytest.raises(ValueError, match="images of every class; none of 'dog' can be read"):
        embed(emptied, FakeEmbedder(), tmp_path / "other", unreadable="skip")
    with pytest.raises(ValueError, match=r"`source` must be as it was when .*store was made"):
        embed(emptied, FakeEmbedder(), tmp_path / "store", unreadable="skip")


def test_numbers_that_are_not_finite_name_their_image(tmp_path):
    images = numbered(6).images.clone()
    images[3] = 0
    source = ImageClasses(images=images, labels=numbered(6).labels, class_names=("even", "odd"))
    with pytest.raises(ValueError, match=r"image 3 cannot be embedded: .* must give finite number"):
        embed(source, Undefined(), tmp_path / "store")


@pytest.mark.usefixtures("untyped")
def test_vectors_of_another_size_are_refused(tmp_path):
    narrow = type("Narrow", (), {"name": "n", "fingerprint": "n", "size": 4, "dim": 3})()
    narrow.embed = FakeEmbedder().embed
    with pytest.raises(
        ValueError, match=r"image 0 .* float32 vectors of shape \(1, 3\); got torch"
    ):
        embed(numbered(6), narrow, tmp_path / "store")


def test_what_a_kill_left_half_written_is_cleared_away(tmp_path):
    folder = tmp_path / "store"
    with pytest.raises(KeyboardInterrupt):
        embed(numbered(), FakeEmbedder(stop_after=1), folder)
    for name in (".images-4-8.safetensors.1f.tmp", ".embeddings.safetensors.17.tmp"):
        (folder / ".shards" / name).write_bytes(b"half")
    embed(numbered(), FakeEmbedder(), folder)
    assert set(content(folder)) == {"embeddings.safetensors"}
    (folder / ".shards").mkdir()
    (folder / ".shards" / "images-0-4.safetensors").write_bytes(b"left by a kill at the end")
    embed(numbered(), FakeEmbedder(), folder)
    assert set(content(folder)) == {"embeddings.safetensors"}


@pytest.mark.parametrize(("num_written", "file"), [(3, "images-12-16"), (10, "embeddings")])
def test_a_disk_that_is_full_says_so_and_keeps_what_is_done(
    tmp_path, monkeypatch, num_written, file
):
    folder, calls = tmp_path / "store", []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > num_written:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(OSError, match=rf"{file}.* not be written: No space left on devi"):
            embed(numbered(), FakeEmbedder(), folder)
    assert len(list((folder / ".shards").iterdir())) == num_written
    backbone = FakeEmbedder()
    embed(numbered(), backbone, folder)
    assert backbone.num_calls == 10 - num_written
    embed(numbered(), FakeEmbedder(), tmp_path / "whole")
    assert content(folder) == content(tmp_path / "whole")
