"""Files of weights that someone damaged or forged: dense finite numbers are read, or nothing."""

import copy
import io
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from forgery import Harm, changes, damages, declarations, peak, tried
from hypothesis import given
from hypothesis import strategies as st
from iai_tasks.embeddings import _weight_file
from iai_tasks.embeddings._weight_file import read_weights

MARGIN = 80e6  # bytes that are none of the file's
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is measured on Linux")

WEIGHTS = {"weight": torch.arange(6.0).view(2, 3), "count": torch.tensor(3), "bias": torch.ones(2)}
ENDINGS = st.sampled_from([".safetensors", ".pth"])


def weights(content, ending):
    """What is read of a file of weights, if anything: dense, finite numbers."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"weights{ending}")
        file.write_bytes(content)
        read = tried(lambda: read_weights(file))
        for tensor in (read or {}).values():
            assert tensor.isfinite().all() and tensor.layout == torch.strided
            assert tensor.nbytes <= len(content)
        return read


def pickled(content, **options):
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def written(content, ending):
    return safetensors.torch.save(content) if ending == ".safetensors" else pickled(content)


@given(ending=ENDINGS, damage=damages | declarations)
def test_damaged_weights_are_weights_or_refused(ending, damage):
    whole = written(WEIGHTS, ending)
    try:
        content = damage(whole)
    except ValueError:  # no header of safetensors, which a declaration needs
        content = whole[:-1]
    weights(content, ending)


@given(ending=ENDINGS, one=changes, other=changes)
def test_changed_weights_are_weights_or_refused(ending, one, other):
    content = other(one(WEIGHTS))
    read = weights(written(content, ending), ending)
    finite = all(bool(tensor.float().isfinite().all()) for tensor in content.values())
    assert finite or read is None


OBJECTS = {
    "code": lambda: Harm(),
    "code inside": lambda: {"weight": torch.ones(2), "more": [Harm()]},
    "nothing": lambda: {},
    "a list": lambda: [torch.ones(2)],
    "numbers for names": lambda: {3: torch.ones(2)},
    "words": lambda: {"weight": "heavy"},
    "sparse": lambda: {"weight": torch.eye(3).to_sparse()},
    "compressed rows": lambda: {"weight": torch.eye(3).to_sparse_csr()},
    "quantized": lambda: {"weight": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8)},
    "complex": lambda: {"weight": torch.ones(2, dtype=torch.complex64)},
    "8 bits": lambda: {"weight": torch.ones(2).to(torch.float8_e4m3fn)},
    "nowhere": lambda: {"weight": torch.ones(10**6, device="meta")},
    "one number, a million times": lambda: {"weight": torch.ones(1).expand(10**6)},
    "one number, 10^15 times": lambda: {"weight": torch.ones(1).expand(10**15)},
    "NaN": lambda: {"state_dict": {"weight": torch.tensor([1.0, torch.nan])}},
    "infinity": lambda: {"module.weight": torch.tensor([1.0, -torch.inf])},
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor|torch.quantize_per_tensor:UserWarning")
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("content", OBJECTS.values(), ids=OBJECTS)
def test_what_holds_no_weights_is_refused(content, legacy):
    try:
        file = pickled(content(), _use_new_zipfile_serialization=not legacy)
    except RuntimeError:
        pytest.skip("torch does not write it so")
    assert weights(file, ".pth") is None


@pytest.mark.parametrize("legacy", [False, True])
def test_weights_of_both_kinds_are_read(legacy):
    read = weights(pickled(WEIGHTS, _use_new_zipfile_serialization=not legacy), ".pth")
    assert all(torch.equal(read[name], WEIGHTS[name]) for name in WEIGHTS)


def compressed(path):
    whole = zipfile.ZipFile(io.BytesIO(pickled({"weight": torch.zeros(2**27, dtype=torch.uint8)})))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as bomb:
        for name in whole.namelist():
            bomb.writestr(name, whole.read(name))


def all_at_one_place(path):
    """A megabyte, that a hundred names of the archive lead to."""
    with zipfile.ZipFile(path, "w") as bomb:
        bomb.writestr("archive/data.pkl", bytes(10**6))
        for number in range(100):
            one = copy.copy(bomb.filelist[0])
            one.filename = f"archive/data/{number}"
            bomb.filelist.append(one)


def empty_lists(path):
    path.write_bytes(pickled({}, _use_new_zipfile_serialization=False)[:-4] + b"]" * 1_500_000)


def empty_lists_before_an_archive(path):
    empty_lists(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/version", "3")


def many_names(path):
    entry = b'"%x":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    header = b"{" + b",".join(entry % number for number in range(300_000)) + b"}"
    path.with_suffix(".safetensors").write_bytes(len(header).to_bytes(8, "little") + header)


@on_linux
@pytest.mark.parametrize(
    "forge",
    [compressed, all_at_one_place, empty_lists, empty_lists_before_an_archive, many_names],
)
def test_a_file_takes_no_more_memory_than_twice_its_size(forge, tmp_path, monkeypatch):
    monkeypatch.setattr(_weight_file, "_MAX_PICKLE", 2**12)  # types are checked at each byte here
    forge(tmp_path / "bomb.pth")
    (file,) = tmp_path.iterdir()
    read = []
    assert peak(lambda: read.append(tried(lambda: read_weights(file)))) < (
        2 * file.stat().st_size + MARGIN
    )
    assert read == [None]
