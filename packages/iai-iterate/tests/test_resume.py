import json
import os
import re

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_iterate import Adapted, Iterated, state_file
from slopes import Kernel, NamedSlope, Slope, SlopeState, draw
from torch.utils._pytree import tree_leaves

CASES = {
    "slope": (Slope, False),
    "named": (NamedSlope, False),
    "kernel, queries given": (Kernel, True),
    "kernel, evidence kept": (Kernel, False),
}


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request):
    regime, given_up_front = request.param
    tasks = draw(num_support=12, masked=0.2)
    learner = Iterated(regime().double(), steps=1, minibatch=4)
    return learner, tasks, tasks.query.x if given_up_front else None


def same(one, other):
    return torch.equal(one, other) and one.dtype == other.dtype


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_refinement_resumed_is_refinement_uninterrupted_bit_for_bit(case, stop, tmp_path):
    learner, tasks, query_x = case
    parts = [tasks.support[:, i:j] for i, j in [(0, 5), (5, 9), (9, 12)]]
    adapted = learner.adapt(parts[:stop], query_x).update(parts[0], fresh=False)
    adapted.save(tmp_path / "state")
    resumed = learner.resume(tmp_path / "state", like=tasks.support)
    assert (resumed.step, resumed.num_tasks) == (adapted.step, adapted.num_tasks)
    for part in (None, *parts[stop:], parts[2]):
        if part is not None:
            adapted, resumed = adapted.update(part), resumed.update(part)
        assert same(adapted.seen, resumed.seen)
        assert same(adapted.predict(tasks.query.x), resumed.predict(tasks.query.x))


@given(seed=st.integers(0, 2**32))
def test_states_that_are_views_resume_bit_for_bit_too(seed, tmp_path_factory):
    class Views(Slope):
        def update(self, state, *rest):
            after = super().update(state, *rest)
            pair = torch.stack([after.seen, after.slope[:, 0]], dim=1)  # unaligned, strided
            return type(after)(pair[:, 1:], pair[:, 0])

    path = tmp_path_factory.mktemp("views") / "state"
    tasks, learner = draw(num_tasks=17, seed=seed), Iterated(Views().double(), steps=1, minibatch=4)
    adapted = learner.adapt(tasks.support[:, :4])
    adapted.save(path)
    resumed = learner.resume(path)
    assert adapted.state.slope.stride() == resumed.state.slope.stride()
    one, other = (a.update(tasks.support[:, 4:]).state.slope for a in (adapted, resumed))
    assert same(one, other)


def test_before_anything_is_read(case, tmp_path):
    learner, tasks, query_x = case
    Adapted.new(learner.regime, 3, query_x).save(str(tmp_path / "state"))
    resumed = learner.resume(str(tmp_path / "state"))
    assert resumed.step == 0 and resumed.seen.tolist() == [0, 0, 0]
    expected = learner.adapt(tasks.support[:, :0]).predict(tasks.query.x)
    assert torch.equal(resumed.predict(tasks.query.x), expected)


def test_the_file_is_safetensors_with_one_key_of_json(case, tmp_path):
    learner, tasks, query_x = case
    adapted = learner.adapt(tasks.support, query_x)
    adapted.save(tmp_path / "state")
    with safetensors.safe_open(tmp_path / "state", framework="pt") as file:
        assert set(json.loads(file.metadata()["iai_iterate"])) == {"format", "sha256"}
        assert len(file.metadata()) == 1
        assert file.get_tensor(".step").item() == adapted.step
    adapted.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "state").read_bytes()


def test_a_pickle_is_not_run(tmp_path):
    class Harm:
        def __reduce__(self):
            return (open, (str(tmp_path / "harmed"), "w"))

    torch.save(Harm(), tmp_path / "state")
    with pytest.raises(ValueError, match="holds no whole state"):
        Iterated(Slope(), steps=1).resume(tmp_path / "state")
    assert not (tmp_path / "harmed").exists()


