from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from iai_train import CheckpointError, load_weights, save_weights
from iai_train.testing.comparison import equal as _equal
from iai_train.training.checkpoint import check_setup, load_checkpoint, save_checkpoint
from torch import nn

TREE = {
    "weights": {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(3, dtype=torch.uint8)},
    "moments": {0: {"step": torch.tensor(7.0)}, 1: {}},
    "betas": (0.9, 0.999),
    "empty": torch.zeros(0, 4, dtype=torch.bfloat16),
    "flags": [torch.tensor([True, False]), None, 0.1],
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, TREE, {"width": 3})
    return path


def test_what_was_saved_is_loaded(path: Path) -> None:
    tree, setup = load_checkpoint(path)
    assert list(tree) == list(TREE)
    assert tree["betas"] == (0.9, 0.999)
    assert _equal(tree, TREE)
    assert setup == {"width": 3}


def test_equal_states_give_equal_bytes(path: Path) -> None:
    before = path.read_bytes()
    save_checkpoint(path, TREE, {"width": 3})
    assert path.read_bytes() == before


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused_or_means_nothing(path: Path, place: float, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    damaged = path.with_name("damaged")
    damaged.write_bytes(content)
    try:
        tree, setup = load_checkpoint(damaged)
    except CheckpointError:
        return
    # The header is padded with spaces, any of which may as well be another blank.
    assert _equal(tree, TREE)
    assert setup == {"width": 3}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_refused(path: Path, place: float) -> None:
    content = path.read_bytes()
    damaged = path.with_name("damaged")
    damaged.write_bytes(content[: int(place * len(content))])
    with pytest.raises(CheckpointError, match="is truncated or no safetensors file"):
        load_checkpoint(damaged)


def test_a_changed_weight_is_refused(path: Path) -> None:
    content = path.read_bytes()
    one = torch.tensor(5.0).numpy().tobytes()
    assert content.count(one) == 1
    path.write_bytes(content.replace(one, torch.tensor(6.0).numpy().tobytes()))
    with pytest.raises(CheckpointError, match=r"was changed since it was written"):
        load_checkpoint(path)


def test_a_changed_setup_is_refused(path: Path) -> None:
    content = path.read_bytes()
    assert content.count(b"width") == 1
    path.write_bytes(content.replace(b"width", b"depth"))
    with pytest.raises(CheckpointError, match=r"was changed since it was written"):
        load_checkpoint(path)


def test_a_file_of_another_program_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "other")
    with pytest.raises(CheckpointError, match="was not written by iai_train"):
        load_checkpoint(tmp_path / "other")


def test_a_file_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no checkpoint at"):
        load_checkpoint(tmp_path / "absent")


def test_another_setup_is_refused_by_its_keys(path: Path) -> None:
    found = {"fit": {"rate": 0.1, "betas": [0.9, 0.99]}, "seed": 0, "gone": 1}
    check_setup(path, found, {"gone": 1, "seed": 0, "fit": {"betas": (0.9, 0.99), "rate": 0.1}})
    with pytest.raises(CheckpointError) as caught:
        check_setup(path, found, {"fit": {"rate": 0.2, "betas": (0.9, 0.99)}, "seed": 0, "new": 2})
    assert str(caught.value) == (
        f"`{path}` belongs to another configuration: `fit.rate` is 0.1 there and 0.2 here; "
        "`gone` is 1 there and absent here; `new` is absent there and 2 here. "
        "Give that configuration, or another folder."
    )


def test_a_setup_that_json_cannot_hold_is_refused(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(TypeError, match="`setup` must hold what JSON can hold"):
        save_checkpoint(path, TREE, {"dims": {1, 2}})
    assert path.read_bytes() == before


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(2, 2)
        self.b = nn.Linear(2, 2)
        self.b.weight = self.a.weight


def test_weights_come_back_tied_ones_too(tmp_path: Path) -> None:
    module, other = Tied(), Tied()
    save_weights(module, tmp_path / "weights", {"width": 2})
    assert load_weights(other, tmp_path / "weights") == {"width": 2}
    assert _equal(module.state_dict(), other.state_dict())
    assert other.b.weight is other.a.weight


def test_weights_of_another_module_are_refused_whole(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    save_weights(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)), path)
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(4, 1, bias=False), nn.LayerNorm(1))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_weights(module, path)
    assert str(caught.value) == (
        f"`{path}` holds other weights than this module: `1.bias` is (1,) there and absent here; "
        "`1.weight` is (1, 3) there and (1, 4) here; `2.bias` is absent there and (1,) here; "
        "`2.weight` is absent there and (1,) here."
    )
    assert _equal(module.state_dict(), before)


def test_a_checkpoint_of_a_run_is_not_weights(path: Path) -> None:
    save_checkpoint(path, {"learner": {}}, {})
    with pytest.raises(CheckpointError, match="holds no weights of a module alone"):
        load_weights(nn.Linear(1, 1), path)
