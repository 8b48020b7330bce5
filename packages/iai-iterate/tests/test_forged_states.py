"""Files of states that someone damaged or forged: refused in a sentence, or as good as saved."""

import functools
import json
import os
import sys
import tempfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from forgery import changes, damages, declarations, peak, tried
from hypothesis import given
from iai_iterate import Adapted, Iterated, state_file
from slopes import Kernel, NamedSlope, Slope, draw

CASES = {
    "slope": (Slope, False),
    "named": (NamedSlope, False),
    "kernel, queries given": (Kernel, True),
    "kernel, evidence kept": (Kernel, False),
}
every_case = pytest.mark.parametrize("case", CASES)
MARGIN = 32e6  # bytes that are none of the file's
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is measured on Linux")


@functools.cache
def saved(case):
    """A learner, its tasks, and the file of what it read of them."""
    regime, given_up_front = CASES[case]
    tasks = draw(num_support=12, masked=0.2)
    learner = Iterated(regime().double(), steps=1, minibatch=4)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "state")
        learner.adapt(tasks.support, tasks.query.x if given_up_front else None).save(path)
        return learner, tasks, path.read_bytes()


def same(one, other):
    alike = all(torch.equal(one[name], other.get(name, torch.empty(0))) for name in one)
    return alike and [t.dtype for t in one.values()] == [other[name].dtype for name in one]


def sealed(tensors):
    seal = json.dumps({"format": 1, "sha256": state_file._checksum(tensors)})
    return safetensors.torch.save(tensors, {"iai_iterate": seal})


def resumed(case, content):
    """What is resumed of a file, if anything; it holds what the file holds, and answers."""
    learner, tasks, _ = saved(case)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "state")
        path.write_bytes(content)
        adapted = tried(lambda: learner.resume(path, like=tasks.support))
        if adapted is not None:
            adapted.save(Path(folder, "again"))
            again = safetensors.torch.load(Path(folder, "again").read_bytes())
            assert same(again, safetensors.torch.load(content))
            query_x = tasks.query.x if adapted.query_x is None else adapted.query_x
            assert adapted.predict(query_x).shape == (*query_x.shape[:2], 1)
        return adapted


@every_case
def test_the_file_that_was_saved_is_read(case):
    content = saved(case)[2]
    assert resumed(case, content) is not None
    assert resumed(case, sealed(safetensors.torch.load(content))) is not None


@every_case
@given(damage=damages | declarations)
def test_damage_is_found(case, damage):
    whole = saved(case)[2]
    content = damage(whole)
    if resumed(case, content) is not None:  # the damage was none
        assert same(safetensors.torch.load(content), safetensors.torch.load(whole))


@every_case
@given(one=changes, other=changes)
def test_what_is_sealed_anew_is_a_state_of_this_learner_or_refused(case, one, other):
    content = sealed(other(one(safetensors.torch.load(saved(case)[2]))))
    adapted = resumed(case, content)
    if adapted is not None:
        tensors = safetensors.torch.load(content)
        assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())
        assert adapted.step >= 0 and bool((adapted.seen >= 0).all())


def seen(number):
    counts = torch.full((3,), number, dtype=torch.float64)
    return {".seen": counts, ".state.seen": counts.clone()}


FORGED = {
    "NaN": ({".state.slope": torch.full((3, 1), torch.nan).double()}, r"\.slope holds NaN or inf"),
    "infinity": (seen(torch.inf), r"A state must be finite; its \.seen holds NaN or infinity\."),
    "steps below 0": ({".step": torch.tensor(-1)}, "counts of minibatches and examples must be w"),
    "examples before any step": ({".step": torch.tensor(0)}, "and agree with one another"),
    "examples below 0": (seen(-1.0), "counts of minibatches and examples must be whole, at least"),
    "half an example": (seen(0.5), "counts of minibatches and examples must be whole, at least 0"),
    "two counts": ({".seen": seen(9.0)[".seen"]}, "must be whole, at least 0, and agree with"),
    "more tasks": (
        {".seen": torch.zeros(10**6).double()},
        r"the stored \.seen is|\.state\.slope is",
    ),
}


@pytest.mark.parametrize(("forged", "sentence"), FORGED.values(), ids=FORGED)
def test_what_no_learner_saves_is_refused(forged, sentence, tmp_path):
    learner, _, content = saved("slope")
    (tmp_path / "state").write_bytes(sealed(safetensors.torch.load(content) | forged))
    with pytest.raises(ValueError, match=f"cannot be resumed by this learner: .*{sentence}"):
        learner.resume(tmp_path / "state")


class Wide(Slope):
    """A thousand numbers a task."""

    def init(self, num_tasks, query_x=None):
        slope, seen = super().init(num_tasks)
        return type(super().init(1))(slope.expand(-1, 1000), seen)


def many_names():
    entry = b'"%x":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    header = b"{" + b",".join(entry % number for number in range(300_000)) + b"}"
    return len(header).to_bytes(8, "little") + header


def many_tasks():
    count = torch.zeros(10**5).double()
    slope = torch.zeros(3, 1000).double()
    others = {".step": torch.tensor(1), ".fresh": torch.zeros(0, dtype=torch.bool)}
    return sealed({".seen": count, ".state.seen": count.clone(), ".state.slope": slope} | others)


def many_minibatches():
    tensors = safetensors.torch.load(saved("kernel, evidence kept")[2])
    return sealed(tensors | {".fresh": torch.ones(10**6, dtype=torch.bool)})


BOMBS = {
    "names": (Slope, many_names, "holds no whole state of this version"),
    "tasks": (Wide, many_tasks, r"the stored \.state\.slope is \(3, 1000\)"),
    "minibatches": (Kernel, many_minibatches, "it stores less evidence than it says"),
}


@on_linux
@pytest.mark.parametrize(("regime", "forge", "sentence"), BOMBS.values(), ids=BOMBS)
def test_what_is_declared_takes_no_memory(regime, forge, sentence, tmp_path):
    learner, path = Iterated(regime().double(), steps=1), tmp_path / "state"
    path.write_bytes(forge())

    def resume():
        with pytest.raises(ValueError, match=sentence):
            learner.resume(path, like=saved("slope")[1].support)

    assert peak(resume) < 2 * path.stat().st_size + MARGIN


@on_linux
def test_a_large_state_takes_twice_its_file(tmp_path):
    learner = Iterated(Wide().double(), steps=1)
    Adapted.new(learner.regime, 5_000).save(tmp_path / "state")
    size = (tmp_path / "state").stat().st_size
    assert size > 40e6
    assert peak(lambda: learner.resume(tmp_path / "state")) < 2 * size + MARGIN


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    learner = saved("slope")[0]
    for name in ("pipe", "zeros"):
        with pytest.raises(ValueError, match="holds no whole state of this version"):
            learner.resume(tmp_path / name)


def test_a_file_that_may_not_be_read_says_so(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "state").write_bytes(saved("slope")[2])
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(PermissionError, match=r"state` could not be read: Permission denied\."):
        saved("slope")[0].resume(tmp_path / "state")