def test_damaged_files_are_refused(case, tmp_path):
    learner, tasks, query_x = case
    path = tmp_path / "state"
    learner.adapt(tasks.support, query_x).save(path)
    whole = path.read_bytes()
    middle = len(whole) // 2
    places = (0, 7, 30, middle, -40, -1)
    flipped = [whole[:i] + bytes([whole[i] ^ 1]) + whole[i:][1:] for i in places]
    cut = [whole[:i] for i in (0, 7, 85, middle, len(whole) - 1)]
    other = safetensors.torch.save({"a": torch.zeros(3)})
    for damaged in (*flipped, *cut, whole + b"\0", b"something else\n", other):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="holds no whole state of this version: it is trunca"):
            learner.resume(path, like=tasks.support)
    with pytest.raises(FileNotFoundError):
        learner.resume(tmp_path / "absent")


@pytest.mark.parametrize(
    "record",
    ["", "[]", "[" * 100_000, "{}", '{"format": 1}', '{"format": 2, "sha256": "%s"}', "null"],
)
def test_records_of_another_kind_are_refused(record, tmp_path):
    record = record.replace("%s", state_file._checksum({"a": torch.zeros(3)}))
    metadata = {"iai_iterate": record}
    payload = safetensors.torch.save({"a": torch.zeros(3)}, metadata)
    (tmp_path / "state").write_bytes(payload)
    with pytest.raises(ValueError, match="holds no whole state of this version"):
        state_file.read_state(tmp_path / "state")


