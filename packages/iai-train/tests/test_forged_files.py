"""Checkpoints, weights and logs that were damaged, or forged with a right checksum.

Each is refused in one sentence, with the run as it was; or it is loaded, and the run goes on.
"""

import contextlib
import json
import math
import struct
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_train import CheckpointError, load_weights, read_log, save_weights
from iai_train.testing.comparison import equal as _equal
from iai_train.training.checkpoint import load_checkpoint, save_checkpoint
from least_squares import Descent, GaveUpError, Interrupted, sampler_source, train
from torch import Tensor, nn

SPARE = 4_000_000  # bytes of Python's own that a small file may cost, whatever is in it


class Learner(Descent):
    """Has a buffer too."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(2))


def weights_file(folder: Path) -> Path:
    path = folder / "weights"
    save_weights(Learner(), path, {"width": 3, "names": ["a", "b"]})
    return path


@cache
def checkpoint() -> bytes:
    """A checkpoint of the 8th of 24 iterations."""
    with tempfile.TemporaryDirectory() as folder:
        with pytest.raises(GaveUpError):
            train(Learner(), Interrupted(sampler_source(), 11), out=Path(folder))
        return (Path(folder) / "checkpoint.safetensors").read_bytes()


# What may stand where a number, a tensor or a mapping should.
numbers = st.sampled_from([0, 1, -1, 8, 25, 0.5, math.nan, math.inf, 1e308, 2**70])
tensors = st.builds(
    lambda shape, dtype, number: torch.full(shape, number).to(dtype),
    st.sampled_from([(), (0,), (1,), (2,), (2, 1), (3,), (8,), (1, 2), (5056,)]),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.complex64, torch.uint8]),
    st.sampled_from([0.0, 1.0, -1.0, math.nan, math.inf, 7.0]),
)
scalars = st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=3), tensors)
nodes = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.one_of(st.text(max_size=3), st.integers(0, 3)), inner, max_size=3),
    ),
    max_leaves=6,
)


def paths(node: object, path: tuple[object, ...] = ()) -> Iterator[tuple[object, ...]]:
    """The way to every part of a nested state."""
    yield path
    keys = node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    for key in keys:
        yield from paths(node[key], (*path, key))


def forged(draw: st.DrawFn, tree: Any) -> Any:
    """The state with one part replaced, removed, doubled or spoiled."""
    *way, last = draw(st.sampled_from([path for path in paths(tree) if path]))
    parent = tree
    for key in way:
        parent = parent[key]
    old = parent[last]
    choices: list[Callable[[], object]] = [lambda: draw(nodes), lambda: draw(nodes)]
    if isinstance(old, Tensor):
        spoiled = old.clone()
        if old.numel() and old.dtype != torch.uint8:
            spoiled.view(-1)[draw(st.integers(0, old.numel() - 1))] = draw(
                st.sampled_from([-1.0, 0.0, math.nan, math.inf, 7.0])
            )
        choices += [
            lambda: spoiled,
            lambda: old.double(),
            lambda: old[None],
            lambda: old.reshape(-1)[:0],
        ]
    kind = draw(st.integers(0, len(choices) + 1))
    if kind == len(choices) and isinstance(parent, dict):
        del parent[last]
    elif kind == len(choices):
        parent.append(old)
    elif kind > len(choices) and isinstance(parent, dict):
        parent[draw(st.text(max_size=3))] = old
    else:
        parent[last] = choices[min(kind, len(choices) - 1)]()
    return tree


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Some bytes of a file changed, cut out, put in, or its header's length another."""
    at = draw(st.integers(0, len(content) - 1))
    match draw(st.sampled_from(["flip", "cut", "insert", "zero", "header", "double"])):
        case "flip":
            changed = bytes([content[at] ^ (1 << draw(st.integers(0, 7)))])
            return content[:at] + changed + content[at + 1 :]
        case "cut":
            return content[:at] + content[at + draw(st.integers(1, 1000)) :]
        case "insert":
            return content[:at] + draw(st.binary(min_size=1, max_size=9)) + content[at:]
        case "zero":
            return content[:at] + bytes(len(content[at : at + 64])) + content[at + 64 :]
        case "header":
            length = draw(st.sampled_from([0, 1, 10**8, 2**63, 2**64 - 1, len(content)]))
            return struct.pack("<Q", length) + content[8:]
        case _:
            return content + content[at:]


