"""Files of tensors: what safetensors reads from them, and that they are whole or refused."""

import json
import os
import stat
import sys
import tempfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from forgery import peak
from hypothesis import given
from hypothesis import strategies as st
from iai_tasks._tensor_file import load_tensors, save_tensors

MAPS = Path("/proc/self/maps")  # on Linux
KINDS = {"bytes": (torch.uint8, 2), "rows": (torch.float32, 2), "labels": (torch.int64, 1)}
ROWS = {"rows": KINDS["rows"]}
RECORD = {"names": ["a", "\u03b1\udcff"], "number": 3}


def some(rows, columns, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "bytes": torch.randint(256, (rows, 3), generator=generator, dtype=torch.uint8),
        "rows": torch.randn(rows, columns, generator=generator),
        "labels": torch.randint(9, (rows,), generator=generator),
    }


@given(rows=st.integers(0, 7), columns=st.integers(0, 5), seed=st.integers(0, 99))
def test_what_was_saved_is_loaded_here_and_by_safetensors(rows, columns, seed):
    tensors = some(rows, columns, seed)
    with tempfile.TemporaryDirectory() as folder:
        first, second = Path(folder, "a.safetensors"), Path(folder, "b.safetensors")
        save_tensors(first, tensors, RECORD)
        save_tensors(second, dict(reversed(tensors.items())), RECORD)
        assert first.read_bytes() == second.read_bytes()
        assert sorted(path.name for path in Path(folder).iterdir()) == [first.name, second.name]
        loaded, record = load_tensors(first, KINDS)
        assert record == RECORD
        for other in (loaded, safetensors.torch.load_file(first)):
            assert other.keys() == tensors.keys()
            for name, tensor in tensors.items():
                assert torch.equal(other[name], tensor)
        for tensor in loaded.values():
            assert tensor.data_ptr() % tensor.element_size() == 0


def test_the_file_is_mapped_and_what_is_written_to_a_tensor_is_not_in_it(tmp_path):
    file = tmp_path / "a.safetensors"
    save_tensors(file, {"rows": torch.ones(3, 2).T}, {})
    loaded, _ = load_tensors(file, ROWS)
    if MAPS.exists():
        (mapped,) = (line.split()[0] for line in MAPS.read_text().splitlines() if str(file) in line)
        begin, end = (int(address, 16) for address in mapped.split("-"))
        assert begin <= loaded["rows"].data_ptr() < end
    loaded["rows"].zero_()
    assert load_tensors(file, ROWS)[0]["rows"].tolist() == [[1.0] * 3] * 2
    (tmp_path / "other").touch()
    assert stat.S_IMODE(file.stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)


@given(at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_bit_that_flips_is_found(at, bit):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "a.safetensors")
        save_tensors(file, some(4, 3), RECORD)
        content = bytearray(file.read_bytes())
        content[int(at * len(content))] ^= 1 << bit
        file.write_bytes(content)
        with pytest.raises(ValueError, match="is damaged, or was not written by iai-tasks"):
            load_tensors(file, KINDS)


def test_what_cannot_be_written_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "a.safetensors"
    save_tensors(file, some(4, 3), {})
    before = file.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"a\.safetensors` could not be written: No space left"):
        save_tensors(file, some(5, 3), {})
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    with pytest.raises(OSError, match=r"absent/b\.safetensors` could not be written: No such file"):
        save_tensors(tmp_path / "absent" / "b.safetensors", {}, {})


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_tensors(tmp_path / "a.safetensors", KINDS)


def test_the_record_is_json_in_the_header(tmp_path):
    file = tmp_path / "a.safetensors"
    save_tensors(file, some(1, 1), RECORD)
    with safetensors.safe_open(file, framework="pt") as opened:
        sealed = json.loads(opened.metadata()["iai_tasks"])
    assert json.loads(sealed["record"]) == RECORD


def test_a_record_that_is_too_long_to_be_read_is_not_written(tmp_path):
    with pytest.raises(
        ValueError, match=r"record of .*a\.safetensors` must fit into 4194304 bytes"
    ):
        save_tensors(tmp_path / "a.safetensors", {}, {"names": "a" * 2**22})
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured on Linux")
def test_a_header_of_many_names_takes_no_memory(tmp_path):
    entry = b'"%x":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    header = b"{" + b",".join(entry % number for number in range(300_000)) + b"}"
    file = tmp_path / "a.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header)

    def load():
        with pytest.raises(ValueError, match="is damaged, or was not written by iai-tasks"):
            load_tensors(file, KINDS)

    assert peak(load) < 2 * len(header)


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    for name in ("pipe", "zeros"):
        with pytest.raises(ValueError, match=f"{name} is damaged, or was not written by iai-tasks"):
            load_tensors(tmp_path / name, KINDS)
    with pytest.raises(IsADirectoryError, match="could not be read: Is a directory"):
        load_tensors(tmp_path, KINDS)


@pytest.mark.parametrize(
    "seal",
    ["[" * 100_000, "[]", "{}", '{"record": 1, "sha256": ""}', '{"record": [], "sha256": null}'],
)
def test_a_seal_of_another_kind_is_refused(tmp_path, seal):
    safetensors.torch.save_file(some(1, 1), tmp_path / "a", {"iai_tasks": seal})
    with pytest.raises(ValueError, match="is damaged, or was not written by iai-tasks"):
        load_tensors(tmp_path / "a", KINDS)
