import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_iterate import Adapted, Iterated, state_file
from slopes import Kernel, Slope, draw

CASES = {
    "slope": (Slope, False),
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


def test_the_file_holds_no_code(case, tmp_path):
    learner, tasks, query_x = case
    learner.adapt(tasks.support, query_x).save(tmp_path / "state")
    payload = (tmp_path / "state").read_bytes().split(b"\n", 1)[1]
    (tmp_path / "payload").write_bytes(payload)
    content = torch.load(tmp_path / "payload", weights_only=True)
    assert content["num_tasks"] == 3


def test_a_file_that_carries_code_is_not_run(tmp_path):
    class Harm:
        def __reduce__(self):
            return (open, (str(tmp_path / "harmed"), "w"))

    state_file.write_state(tmp_path / "state", {"num_tasks": Harm()})
    with pytest.raises(pickle.UnpicklingError):
        Iterated(Slope(), steps=1).resume(tmp_path / "state")
    assert not (tmp_path / "harmed").exists()


def test_damaged_files_are_refused(case, tmp_path):
    learner, tasks, query_x = case
    path = tmp_path / "state"
    learner.adapt(tasks.support, query_x).save(path)
    whole = path.read_bytes()
    flipped = [whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in (0, 30, 500, -40, -1)]
    cut = [whole[:i] for i in (0, 10, 85, len(whole) // 2, len(whole) - 1)]
    for damaged in (*flipped, *cut, whole + b"\0", b"something else\n"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="holds no whole state: it is truncated, was changed"):
            learner.resume(path, like=tasks.support)
    with pytest.raises(FileNotFoundError):
        learner.resume(tmp_path / "absent")


def test_states_of_another_learner_are_refused(tmp_path):
    tasks, path = draw(), tmp_path / "state"

    def saved(regime, query_x=None):
        learner = Iterated(regime.double(), steps=1, minibatch=4)
        learner.adapt(tasks.support, query_x).save(path)

    def refused(regime, sentence, like=None):
        with pytest.raises(ValueError, match=f"cannot be resumed by this learner: {sentence}"):
            Iterated(regime.double(), steps=1).resume(path, like=like)

    saved(Slope())
    refused(Kernel(), "one forms a state without queries, and the other keeps evidence")

    class Wider(Slope):
        def init(self, num_tasks, query_x=None):
            state = super().init(num_tasks)
            return type(state)(state.slope.expand(-1, 2), state.seen)

    refused(Wider(), r"the stored \.slope is \(3, 1\), torch.float64; here it would be \(3, 2\)")
    with pytest.raises(ValueError, match=r"the stored \.\w+ is .*torch.float64; here .*float32"):
        Iterated(Slope(), steps=1).resume(path)
    saved(Kernel(), tasks.query.x)
    refused(Slope(), r"the stored tensors are \.answer, \.seen; here they would be \.seen, \.slope")
    saved(Kernel())
    refused(Kernel(), "it keeps evidence for queries that come later; give `like`, a minibatch")
    refused(Slope(), "one forms a state")
    sentence = "`like` must have 3 tasks and at least one example; got "
    refused(Kernel(), rf"{sentence}\(2, 12\)", tasks.support[:2])
    refused(Kernel(), rf"{sentence}\(3, 0\)", tasks.support[:, :0])
    refused(Kernel(dim=4), r"the stored \.keys\[0\] is \(3, 4, 5\)", tasks.support)


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_numbers_that_are_not_finite_are_never_saved(case, number, tmp_path):
    learner, tasks, query_x = case
    adapted = learner.adapt(tasks.support, query_x)
    tree = adapted.evidence[0][0] if adapted.state is None else adapted.state
    tree[-2][0, 0] = number
    with pytest.raises(ValueError, match=r"must be finite to be saved; \.\w+ holds NaN or"):
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
            patch.setattr(state_file.os, name, full)
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
