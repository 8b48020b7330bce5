"""Files of states that someone damaged or forged: refused in a sentence, or as good as saved."""

import functools
import os
import sys
import tempfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from forgery import changes, damages, declarations, peak, tried
from hypothesis import given
from iai_iterate import Iterated, state_file
from slopes import Kernel, NamedSlope, Slope, draw

CASES = {
    "slope": (Slope, False),
    "named": (NamedSlope, False),
    "kernel, queries given": (Kernel, True),
    "kernel, evidence kept": (Kernel, False),
}
every_case = pytest.mark.parametrize("case", CASES)
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
    metadata = {"iai_iterate": state_file._seal(tensors)}
    return safetensors.torch.save(tensors, metadata)


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
