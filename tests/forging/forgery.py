"""Forged files: hypothesis draws what is done to a whole one, and a test says what must hold.

A strategy draws functions. Those of `damages` and `declarations` take the bytes of a file; those of
`changes` take its tensors, which the test seals anew, as a stranger can.
"""

import json
import os
import pickle
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from hypothesis import currently_in_test_context, event
from hypothesis import strategies as st
from torch import Tensor

T = TypeVar("T")
Tensors = dict[str, Tensor]

counts: Counter[str] = Counter()
"""How many files were tried, and how many were refused; the end of a run reports it."""

OURS = (ValueError, OSError, FileNotFoundError, IsADirectoryError)
HARM = "a-forged-file-ran-code"


class Harm:
    """Makes a file where a pickle of it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (HARM,)


def tried(read: Callable[[], T]) -> T | None:
    """What was read; None if it was refused, in one sentence of ours."""
    counts["tried"] += 1
    result, refused = None, None
    try:
        result = read()
    except OURS as error:
        refused = error
    assert not Path(HARM).exists()
    if refused is not None:
        text = refused.strerror if isinstance(refused, OSError) else str(refused)
        assert type(refused) in OURS, refused  # no subclass, which would be another's
        assert text.endswith(".") and "\n" not in text and len(text) < 1000, text
        counts["refused"] += 1
    if currently_in_test_context():
        event("read" if refused is None else "refused")  # for --hypothesis-show-statistics
    return result


def peak(call: Callable[[], Any]) -> int:
    """The bytes that a call had in memory at its height, beyond what was there before it."""
    Path("/proc/self/clear_refs").write_text("5")  # on Linux: the peak starts anew
    before = _memory("VmRSS")
    call()
    return _memory("VmHWM") - before


def _memory(name: str) -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition(f"{name}:")[2].split()[0])


# What is done to bytes.


def flip(at: float, bit: int, whole: bytes) -> bytes:
    index = int(at * len(whole))
    return whole[:index] + bytes([whole[index] ^ 1 << bit]) + whole[index + 1 :]


def cut(at: float, whole: bytes) -> bytes:
    return whole[: int(at * len(whole))]


def insert(at: float, more: bytes, whole: bytes) -> bytes:
    index = int(at * len(whole))
    return whole[:index] + more + whole[index:]


def remove(at: float, number: int, whole: bytes) -> bytes:
    index = int(at * len(whole))
    return whole[:index] + whole[index + number :]


def begin_with(number: int, whole: bytes) -> bytes:
    return number.to_bytes(8, "little") + whole[8:]


def replace(other: bytes, whole: bytes) -> bytes:
    return other


_at = st.floats(0, 1, exclude_max=True)
_deep = b"[" * 100_000
_others = (b"", b"\n" * 99, pickle.dumps(Harm()), b'{"a":' * 100_000, _deep, b"\x80\x02]q\x00." * 9)
damages = st.one_of(
    st.builds(partial, st.just(flip), _at, st.integers(0, 7)),
    st.builds(partial, st.just(cut), _at),
    st.builds(partial, st.just(insert), _at, st.binary(min_size=1, max_size=9)),
    st.builds(partial, st.just(remove), _at, st.integers(1, 9)),
    st.builds(partial, st.just(begin_with), st.integers(0, 2**64 - 1)),
    st.builds(partial, st.just(replace), st.sampled_from(_others) | st.binary(max_size=300)),
)


# What is done to the header of a file of safetensors, which declares what follows.


def declare(entry: int, key: str, value: Any, whole: bytes) -> bytes:
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    name = sorted(header)[entry % len(header)]
    header[name] = {**header[name], key: value} if key else value
    content = json.dumps(header).encode()
    return len(content).to_bytes(8, "little") + content + whole[8 + length :]


_sizes = st.sampled_from([-1, 0, 1, 2, 2**31, 2**40, 2**63 - 1, 2**64, 0.5, "1", None])
_dtypes = st.sampled_from(["F4", "F8_E8M0", "F8_E5M2", "F16", "U64", "C64", "BOOL", "X", "", 7])
_values = st.sampled_from([None, 1, "", "[" * 100_000, [], {}, {"record": 1}, "null", '{"a": 1}'])
declarations = st.one_of(
    st.builds(partial, st.just(declare), st.integers(0, 9), st.just("shape"), st.lists(_sizes)),
    st.builds(
        partial,
        st.just(declare),
        st.integers(0, 9),
        st.just("data_offsets"),
        st.lists(_sizes, max_size=3),
    ),
    st.builds(partial, st.just(declare), st.integers(0, 9), st.just("dtype"), _dtypes),
    st.builds(
        partial,
        st.just(declare),
        st.integers(0, 9),
        st.sampled_from(["", "iai_tasks", "iai_iterate"]),
        _values,
    ),
)


# What is done to tensors, before the file is sealed anew.


def convert(entry: int, dtype: str, tensors: Tensors) -> Tensors:
    name = _name(entry, tensors)
    return tensors | {name: tensors[name].to(getattr(torch, dtype))}


def shape(entry: int, how: str, tensors: Tensors) -> Tensors:
    name = _name(entry, tensors)
    tensor = tensors[name]
    shaped = {
        "empty": lambda: tensor[..., :0] if tensor.ndim else tensor.new_empty(0),
        "longer": lambda: torch.cat([tensor if tensor.ndim else tensor[None]] * 2),
        "shorter": lambda: tensor[1:] if tensor.ndim else tensor.expand(2),
        "one axis more": lambda: tensor[None],
        "one axis": lambda: tensor.flatten(),
        "transposed": lambda: tensor.mT if tensor.ndim > 1 else tensor[..., None],
        "none of much": lambda: tensor.new_empty(0, 2**40),
    }
    return tensors | {name: shaped[how]().contiguous()}


def fill(entry: int, number: float, everywhere: bool, tensors: Tensors) -> Tensors:
    name = _name(entry, tensors)
    tensor = tensors[name].clone()
    filling = torch.tensor(number, dtype=torch.float64).to(tensor.dtype)
    tensor.view(-1)[: None if everywhere else 1] = filling
    return tensors | {name: tensor}


def leave_out(entry: int, tensors: Tensors) -> Tensors:
    name = _name(entry, tensors)
    return {other: tensor for other, tensor in tensors.items() if other != name}


def rename(entry: int, name: str, tensors: Tensors) -> Tensors:
    return {**leave_out(entry, tensors), name: tensors[_name(entry, tensors)]}


def add(name: str, size: int, tensors: Tensors) -> Tensors:
    return {**tensors, name: torch.zeros(size)}


def exchange(one: int, other: int, tensors: Tensors) -> Tensors:
    first, second = _name(one, tensors), _name(other, tensors)
    return tensors | {first: tensors[second].clone(), second: tensors[first].clone()}


def _name(entry: int, tensors: Tensors) -> str:
    return sorted(tensors)[entry % len(tensors)]


_entry = st.integers(0, 9)
_dtypes_of_torch = st.sampled_from(
    [
        "float16",
        "bfloat16",
        "float32",
        "float64",
        "float8_e5m2",
        "bool",
        "uint8",
        "int8",
        "int32",
        "int64",
        "uint64",
    ]
)
_shapes = st.sampled_from(
    ["empty", "longer", "shorter", "one axis more", "one axis", "transposed", "none of much"]
)
_numbers = st.sampled_from([float("nan"), float("inf"), -float("inf"), -1, 0.5, 7, 2**40, 1e300])
_names = st.sampled_from(["", "x", ".state", "a" * 5000, "../../etc/passwd", "a\nb"])
changes = st.one_of(
    st.builds(partial, st.just(convert), _entry, _dtypes_of_torch),
    st.builds(partial, st.just(shape), _entry, _shapes),
    st.builds(partial, st.just(fill), _entry, _numbers, st.booleans()),
    st.builds(partial, st.just(leave_out), _entry),
    st.builds(partial, st.just(rename), _entry, _names),
    st.builds(partial, st.just(add), _names, st.integers(0, 9)),
    st.builds(partial, st.just(exchange), _entry, _entry),
)
