"""Stores of embeddings: whole or refused, opened without a lock, of one backbone and source."""

import pytest
import safetensors.torch
import torch
from fake_embedder import FakeEmbedder, SomeUnreadable, content, flip, numbered, of_another_format
from iai_tasks import EmbeddingStore, embed
from iai_tasks.embeddings import _embedding_build, embedding_store

STORE = "embeddings.safetensors"


@pytest.fixture(autouse=True)
def shards_of_four(monkeypatch):
    monkeypatch.setattr(_embedding_build, "_SHARD", 4)


def nothing():
    source = SomeUnreadable(2, ())
    source.whole = ()
    return source


def test_a_store_is_the_embeddings_and_what_they_are_of(tmp_path):
    source, backbone, seen = numbered(10), FakeEmbedder(), []
    folder = tmp_path / "deep" / "store"
    store = embed(source, backbone, folder, progress=lambda *numbers: seen.append(numbers))
    assert torch.equal(store.embeddings, FakeEmbedder().embed(source.images))
    assert torch.equal(store.labels, source.labels)
    assert store.class_names == ("even", "odd")
    assert (store.backbone, store.backbone_fingerprint) == ("fake", "f" * 64)
    assert store.source_fingerprint == source.fingerprint
    assert store.skipped == ()
    assert seen == [(0, 10), (4, 10), (8, 10), (10, 10)]
    assert set(content(folder)) == {"embeddings.safetensors"}
    assert [path.name for path in folder.parent.iterdir()] == ["store"]


def test_a_finished_store_is_opened_and_what_is_written_to_it_stays_here(tmp_path):
    backbone = FakeEmbedder()
    first = embed(numbered(), backbone, tmp_path / "store")
    calls, before = backbone.num_calls, content(tmp_path / "store")
    second = embed(numbered(), backbone, str(tmp_path / "store"))
    assert backbone.num_calls == calls
    first.embeddings.zero_()
    assert second.embeddings.all()
    assert content(tmp_path / "store") == before


@pytest.mark.parametrize("finished", [False, True])
def test_another_backbone_or_source_is_refused(tmp_path, finished):
    folder = tmp_path / "store"
    if finished:
        embed(numbered(), FakeEmbedder(), folder)
    else:
        with pytest.raises(KeyboardInterrupt):
            embed(numbered(), FakeEmbedder(stop_after=2), folder)
    other = FakeEmbedder(name="large", fingerprint="e" * 64)
    text = r"with, 'fake' \(fingerprint f{12}\); got 'large' \(e{12}\)\. Delete the folder"
    with pytest.raises(ValueError, match=text):
        embed(numbered(), other, folder)
    if finished:
        with pytest.raises(ValueError, match=text):
            EmbeddingStore.open(folder, backbone=other)
    with pytest.raises(ValueError, match=r"`source` must be as it was when .* have changed\. Del"):
        embed(numbered(38), FakeEmbedder(), folder)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda file: flip(file), r"embeddings\.safetensors is damaged"),
        (lambda file: file.write_bytes(file.read_bytes()[:-6]), r"\.safetensors is damaged"),
        (lambda file: file.write_bytes(b""), r"\.safetensors is damaged"),
        (
            lambda file: file.write_bytes(file.read_bytes().replace(b"odd", b"ODD")),
            r"\.safetensors is damaged",
        ),
        (
            lambda file: safetensors.torch.save_file({"labels": torch.zeros(3)}, file),
            "or was not written by iai-tasks",
        ),
        (
            lambda file: safetensors.torch.save_file({}, file, {"iai_tasks": "[]"}),
            "or was not written by iai-tasks",
        ),
        (of_another_format, "format 2; it is of format 1, which another version"),
    ],
)
def test_a_damaged_store_is_refused(tmp_path, damage, text):
    folder = tmp_path / "store"
    embed(numbered(), FakeEmbedder(), folder)
    damage(folder / STORE)
    for call in (
        lambda: EmbeddingStore.open(folder),
        lambda: embed(numbered(), FakeEmbedder(), folder),
    ):
        with pytest.raises(ValueError, match=text):
            call()


def test_a_store_of_the_format_before_is_to_be_made_anew(tmp_path):
    for name in ("embeddings.npy", "labels.npy", "manifest.json"):
        (tmp_path / name).touch()
    with pytest.raises(FileNotFoundError, match="Call `embed`, which builds the store"):
        EmbeddingStore.open(tmp_path)
    text = r"holds embeddings\.npy\. If an earlier version .* made it, delete it to embed anew"
    with pytest.raises(ValueError, match=text):
        embed(numbered(), FakeEmbedder(), tmp_path)


