import json
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_train.testing.comparison import equal as _equal
from iai_train.training.tree import flatten, unflatten

tensors = st.builds(
    lambda seed, shape: torch.randn(shape, generator=torch.Generator().manual_seed(seed)),
    st.integers(0, 2**31),
    st.lists(st.integers(0, 3), max_size=3),
)
keys = st.one_of(st.integers(-2, 20), st.text(alphabet="ab/~#0123456789.", max_size=4))
plain = st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.floats(allow_nan=False))
trees = st.recursive(
    st.one_of(tensors, plain),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(keys, inner, max_size=4),
    ),
    max_leaves=12,
)


def same(a: object, b: object) -> bool:
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return _equal(a, b)


@given(st.dictionaries(keys, trees, max_size=4))
def test_through_json_and_back_it_is_the_same(tree: dict[object, object]) -> None:
    leaves, structure = flatten(tree)
    assert same(tree, unflatten(leaves, json.loads(json.dumps(structure))))


def test_shared_memory_is_copied() -> None:
    weight = torch.zeros(3)
    leaves, _ = flatten({"a": weight, "b": weight[:2]})
    weight.add_(1)
    assert leaves["a"].sum() == leaves["b"].sum() == 0
    assert leaves["a"].data_ptr() != leaves["b"].data_ptr()


class Point(NamedTuple):
    x: float


@pytest.mark.parametrize("leaf", [Point(0.0), object(), {1, 2}, 1j, {0.5: 1}, {True: 1}])
def test_what_cannot_be_stored_is_named(leaf: object) -> None:
    with pytest.raises(TypeError, match="`outer/inner`"):
        flatten({"outer": {"inner": leaf}})


@pytest.mark.parametrize("structure", [{"tensor": "absent"}, {"dict": 3}, {"other": []}, {}, [1]])
def test_a_structure_of_something_else_is_refused(structure: object) -> None:
    with pytest.raises(ValueError, match="Not the structure of a state"):
        unflatten({}, structure)


def test_a_sparse_tensor_is_no_part_of_a_state() -> None:
    with pytest.raises(
        TypeError, match=r"`a/b` must be a dense tensor to be stored; got torch\.sp"
    ):
        flatten({"a": {"b": torch.eye(2).to_sparse()}})
