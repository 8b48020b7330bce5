"""Going on from a checkpoint: what must agree, and that it is then the same run."""

import errno
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from iai_train import CheckpointError, read_log
from iai_train.files import locked
from iai_train.testing.comparison import equal as _equal
from iai_train.training.checkpoint import load_checkpoint, save_checkpoint
from least_squares import Descent, GaveUpError, Interrupted, sampler_source, train
from torch import Tensor, nn


class Two(nn.Module):
    """Two weights, registered in an order of choice, some of them frozen."""

    def __init__(self, order: str = "ab", frozen: str = "") -> None:
        super().__init__()
        for name in order:
            setattr(self, name, nn.Parameter(torch.ones(3), requires_grad=name not in frozen))

    def forward(self, tasks: Tensor, state: None = None) -> tuple[Tensor, Tensor, None]:
        loss = ((self.a - 1.5).square().sum() + (self.b - 0.5).square().mean()) * tasks[None]
        return loss, torch.ones_like(loss), None


class Images(nn.Module):
    """A convolution and a matrix whose numbers lie in memory in an order of choice."""

    def __init__(self, layout: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3)
        matrix = torch.randn(8, 4)
        self.matrix = nn.Parameter(matrix.t() if layout == "transposed" else matrix.t().clone())
        if layout == "channels_last":
            self.to(memory_format=torch.channels_last)

    def forward(self, tasks: Tensor, state: None = None) -> tuple[Tensor, Tensor, None]:
        loss = (self.conv(tasks).mean((2, 3)) @ self.matrix.t()).square().mean(1)[None]
        return loss, torch.zeros_like(loss), None


class Drawn:
    """Tasks of one tensor each."""

    def __init__(self, *shape: int) -> None:
        self.generator = torch.Generator().manual_seed(1)
        self.shape = shape

    def next(self) -> tuple[Tensor, None]:
        return torch.rand(4, *self.shape, generator=self.generator), None

    def put(self, state: None) -> None:
        pass

    def state_dict(self) -> dict[str, object]:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.generator.set_state(state["generator"])


def stopped(learner: nn.Module, source: object, out: Path) -> None:
    """Trains for 11 iterations; the checkpoint is of the 8th."""
    with pytest.raises(GaveUpError):
        train(learner, Interrupted(source, 11), out=out)


def test_the_order_of_weights_does_not_count(tmp_path: Path) -> None:
    whole = train(Two("ab"), Drawn())
    stopped(Two("ab"), Drawn(), tmp_path)
    resumed = train(Two("ba"), Drawn(), out=tmp_path)
    assert resumed.resumed_at == 8
    assert resumed.losses == pytest.approx(whole.losses, rel=1e-6)


@pytest.mark.parametrize(
    ("first", "then", "named"),
    [
        ("", "a", "`a` is trained there and absent here"),
        ("b", "a", "`a` is trained there and absent here; `b` is absent there and trained here"),
        ("a", "", "`a` is absent there and trained here"),
    ],
)
def test_other_frozen_weights_are_refused(
    tmp_path: Path, first: str, then: str, named: str
) -> None:
    stopped(Two(frozen=first), Drawn(), tmp_path)
    learner, source = Two(frozen=then), Drawn()
    with pytest.raises(CheckpointError, match=f"was trained with other weights frozen: {named}"):
        train(learner, source, out=tmp_path)
    assert _equal(learner.state_dict(), Two().state_dict())
    assert _equal(source.state_dict(), Drawn().state_dict())


@pytest.mark.parametrize("layout", ["row-major", "channels_last", "transposed"])
def test_any_layout_of_weights_resumes_bit_for_bit(tmp_path: Path, layout: str) -> None:
    whole = train(Images(layout), Drawn(3, 8, 8))
    stopped(Images(layout), Drawn(3, 8, 8), tmp_path)
    resumed = train(Images(layout), Drawn(3, 8, 8), out=tmp_path)
    assert resumed.losses == whole.losses
    assert _equal(resumed.learner.state_dict(), whole.learner.state_dict())


@pytest.mark.parametrize(
    ("weight", "strides"),
    [
        (torch.zeros(1).expand(3), r"\(0,\)"),
        (torch.zeros(6)[::2], r"\(2,\)"),
        (torch.zeros(4, 6)[:, :3], r"\(6, 1\)"),
    ],
)
def test_a_weight_without_memory_of_its_own_is_refused(weight: Tensor, strides: str) -> None:
    learner = Descent()
    learner.spread = nn.Parameter(weight)
    with pytest.raises(ValueError, match=f"`spread` is a view with gaps or repeats .*{strides}"):
        train(learner, Interrupted(sampler_source(), 0))