FORGED = {
    "nothing": lambda t: t.clear(),
    "no step": lambda t: t.pop(".step"),
    "no seen": lambda t: t.pop(".seen"),
    "no fresh": lambda t: t.pop(".fresh"),
    "more": lambda t: t.update(more=torch.zeros(3)),
    "steps": lambda t: t.update({".step": torch.ones(3, dtype=torch.int64)}),
    "step of another kind": lambda t: t.update({".step": torch.tensor(1.5)}),
    "more tasks": lambda t: t.update({".seen": torch.zeros(10**6, dtype=t[".seen"].dtype)}),
    "seen of two axes": lambda t: t.update({".seen": t[".seen"][:, None]}),
    "seen of another kind": lambda t: t.update({".seen": t[".seen"].bool()}),
    "more minibatches": lambda t: t.update({".fresh": torch.ones(9, dtype=torch.bool)}),
    "fresh of another kind": lambda t: t.update({".fresh": torch.ones(3)}),
    "one number of queries": lambda t: t.update({".query_x": torch.tensor(2.0)}),
    "queries without an axis": lambda t: t.update({".query_x": torch.zeros(3)}),
    "queries of other tasks": lambda t: t.update({".query_x": torch.zeros(2, 4, 1)}),
    "queries of no learner": lambda t: t.update({".query_x": torch.zeros(3, 10**12, 0)}),
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
def test_forged_files_are_refused_in_a_sentence(case, forge, tmp_path):
    learner, tasks, query_x = case
    path = tmp_path / "state"
    learner.adapt(tasks.support, query_x).save(path)
    tensors = state_file.read_state(path)
    forge(tensors)
    state_file.write_state(path, tensors)
    with pytest.raises(ValueError, match="state` cannot be resumed by this learner: "):
        learner.resume(path, like=tasks.support)


def test_parameters_under_their_own_names_are_stored_by_them(tmp_path):
    tasks, learner = draw(), Iterated(NamedSlope().double(), steps=1, minibatch=4)
    adapted = learner.adapt(tasks.support[:, :8])
    adapted.save(tmp_path / "state")
    stored = state_file.read_state(tmp_path / "state")
    assert torch.equal(
        stored[".state.theta['body.0.weight']"], adapted.state.theta["body.0.weight"]
    )
    resumed = learner.resume(tmp_path / "state")
    for one in (tasks.support[:, 8:], tasks.support[:, :2]):
        adapted, resumed = adapted.update(one), resumed.update(one)
        assert same(adapted.predict(tasks.query.x), resumed.predict(tasks.query.x))


def test_states_of_another_learner_are_refused(tmp_path):
    tasks, path = draw(), tmp_path / "state"

    def saved(regime, query_x=None):
        learner = Iterated(regime.double(), steps=1, minibatch=4)
        learner.adapt(tasks.support, query_x).save(path)

    def refused(regime, sentence, like=None):
        with pytest.raises(ValueError, match=f"cannot be resumed by this learner: {sentence}"):
            Iterated(regime.double(), steps=1).resume(path, like=like)

    saved(Slope())
    refused(Kernel(), r".*; only stored: \.state\.seen, \.state\.slope; only here: none\.")

    class Wider(Slope):
        def init(self, num_tasks, query_x=None):
            state = super().init(num_tasks)
            return type(state)(state.slope.expand(-1, 2), state.seen)

    refused(
        Wider(),
        r"the stored \.state\.slope is \(3, 1\), torch.float64; here it would be \(3, 2\)",
    )
    with pytest.raises(ValueError, match=r"the stored .* is .*torch.float64; here .*float32"):
        Iterated(Slope(), steps=1).resume(path)
    saved(Kernel(), tasks.query.x)
    refused(
        Slope(),
        r".*; only stored: \.query_x, \.state\.answer; only here: \.state\.slope",
    )
    saved(Kernel())
    refused(Kernel(), "it keeps evidence for queries that come later; give `like`, a minibatch")
    refused(Slope(), r".*; only stored: \.evidence\[0\]\.keys\[0\], .*; only here: .*\.slope")
    sentence = "`like` must have 3 tasks and at least one example; got "
    refused(Kernel(), rf"{sentence}\(2, 12\)", tasks.support[:2])
    refused(Kernel(), rf"{sentence}\(3, 0\)", tasks.support[:, :0])
    refused(Kernel(dim=4), r"the stored \.evidence\[0\]\.keys\[0\] is \(3, 4, 5\)", tasks.support)


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_numbers_that_are_not_finite_are_never_saved(case, number, tmp_path):
    learner, tasks, query_x = case
    adapted = learner.adapt(tasks.support, query_x)
    tree = adapted.evidence[0][0] if adapted.state is None else adapted.state
    tree_leaves(tree)[-2][0, 0] = number
    with pytest.raises(ValueError, match=r"A state must be finite; its \.\w+.* holds NaN"):
        adapted.save(tmp_path / "state")
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    tasks = draw()
    adapted = Iterated(Slope().double(), steps=1).adapt(tasks.support)
    adapted.save(tmp_path / "state")
    before = (tmp_path / "state").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            with pytest.raises(OSError, match="could not be written: No space left on device"):
                adapted.update(tasks.support).save(tmp_path / "state")
        assert [path.name for path in tmp_path.iterdir()] == ["state"]
        assert (tmp_path / "state").read_bytes() == before
    with pytest.raises(OSError, match="absent/state` could not be written: No such file"):
        adapted.save(tmp_path / "absent" / "state")


def test_a_state_that_is_no_pytree_of_tensors_is_not_saved(tmp_path):
    class Named(Slope):
        def encode(self, batch):
            return {"name": "batch", "batch": batch}

        needs_query = True

    adapted = Iterated(Named().double(), steps=1).adapt(draw().support)
    with pytest.raises(TypeError, match="must be a pytree of tensors; got str as its"):
        adapted.save(tmp_path / "state")


def test_a_dtype_that_safetensors_does_not_store_is_named(tmp_path):
    class Complex(Slope):
        def init(self, num_tasks, query_x=None):
            slope, seen = super().init(num_tasks)
            return SlopeState(slope.to(torch.complex128), seen)

    adapted = Adapted.new(Complex().double(), 2)
    sentence = r"^safetensors does not store torch.complex128, the dtype of \.state\.slope\.$"
    with pytest.raises(TypeError, match=sentence):
        adapted.save(tmp_path / "state")
    assert not list(tmp_path.iterdir())


def test_a_folder_is_no_file(tmp_path, monkeypatch):
    learner = Iterated(Slope().double(), steps=1)
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path, "."):
        sentence = f"`path` must be a file; `{path}` is a directory."
        for call in (Adapted.new(learner.regime, 2).save, learner.resume):
            with pytest.raises(IsADirectoryError, match=re.escape(sentence)):
                call(path)
    assert not list(tmp_path.iterdir())