def check(path: Path, use: Callable[[], object], untouched: Callable[[], bool]) -> bool:
    """Whether a file was accepted. If not, one sentence says why, and all is as it was."""
    tracemalloc.start()
    try:
        use()
    except (CheckpointError, FileNotFoundError) as error:
        text = str(error)
        assert str(path) in text
        assert "\n" not in text.strip()
        assert len(text) < 4000
        assert untouched()
        return False
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2 * path.stat().st_size + SPARE
    return True


def resume(folder: Path) -> None:
    """Goes on from a checkpoint; where it can, what was loaded is what is there, and it trains."""
    path = folder / "checkpoint.safetensors"
    learner, source = Learner(), sampler_source()
    random = torch.get_rng_state()

    def untouched() -> bool:
        return (
            _equal(learner.state_dict(), Learner().state_dict())
            and _equal(source.state_dict(), sampler_source().state_dict())
            and torch.equal(torch.get_rng_state(), random)
        )

    def load() -> None:
        with contextlib.suppress(GaveUpError):  # before the first batch, unless it was finished
            train(learner, Interrupted(source, 0), out=folder)

    try:
        if check(path, load, untouched):
            held = load_checkpoint(path)[0]
            assert _equal(learner.state_dict(), held["learner"])
            assert _equal(source.state_dict(), held["processes"][0]["source"])
            assert len(train(Learner(), sampler_source(), out=folder).losses) == 24
    finally:
        torch.set_rng_state(random)


@given(st.data())
def test_forged_checkpoints(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "checkpoint.safetensors"
        path.write_bytes(checkpoint())
        tree, setup = load_checkpoint(path)
        for _ in range(data.draw(st.integers(1, 2))):
            tree = forged(data.draw, tree)
        save_checkpoint(path, tree, setup)
        resume(Path(name))


@given(st.data())
def test_damaged_checkpoints(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        content = data.draw(damaged(checkpoint()))
        (Path(name) / "checkpoint.safetensors").write_bytes(content)
        resume(Path(name))


@given(st.data())
def test_forged_weights(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = weights_file(Path(name))
        tree, setup = load_checkpoint(path)
        save_checkpoint(path, forged(data.draw, tree), setup)
        module = Learner()

        def untouched() -> bool:
            return _equal(module.state_dict(), Learner().state_dict())

        if check(path, lambda: load_weights(module, path), untouched):
            assert all(weight.isfinite().all() for weight in module.state_dict().values())


json_nodes = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=4)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["dict", "list", "tuple", "tensor", "a"]), inner, max_size=2
        ),
        st.builds(lambda key, node: {"dict": [[key, node]]}, st.text(max_size=2), inner),
    ),
    max_leaves=8,
)


@given(st.data())
def test_forged_records(data: st.DataObject) -> None:
    """The JSON in the header is another, under a right checksum."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "weights"
        part = data.draw(st.sampled_from(["structure", "setup", "format", "record", "envelope"]))
        record: Any = {"format": 2, "setup": {}, "structure": {"dict": []}}
        deep = "[" * 10**5 if data.draw(st.booleans()) else None
        node = data.draw(json_nodes)
        text = deep or json.dumps(record | {part: node} if part in record else node)
        tensors_here = {"a": torch.ones(2)}
        from iai_train.training.checkpoint import _digest

        envelope: Any = {"record": text, "sha256": _digest(text, tensors_here)}
        sealed = text if part == "envelope" else json.dumps(envelope)
        path.write_bytes(safetensors.torch.save(tensors_here, {"iai_train": sealed}))
        module = nn.Linear(1, 1)
        before = {name: weight.clone() for name, weight in module.state_dict().items()}
        assert not check(
            path, lambda: load_weights(module, path), lambda: _equal(module.state_dict(), before)
        )


lines = st.one_of(
    st.binary(max_size=20),
    json_nodes.map(lambda node: json.dumps(node).encode()),
    st.builds(
        lambda at, loss: json.dumps({"iteration": at, "loss": loss}).encode(), numbers, numbers
    ),
    st.just(b"[" * 10**5),
)


@given(st.lists(lines, max_size=6))
def test_odd_lines_of_a_log_are_left_out(content: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "log.jsonl").write_bytes(b"\n".join(content))
        for record in read_log(name):
            assert "iteration" in record
            assert all(math.isfinite(number) for number in record.values())