def forge(out: Path, change: Callable[[dict[str, object]], object]) -> None:
    """Changes what a checkpoint holds, and gives it a new checksum."""
    path = out / "checkpoint.safetensors"
    tree, setup = load_checkpoint(path)
    change(tree)
    save_checkpoint(path, tree, setup)


def test_moments_of_another_shape_are_refused(tmp_path: Path) -> None:
    stopped(Descent(), sampler_source(), tmp_path)
    forge(tmp_path, lambda tree: tree["moments"]["start"].update(exp_avg=torch.zeros(1)))
    learner = Descent()
    with pytest.raises(CheckpointError, match=r"moments of `start` .*: `exp_avg` is \(1,\)"):
        train(learner, out=tmp_path)
    assert _equal(learner.state_dict(), Descent().state_dict())


def test_a_source_that_fails_over_its_state_is_as_it_was(tmp_path: Path) -> None:
    class Hasty:
        """Takes a state over, and then fails."""

        def __getattr__(self, name: str) -> object:
            return getattr(source, name)

        def load_state_dict(self, state: Mapping[str, object]) -> None:
            source.load_state_dict(state)
            if not failed:
                failed.append(True)
                raise KeyError("no")

    train(out=tmp_path)
    source, failed, learner = sampler_source(), [], Descent()
    with pytest.raises(CheckpointError, match="holds a state that `source` refuses: 'no'"):
        train(learner, Hasty(), out=tmp_path)
    assert _equal(source.state_dict(), sampler_source().state_dict())
    assert _equal(learner.state_dict(), Descent().state_dict())


@pytest.mark.parametrize("what", ["folder", "dangling", "device"])
def test_what_lies_where_the_checkpoint_should_be_is_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / "checkpoint.safetensors"
    if what == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if what == "device" else tmp_path / "nothing")
    with pytest.raises(CheckpointError, match=f"`{path}` must be a file"):
        train(source=Interrupted(sampler_source(), 0), out=tmp_path)


def test_a_checkpoint_that_may_not_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(self: Path, mode: str) -> None:  # as root, who runs tests somewhere, never is
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    train(out=tmp_path)
    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(OSError, match="safetensors` could not be read: Permission denied"):
        train(source=Interrupted(sampler_source(), 0), out=tmp_path)


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    class Greedy(Interrupted):
        def next(self) -> object:
            if self._left == 2:
                with pytest.raises(ValueError, match=f"`{tmp_path}` is in use. Wait for that run"):
                    train(learner, out=tmp_path)
            return super().next()

    learner = Descent()
    with pytest.raises(GaveUpError):
        train(source=Greedy(sampler_source(), 8), out=tmp_path)
    assert _equal(learner.state_dict(), Descent().state_dict())
    assert train(out=tmp_path).losses == train().losses
    assert [record["iteration"] for record in read_log(tmp_path)] == [5, 10, 15, 20, 24]


def test_a_finished_run_can_be_read_while_its_folder_is_in_use(tmp_path: Path) -> None:
    finished = train(out=tmp_path)
    with locked(tmp_path) as held:
        assert held
        assert train(out=tmp_path).losses == finished.losses


LOGS: Sequence[bytes] = (
    b"",
    b'{"iteration": 5, "loss": 1.0}\n' * 2,
    b'{"iteration": 10}\n{"iteration": 5}\n',
    b'[1]\n3\n"a"\n{}\n{"iteration": "x"}\n',
    b"[" * 100_000,
    b"\xed\xa0\x80\n\x00",
)


@pytest.mark.parametrize("content", LOGS, ids=range(len(LOGS)))
def test_a_run_does_not_depend_on_what_became_of_its_log(tmp_path: Path, content: bytes) -> None:
    train(out=tmp_path / "whole")
    whole = read_log(tmp_path / "whole")
    stopped(Descent(), sampler_source(), tmp_path)
    (tmp_path / "log.jsonl").write_bytes(content)
    train(out=tmp_path)
    for line, other in zip(read_log(tmp_path), whole, strict=True):
        assert {**line, "wall_seconds": 0} == {**other, "wall_seconds": 0}


def test_reading_a_log_leaves_out_what_is_no_record(tmp_path: Path) -> None:
    record = {"iteration": 5, "loss": 0.5}
    lines = [b"[1]", b"{}", b'{"iteration": NaN}', b'{"iteration": "a"}', b"[" * 10**5, b"\xff"]
    lines.append(b'{"iteration": 1' + b"0" * 400 + b"}")
    good = json.dumps(record).encode()
    (tmp_path / "log.jsonl").write_bytes(b"\n".join([*lines, good, b'{"iteration": 6, "lo']))
    assert read_log(tmp_path) == [record]
    assert read_log(tmp_path / "absent") == []
