"""Files that someone damaged or forged: refused in a sentence, made anew, or as good as written."""

import functools
import json
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import safetensors.torch
import torch
from drawn_font import pattern, write_font
from fake_embedder import FakeEmbedder, content, numbered, opened, sealed
from forgery import changes, damages, declarations, flip, tried
from hypothesis import example, given
from hypothesis import strategies as st
from iai_tasks import EmbeddingStore, _tensor_file, embed, glyphs
from iai_tasks.embeddings import _embedding_build

STORE = "embeddings.safetensors"
SHARD = "images-4-8.safetensors"
needs_fonts = pytest.mark.skipif(
    not (find_spec("fontTools") and find_spec("PIL")), reason="needs the extra `fonts`"
)


@pytest.fixture(autouse=True, scope="module")
def shards_of_four():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_embedding_build, "_SHARD", 4)
        yield


@functools.cache
def whole_store(stop_after=None):
    """The bytes of a store's file, or of a shard where the work was stopped."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "store")
        try:
            embed(numbered(12), FakeEmbedder(stop_after=stop_after), folder)
        except KeyboardInterrupt:
            return (folder / ".shards" / SHARD).read_bytes()
        return (folder / STORE).read_bytes()


def stores(write):
    """What `EmbeddingStore.open` makes of the file that `write` makes of a whole one."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, STORE)
        file.write_bytes(whole_store())
        write(file)
        store = tried(lambda: EmbeddingStore.open(folder))
        if store is not None:
            num_classes = len(store.class_names)
            assert store.embeddings.dtype == torch.float32 and store.embeddings.isfinite().all()
            assert store.labels.dtype == torch.int64 and len(store.labels) == len(store.embeddings)
            assert sorted(set(store.labels.tolist())) == list(range(num_classes))
            assert all(isinstance(name, str) for name in store.class_names + store.skipped)
            return {"embeddings": store.embeddings.clone(), "labels": store.labels.clone()}


def reseal(change, file):
    tensors, record = opened(file)
    sealed(file, change(tensors), record)


@given(damage=damages | declarations)
def test_damage_to_a_store_is_found(damage):
    read = stores(lambda file: file.write_bytes(damage(whole_store())))
    if read is not None:  # the damage was none
        whole = safetensors.torch.load(whole_store())
        assert all(torch.equal(read[name], whole[name]) for name in whole)


@given(one=changes, other=changes)
def test_a_store_sealed_anew_is_a_store_or_refused(one, other):
    stores(functools.partial(reseal, lambda tensors: other(one(tensors))))


WORDS = st.sampled_from(["", "x", "\ud800", "a\nb", "[" * 10_000])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
)
KEYS = ["format", "origin", "class_names", "skipped", "more"]
PATHS = st.sampled_from([(key,) for key in KEYS] + [("origin", "backbone"), ("origin", "more")])


@given(path=PATHS, value=VALUES)
def test_a_record_sealed_anew_is_one_or_refused(path, value):
    def write(file):
        tensors, record = opened(file)
        inner = record
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        sealed(file, tensors, record)

    stores(write)


@given(text=st.sampled_from(["[" * 10_000, "{}", "[]", "7", "null", '"a"', "1e999"]) | st.text())
def test_a_record_of_any_text_is_one_or_refused(text):
    def write(file):
        tensors, _ = opened(file)
        seal = {"record": text, "sha256": _tensor_file.checksum(text, tensors)}
        safetensors.torch.save_file(tensors, file, {"iai_tasks": json.dumps(seal)})

    stores(write)


