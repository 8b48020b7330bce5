"""What every mode asks of steps, of states and of losses."""

import subprocess
import sys
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from iai_iterate import (
    ConjugateGradient,
    ImplicitGradient,
    first_order,
    greedy,
    rematerialised,
    reptile,
    steady,
    truncated,
    unrolled,
)
from torch import Tensor
from torch.utils._pytree import tree_map

MODES = {
    "first_order": first_order,
    "greedy": greedy,
    "implicit": ImplicitGradient(
        lambda solution, start, _: solution["w"] - start["w"],
        ConjugateGradient(),
        solved=lambda state: state["w"],
    ),
    "rematerialised": rematerialised,
    "reptile": reptile,
    "truncated": truncated(2),
    "unrolled": unrolled,
}
every_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)


def start(**more):
    return {"w": torch.zeros(3, requires_grad=True), "count": torch.zeros(3), **more}


def descend(state, _):
    return {**state, "w": state["w"] / 2 + 1}


def descend_in_place(state, _):
    with torch.no_grad():
        state["w"].div_(2).add_(1)
    return {**state, "w": state["w"] * 1}


def count_in_place(state, _):
    state["count"].add_(1)
    return state


def replace(state, _):
    state["w"] = state["w"] / 2 + 1
    return state


def remove(state, _):
    return {"w": state["w"], "count": state.pop("count")}


@every_mode
@pytest.mark.parametrize(
    ("step", "name"),
    [
        (descend_in_place, r"its \['w'\]"),
        (count_in_place, r"its \['count'\]"),
        (replace, r"its \['w'\]"),
        (remove, r"(its \['count'\]|it)"),
    ],
)
def test_a_step_that_works_in_place_is_refused(mode, step, name):
    sentence = f"^`step` must leave the state that it is given as it was; it changed {name} in pla"
    with pytest.raises(ValueError, match=sentence):
        mode(step, lambda state: state["w"], start(), range(2))


def test_a_view_that_is_written_to_changes_what_it_is_of():
    def step(state, _):
        state[0].zero_()
        return state.clone()

    with pytest.raises(ValueError, match="as it was; it changed it in place"):
        steady(step)(torch.ones(2, 3), None)


def test_inference_tensors_count_no_changes_and_are_let_through():
    with torch.inference_mode():
        losses, _ = unrolled(lambda x, _: x + 1, lambda x: x, torch.zeros(2), range(3))
    assert losses[:, 0].tolist() == [1, 2, 3]


def test_a_change_beside_an_inference_tensor_is_seen():
    with torch.inference_mode():
        constant = torch.zeros(3)
    with pytest.raises(ValueError, match=r"it changed its \['count'\] in place"):
        steady(count_in_place)(start(constant=constant), None)


@dataclass
class Opaque:
    w: Tensor


class Nested(NamedTuple):
    inner: list[object]


@every_mode
def test_a_state_that_torch_does_not_know_is_refused(mode):
    for state, got in [
        (Opaque(torch.zeros(3)), r"Opaque\."),
        (Nested([None, Opaque(torch.zeros(3))]), r"Opaque as its \.inner\[1\]\."),
        ({"w": torch.zeros(3), "name": "w"}, r"str as its \['name'\]\."),
    ]:
        with pytest.raises(TypeError, match=f"^`state` must be a pytree, .* and None; got {got}"):
            mode(lambda state, _: state, lambda state: torch.zeros(3), state, range(2))


@every_mode
def test_numbers_and_none_are_let_through(mode):
    losses, state = mode(descend, lambda s: s["w"], start(a=None, b=2, c=0.5, d=True), range(2))
    assert losses[:, 0].tolist() == [1, 1.5]
    assert {name: state[name] for name in "abcd"} == {"a": None, "b": 2, "c": 0.5, "d": True}


@every_mode
@pytest.mark.parametrize(
    ("loss", "got"),
    [
        (lambda state: state["w"].sum(), r"\(\)"),
        (lambda state: state["w"][:, None], r"\(3, 1\)"),
        (lambda state: 1.0, "float"),
    ],
)
def test_losses_are_one_number_a_task(mode, loss, got, own_errors):
    sentence = f"^`loss` must give one number a task, `task`; got {got}\\.$"
    with pytest.raises(ValueError, match=sentence):
        mode(descend, loss, start(), range(2))


@every_mode
def test_a_gradient_by_a_constant_state_is_explained(mode):
    def step(state, _):
        total = (state["w"] - 1).square().sum()
        (slope,) = torch.autograd.grad(total, state["w"], create_graph=True)
        return {**state, "w": state["w"] - 0.1 * slope}

    def rollout():
        return mode(step, lambda state: state["w"], start(), range(3))[0]

    if mode in (unrolled, MODES["rematerialised"]):
        assert rollout().shape == (3, 3)
        return
    with pytest.raises(
        ValueError,
        match=r"^The state passed to `step` does not require gradients; inside",
    ):
        rollout()


COMPILED = """
import torch
from iai_iterate import unrolled

def rollout(w, y):
    return unrolled(lambda s, _: {"w": s["w"] * y}, lambda s: s["w"], {"w": w}, [0, 1])[0]

compiled = torch.compile(rollout, fullgraph=True, backend="eager")
assert compiled(torch.ones(3), torch.tensor(2.0)).tolist() == [[2.0] * 3, [4.0] * 3]
"""


def test_a_rollout_compiles_whole():
    # In a process of its own, as what checks shapes in tests does not compile.
    subprocess.run([sys.executable, "-c", COMPILED], check=True)


def test_other_errors_of_a_step_are_its_own():
    learned = torch.ones(2, requires_grad=True)
    for state in (learned, learned.detach()):
        with pytest.raises(RuntimeError, match=r"^mine$"):
            steady(_fail)(state, "mine")
    with pytest.raises(RuntimeError, match=r"^element 0 does not require grad$"):
        steady(_fail)(learned, "element 0 does not require grad")


def _fail(state, words):
    raise RuntimeError(words)


def test_the_start_is_left_where_a_step_is_refused_before_it_writes():
    before = start()
    kept = tree_map(torch.clone, before)
    with pytest.raises(TypeError):
        steady(descend_in_place)({**before, "other": Opaque(before["w"])}, None)
    assert torch.equal(before["w"], kept["w"])