def test_what_is_no_store_is_refused_and_left_alone(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent has no embeddings\.saf.* Call `embed`"):
        EmbeddingStore.open(tmp_path / "absent")
    (tmp_path / "mine").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name, held in (("mine", "notes.txt"), ("file", "file")):
        with pytest.raises(ValueError, match=rf"or a new one; .*{name} holds {held}\."):
            embed(numbered(), FakeEmbedder(), tmp_path / name)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"
    assert len(embed(numbered(), FakeEmbedder(), tmp_path / "empty").labels) == 40


def test_what_is_not_its_own_is_refused_or_stays(tmp_path):
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / "images-00001-of-00002.safetensors").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"holds images-00001-of-00002\.safetensors\."):
        embed(numbered(), FakeEmbedder(), folder)
    assert content(folder) == {"images-00001-of-00002.safetensors": b"mine"}
    (folder / "images-00001-of-00002.safetensors").rename(folder / ".notes.tmp")
    embed(numbered(), FakeEmbedder(), folder)
    (folder / "images-0-4.safetensors").write_bytes(b"mine")
    embed(numbered(), FakeEmbedder(), folder)
    kept = content(folder)
    del kept[STORE]
    assert kept == {".notes.tmp": b"mine", "images-0-4.safetensors": b"mine"}


def test_what_is_not_its_own_among_the_shards_is_refused_or_stays(tmp_path):
    folder = tmp_path / "store"
    (folder / ".shards").mkdir(parents=True)
    (folder / ".shards" / "notes.tmp").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"\.shards must hold only what .*; it holds notes\.tmp\."):
        embed(numbered(), FakeEmbedder(), folder)
    embed(numbered(), FakeEmbedder(), tmp_path / "whole")
    (tmp_path / "whole" / STORE).rename(folder / STORE)
    embed(numbered(), FakeEmbedder(), folder)
    assert content(folder / ".shards") == {"notes.tmp": b"mine"}


def test_a_builder_opens_what_another_finishes_before_it(tmp_path, monkeypatch):
    make_folder, backbone = embedding_store._make_folder, FakeEmbedder()

    def after_another(folder):
        monkeypatch.setattr(embedding_store, "_make_folder", make_folder)
        embed(numbered(), FakeEmbedder(), folder)
        make_folder(folder)

    monkeypatch.setattr(embedding_store, "_make_folder", after_another)
    assert len(embed(numbered(), backbone, tmp_path / "store").labels) == 40
    assert backbone.num_calls == 0


def test_a_shard_is_no_store(tmp_path):
    folder = tmp_path / "store"
    with pytest.raises(KeyboardInterrupt):
        embed(numbered(), FakeEmbedder(stop_after=1), folder)
    (folder / ".shards" / "images-0-4.safetensors").rename(folder / STORE)
    with pytest.raises(
        ValueError,
        match=r"hold emb.*, 2 axes\) and labels .*; it holds emb.* and index \(int64, 1 a",
    ):
        EmbeddingStore.open(folder)


def test_embeddings_and_labels_are_as_many():
    words = {"class_names": ("a",), "backbone": "", "skipped": ()}
    words |= {"backbone_fingerprint": "", "source_fingerprint": ""}
    with pytest.raises(ValueError, match=r"one for each of 3 embeddings; got \(2,\)"):
        EmbeddingStore(
            embeddings=torch.zeros(3, 2), labels=torch.zeros(2, dtype=torch.int64), **words
        )


def test_a_link_to_an_empty_folder_leads_to_the_store(tmp_path):
    (tmp_path / "large disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "large disk")
    made = embed(numbered(), FakeEmbedder(), tmp_path / "link")
    opened = EmbeddingStore.open(tmp_path / "large disk")
    assert (tmp_path / "link").is_symlink()
    assert torch.equal(made.embeddings, opened.embeddings)


def test_a_finished_store_is_opened_without_a_lock(tmp_path, monkeypatch):
    embed(numbered(), FakeEmbedder(), tmp_path / "store")

    def refuse(path):
        raise PermissionError(f"{path} cannot be written")

    monkeypatch.setattr("iai_tasks.embeddings.embedding_store.FileLock", refuse)
    assert len(embed(numbered(), FakeEmbedder(), tmp_path / "store").labels) == 40


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"unreadable": "ignore"}, "`unreadable` must be 'refuse' or 'skip'; got 'ignore'."),
        ({"source": nothing()}, "`source` must have an image; it has none."),
    ],
)
@pytest.mark.usefixtures("untyped")
def test_calls_that_do_not_fit(tmp_path, options, text):
    call = {"source": numbered(), "backbone": FakeEmbedder(), "folder": tmp_path / "store"}
    with pytest.raises(ValueError, match="must") as caught:
        embed(**call | options)
    assert str(caught.value) == text
    assert not any(tmp_path.iterdir())