def shards(write):
    """Goes on with a store of which one shard was forged: it is as if the shard were not there."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, ".shards", SHARD)
        file.parent.mkdir()
        file.write_bytes(whole_store(stop_after=2))
        write(file)
        store = tried(lambda: embed(numbered(12), FakeEmbedder(), folder))
        if store is not None:
            assert set(content(Path(folder))) == {STORE}
            assert store.labels.tolist() == [0, 1] * 6 and store.embeddings.isfinite().all()
            return store.embeddings.clone()


@given(damage=damages | declarations)
def test_damage_to_a_shard_is_mended(damage):
    made = shards(lambda file: file.write_bytes(damage(whole_store(stop_after=2))))
    assert torch.equal(made, safetensors.torch.load(whole_store())["embeddings"])


@given(one=changes, other=changes)
def test_a_shard_sealed_anew_is_a_shard_or_embedded_again(one, other):
    made = shards(functools.partial(reseal, lambda tensors: other(one(tensors))))
    assert made.shape == (12, 5)


LETTERS = "ABCDEFGHIJ"


@functools.cache
def whole_glyphs():
    """A font, the file of letters that were drawn of it, and its name in a cache."""
    folder = Path(tempfile.mkdtemp())
    font = write_font(folder / "drawn.ttf", {letter: pattern(ord(letter)) for letter in LETTERS})
    glyphs([font], images_per_class=1, cache=folder / "cache")
    (file,) = (folder / "cache").iterdir()
    kept = font.read_bytes(), file.read_bytes(), file.name
    shutil.rmtree(folder)
    return kept


def letters(write):
    """The letters of a cache of which `write` changed the file; they are drawn anew if need be."""
    font, cached, name = whole_glyphs()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "drawn.ttf").write_bytes(font)
        Path(folder, "cache").mkdir()
        file = Path(folder, "cache", name)
        file.write_bytes(cached)
        write(file)
        drawn = tried(
            lambda: glyphs([Path(folder, "drawn.ttf")], images_per_class=1, cache=file.parent)
        )
        assert [one.name for one in file.parent.iterdir()] == [name]
        assert len(set(drawn.class_names)) == len(drawn) and drawn.image_shape == (1, 28, 28)
        assert set(drawn.class_names) <= set(LETTERS)
        return drawn


@needs_fonts
@given(damage=damages | declarations)
def test_damage_to_a_cache_is_drawn_anew(damage):
    cached = whole_glyphs()[1]
    drawn = letters(lambda file: file.write_bytes(damage(cached)))
    assert torch.equal(drawn.images, safetensors.torch.load(cached)["images"])


@needs_fonts
@given(one=changes, other=changes)
def test_a_cache_sealed_anew_is_of_these_letters_or_drawn_anew(one, other):
    letters(functools.partial(reseal, lambda tensors: other(one(tensors))))


@needs_fonts
@given(damage=damages)
@example(damage=functools.partial(flip, 0.40625, 1))  # FreeType refuses it, fontTools does not
def test_a_font_is_a_font_or_refused(damage):
    with tempfile.TemporaryDirectory() as folder:
        font = Path(folder, "drawn.ttf")
        font.write_bytes(damage(whole_glyphs()[0]))
        tried(lambda: glyphs([font], images_per_class=1))


def put(**more):
    return lambda tensors, record: (tensors | more, record)


def say(**more):
    return lambda tensors, record: (tensors, record | more)


ROWS, LABELS = torch.ones(12, 5), torch.tensor([0, 1] * 6)
FORGED = {
    "float64": (
        put(embeddings=ROWS.double()),
        r"it holds embeddings \(float64, 2 axes\) and label",
    ),
    "one axis": (put(embeddings=ROWS[:, 0].clone()), r"it holds embeddings \(float32, 1 axes\) an"),
    "NaN": (put(embeddings=ROWS * torch.nan), "must hold finite numbers; its embeddings are not."),
    "no columns": (put(embeddings=ROWS[:, :0].clone()), r"hold at least one number; got \(12, 0\)"),
    "too few labels": (put(labels=LABELS[1:].clone()), r"one for each of 12 embeddings; got \(11,"),
    "labels below 0": (put(labels=LABELS - 5), "be from 0 to 1, the classes .* got -5 to -4"),
    "large labels": (put(labels=LABELS + 10**12), "`labels` must be from 0 to 1, the classes of"),
    "a class unused": (put(labels=LABELS * 0), "and use each; got 0 to 0"),
    "float labels": (put(labels=LABELS.float()), r"labels \(float32, 1 axes\)\. Delete it to"),
    "more": (put(more=LABELS), r"and more \(int64, 1 axes\)\. Delete it to have it made anew"),
    "numbers for names": (say(class_names=[1, None]), "`class_names` must be a tuple of words"),
    "a word for names": (say(class_names="ab"), "`class_names` must be a tuple of words"),
    "no names": (say(class_names=[]), "`labels` must be from 0 to -1, the classes of"),
    "skipped": (say(skipped=None), "`skipped` must be a tuple of words"),
    "no origin": (say(origin=None), "must say which backbone and images it was made from"),
    "a number for a backbone": (
        say(origin={"backbone": 1, "backbone_fingerprint": "f", "source_fingerprint": "f"}),
        "must say which backbone and images it was made from, in three words",
    ),
    "format": (say(format=[[2]]), "must be of format 2; it is of format unknown, which another"),
}


@pytest.mark.parametrize(("forge", "sentence"), FORGED.values(), ids=FORGED)
def test_a_forged_store_is_refused_by_what_is_wrong_with_it(forge, sentence, tmp_path):
    (tmp_path / STORE).write_bytes(whole_store())
    sealed(tmp_path / STORE, *forge(*opened(tmp_path / STORE)))
    for call in (
        lambda: EmbeddingStore.open(tmp_path),
        lambda: embed(numbered(12), FakeEmbedder(), tmp_path),
    ):
        with pytest.raises(ValueError, match=sentence):
            call()


def test_a_shard_of_other_rows_is_embedded_again(tmp_path):
    for forge in (put(embeddings=torch.ones(4, 6)), put(embeddings=torch.full((4, 5), torch.inf))):
        made = shards(lambda file, forge=forge: sealed(file, *forge(*opened(file))))
        assert torch.equal(made, safetensors.torch.load(whole_store())["embeddings"])


@pytest.mark.parametrize(
    "forge",
    [
        lambda tensors: tensors | {"codes": tensors["codes"] + 0x110000},
        lambda tensors: tensors | {"codes": tensors["codes"][:1].expand(10).clone()},
        lambda tensors: tensors | {"codes": tensors["codes"][:0]},
        lambda tensors: tensors | {"images": tensors["images"][1:]},
        lambda tensors: tensors | {"images": tensors["images"].float()},
    ],
)
@needs_fonts
def test_a_forged_cache_is_drawn_anew(forge):
    drawn = letters(functools.partial(reseal, forge))
    assert drawn.class_names == tuple(LETTERS)
    assert torch.equal(drawn.images, safetensors.torch.load(whole_glyphs()[1])["images"])


def test_links_at_known_names_are_not_followed(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_bytes(b"mine")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / ".lock").symlink_to(tmp_path / "mine" / "notes")
    with pytest.raises(OSError, match=r"one.\.lock` could not be locked: Too many .* links\."):
        embed(numbered(12), FakeEmbedder(), tmp_path / "one")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / ".shards").symlink_to(tmp_path / "mine")
    with pytest.raises(ValueError, match=r"\.shards must be a folder of its own; it is a link\."):
        embed(numbered(12), FakeEmbedder(), tmp_path / "two")
    assert content(tmp_path / "mine") == {"notes": b"mine"}
