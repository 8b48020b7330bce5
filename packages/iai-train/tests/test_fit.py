import errno
import json
import math
import os
import time
from pathlib import Path

import attrs
import pytest
import torch
from iai_train import CheckpointError, NonFiniteError, fit, read_log
from iai_train.testing import check_learner
from iai_train.testing.comparison import equal as _equal
from iai_train.training.update import learning_rate
from least_squares import (
    CONFIG,
    Batch,
    Descent,
    GaveUpError,
    Interrupted,
    LiveTasks,
    Spoiled,
    Weights,
    full_disk,
    sampler_source,
    train,
)
from torch import Tensor, nn


def test_the_toy_is_a_learner() -> None:
    check_learner(Descent(), sampler_source().next()[0])


@pytest.mark.parametrize("clip_norm", [None, 0.05])
def test_it_is_the_loop_that_anyone_would_write(clip_norm: float | None) -> None:
    config = attrs.evolve(CONFIG, clip_norm=clip_norm, final=0.1, weight_decay=0.2)
    fitted = train(config=config, weight=lambda seen: 1 / (1 + seen))

    learner, source = Descent(), sampler_source()
    optimizer = torch.optim.AdamW(learner.parameters(), weight_decay=0.2, foreach=False)
    expected = []
    for i in range(config.iterations):
        tasks, state = source.next()
        losses, seen, _ = learner(tasks, state)
        loss = (losses / (1 + seen)).mean()
        optimizer.zero_grad()
        loss.backward()
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(learner.parameters(), clip_norm)
        optimizer.param_groups[0]["lr"] = learning_rate(config, i)
        optimizer.step()
        expected.append(loss.item())

    assert fitted.losses == pytest.approx(expected, rel=1e-5)
    for ours, theirs in zip(fitted.learner.parameters(), learner.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


class Watched:
    """A source that keeps a copy of a learner's weights after each iteration."""

    def __init__(self, learner: nn.Module) -> None:
        self.source, self.learner = sampler_source(), learner
        self.weights: list[list[Tensor]] = []

    def next(self) -> object:
        return self.source.next()

    def put(self, state: object) -> None:
        self.weights.append([weight.detach().clone() for weight in self.learner.parameters()])
        self.source.put(state)

    def state_dict(self) -> dict[str, object]:
        return self.source.state_dict()

    def load_state_dict(self, state: dict[str, object]) -> None:
        self.source.load_state_dict(state)


def test_a_finished_run_leaves_the_mean_of_its_weights(tmp_path: Path) -> None:
    config = attrs.evolve(CONFIG, average=0.8)
    watched = Watched(learner := Descent())
    mean = [weight.detach().clone() for weight in learner.parameters()]
    train(learner, watched, config, out=tmp_path / "whole")
    for i, weights in enumerate(watched.weights):
        decay = min(0.8, (1 + i) / (10 + i))
        mean = [decay * one + (1 - decay) * w for one, w in zip(mean, weights, strict=True)]
    torch.testing.assert_close(list(learner.parameters()), mean)
    assert not _equal(learner.state_dict(), dict(zip(learner.state_dict(), weights, strict=True)))

    with pytest.raises(GaveUpError):
        train(Descent(), Interrupted(sampler_source(), 12), config, out=tmp_path / "parts")
    resumed, finished = Descent(), Descent()
    for again in (resumed, finished):  # the second finds nothing to do
        train(again, config=config, out=tmp_path / "parts")
        assert _equal(again.state_dict(), learner.state_dict())


def test_the_state_goes_back_to_the_source() -> None:
    config = attrs.evolve(CONFIG, iterations=200)
    source = LiveTasks()
    train(source=source, config=config)
    _, state = source.next()
    assert state.theta.abs().sum() > 0
    assert not state.theta.requires_grad


def test_it_learns() -> None:
    losses = train(Descent(steps=10), config=attrs.evolve(CONFIG, iterations=200)).losses
    assert sum(losses[-20:]) < 0.5 * sum(losses[:20])


@pytest.mark.parametrize("stop", [3, 4, 11, 23])
@pytest.mark.parametrize("make_source", [sampler_source, LiveTasks])
def test_a_resumed_run_is_the_run_bit_for_bit(
    tmp_path: Path, make_source: type[LiveTasks], stop: int
) -> None:
    torch.manual_seed(1)  # dropout draws from torch's own generator
    whole = train(Descent(dropout=0.2), make_source(), out=tmp_path / "whole")

    torch.manual_seed(1)
    with pytest.raises(GaveUpError):
        train(Descent(dropout=0.2), Interrupted(make_source(), stop), out=tmp_path / "parts")
    torch.manual_seed(1 if stop < CONFIG.checkpoint_every else 2)
    resumed = train(Descent(dropout=0.2), make_source(), out=tmp_path / "parts")

    assert resumed.resumed_at == stop // CONFIG.checkpoint_every * CONFIG.checkpoint_every
    assert resumed.losses == whole.losses
    assert _equal(resumed.learner.state_dict(), whole.learner.state_dict())
    logs = [read_log(tmp_path / name) for name in ("whole", "parts")]
    for log in logs:
        assert [record["iteration"] for record in log] == [5, 10, 15, 20, 24]
    for name in ("loss", "gradient_norm", "learning_rate"):
        assert [record[name] for record in logs[0]] == [record[name] for record in logs[1]]


def test_a_finished_run_returns_at_once(tmp_path: Path) -> None:
    first = train(out=tmp_path)
    checkpoint = (tmp_path / "checkpoint.safetensors").read_bytes()
    again = train(source=Interrupted(sampler_source(), 0), out=tmp_path)
    assert again.losses == first.losses
    assert again.resumed_at == CONFIG.iterations
    assert again.wall_seconds == first.wall_seconds
    assert _equal(again.learner.state_dict(), first.learner.state_dict())
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == checkpoint


def test_the_log_is_what_happened(tmp_path: Path) -> None:
    result = train(out=tmp_path)
    records = read_log(tmp_path)
    assert [record["iteration"] for record in records] == [5, 10, 15, 20, 24]
    for start, record in zip((0, 5, 10, 15, 20), records, strict=True):
        end = int(record["iteration"])
        assert record["loss"] == pytest.approx(sum(result.losses[start:end]) / (end - start))
        assert record["learning_rate"] == learning_rate(CONFIG, end - 1)
    assert records[-1]["wall_seconds"] <= result.wall_seconds


def test_a_line_of_the_log_that_was_cut_short_is_dropped(tmp_path: Path) -> None:
    with pytest.raises(GaveUpError):
        train(source=Interrupted(sampler_source(), 12), out=tmp_path)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"iteration": 11, "lo')
    train(out=tmp_path)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 5


def test_another_configuration_is_refused_and_nothing_is_touched(tmp_path: Path) -> None:
    train(out=tmp_path, setup={"width": 8, "seed": 0})
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    learner, source = Descent(), sampler_source()
    with pytest.raises(CheckpointError) as caught:
        train(
            learner,
            source,
            attrs.evolve(CONFIG, learning_rate=0.1, log_every=2),
            out=tmp_path,
            setup={"width": 9, "seed": 0},
        )
    assert str(caught.value) == (
        f"`{tmp_path / 'checkpoint.safetensors'}` belongs to another configuration: "
        "`fit.learning_rate` is 0.05 there and 0.1 here; `setup.width` is 8 there and 9 here. "
        "Give that configuration, or another folder."
    )
    assert _equal(learner.state_dict(), Descent().state_dict())
    assert _equal(source.state_dict(), sampler_source().state_dict())
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_other_weights_are_refused_and_nothing_is_touched(tmp_path: Path) -> None:
    train(out=tmp_path)
    source = sampler_source()
    with pytest.raises(CheckpointError, match=r"`start` is \(2, 1\) float32 there and \(3, 1\) "):
        train(Descent(dim=3), source, out=tmp_path)
    assert _equal(source.state_dict(), sampler_source().state_dict())


def test_a_source_that_refuses_leaves_the_learner_alone(tmp_path: Path) -> None:
    train(out=tmp_path)
    learner = Descent()
    with pytest.raises(ValueError, match="is not that of a `LiveTasks`"):
        train(learner, LiveTasks(), out=tmp_path)
    assert _equal(learner.state_dict(), Descent().state_dict())


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    train(out=tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="is truncated"):
        train(out=tmp_path)


@pytest.mark.parametrize(
    ("what", "named"),
    [
        ("loss", "loss of task 0 after step 1 (`losses[0, 0]`)"),
        ("gradient", "gradient of `start`"),
    ],
)
def test_a_number_that_is_not_finite_stops_the_run_before_it_does_harm(
    tmp_path: Path, what: str, named: str
) -> None:
    weights = {}
    for stop in (11, 8):  # as they are after 10 iterations, and after 8
        learner = Descent()
        with pytest.raises(GaveUpError):
            train(learner, Interrupted(sampler_source(), stop - 1 if stop == 11 else stop))
        weights[stop] = learner.state_dict()

    learner = Spoiled(11, what)
    with pytest.raises(NonFiniteError) as caught:
        train(learner, out=tmp_path, setup={"seed": 3})
    path = tmp_path / "checkpoint.safetensors"
    assert str(caught.value) == (
        f"The {named} was not finite in iteration 11 (seed 3): going on from `{path}`, iteration "
        "8, repeats it. The learner has the weights and buffers from before that iteration."
    )
    assert _equal(learner.state_dict(), weights[11])

    # Going on from what was left does repeat it.
    with pytest.raises(NonFiniteError, match="in iteration 11 "):
        train(Spoiled(3, what), out=tmp_path, setup={"seed": 3})
    resumed = Descent()
    with pytest.raises(GaveUpError):
        train(resumed, Interrupted(sampler_source(), 0), out=tmp_path, setup={"seed": 3})
    assert _equal(resumed.state_dict(), weights[8])


def test_without_a_folder_the_run_itself_repeats_it() -> None:
    with pytest.raises(NonFiniteError, match="in iteration 2: the same run repeats it"):
        train(Spoiled(2, "loss"))


def test_a_full_disk_stops_the_run_and_leaves_the_checkpoint(
    tmp_path: Path,
) -> None:
    with pytest.raises(GaveUpError):
        train(source=Interrupted(sampler_source(), 12), out=tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    checkpoint = path.read_bytes()

    with (
        full_disk(2000),
        pytest.raises(OSError, match=f"`{path}` could not be written: File too large") as caught,
    ):
        train(out=tmp_path)
    assert caught.value.errno == errno.EFBIG
    assert path.read_bytes() == checkpoint
    assert sorted(os.listdir(tmp_path)) == [".lock", "checkpoint.safetensors", "log.jsonl"]
    assert train(out=tmp_path).losses == train().losses


def test_a_folder_that_cannot_be_is_said_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="cannot be written to: Not a directory"):
        train(source=Interrupted(sampler_source(), 0), out=tmp_path / "file" / "out")


def test_bf16_trains_and_keeps_fp32_weights() -> None:
    kinds = []

    class Watched(Descent):
        def forward(
            self, tasks: Batch, state: Weights | None = None
        ) -> tuple[Tensor, Tensor, Weights]:
            kinds.append((tasks.query.x @ self.start).dtype)
            return super().forward(tasks, state)

    half = train(Watched(), config=attrs.evolve(CONFIG, precision="bf16"))
    assert set(kinds) == {torch.bfloat16}
    assert {weight.dtype for weight in half.learner.parameters()} == {torch.float32}
    assert half.losses == pytest.approx(train().losses, rel=0.05)
    assert half.losses != train().losses


def test_modes_are_as_they_were() -> None:
    learner = Descent().eval()
    train(learner)
    assert not learner.training


def test_frozen_weights_stay() -> None:
    learner = Descent()
    learner.log_rate.requires_grad_(False)
    train(learner)
    assert learner.log_rate.item() == -2
    assert not torch.equal(learner.start, Descent().start)


class Flat(Descent):
    def forward(self, tasks: Batch, state: Weights | None = None) -> tuple[Tensor, Tensor, Weights]:
        losses, seen, state = super().forward(tasks, state)
        return losses.mean(0), seen, state


def test_what_is_no_learner_is_refused() -> None:
    with pytest.raises(TypeError, match=r"`learner` must be an nn\.Module; got SimpleLearner"):
        train(type("SimpleLearner", (), {"forward": Descent.forward})())
    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        train(Descent().requires_grad_(False))
    with pytest.raises(ValueError, match=r"`step task`; got \(8,\) and \(3, 8\)\."):
        train(Flat())


def test_a_setup_that_cannot_be_stored_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="`setup` must hold what JSON can hold"):
        train(source=Interrupted(sampler_source(), 0), setup={"dims": {1, 2}})


def test_a_progress_bar_is_shown_on_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    fit(Descent(), sampler_source(), CONFIG, device="cpu")
    shown = capfd.readouterr()
    assert "24/24" in shown.err
    assert shown.out == ""


def test_tensorboard_has_the_same_numbers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(config=attrs.evolve(CONFIG, tensorboard=True), out=tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("train/loss")
    records = read_log(tmp_path)
    assert [event.step for event in events] == [record["iteration"] for record in records]
    for event, record in zip(events, records, strict=True):
        assert math.isclose(event.value, record["loss"], rel_tol=1e-6)


def test_the_log_is_lines_of_json(tmp_path: Path) -> None:
    train(out=tmp_path)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    keys = {"iteration", "loss", "gradient_norm", "learning_rate", "wall_seconds"}
    assert all(set(json.loads(line)) == keys for line in lines)


def test_each_new_line_of_the_log_is_shown(tmp_path: Path) -> None:
    shown: list[dict[str, int | float]] = []
    with pytest.raises(GaveUpError):
        train(source=Interrupted(sampler_source(), 11), out=tmp_path, on_log=shown.append)
    assert [record["iteration"] for record in shown] == [5, 10]
    train(out=tmp_path, on_log=shown.append)  # goes on from the 8th
    assert [record["iteration"] for record in shown] == [5, 10, 10, 15, 20, 24]
    assert shown[2:] == read_log(tmp_path)[1:]
    without: list[dict[str, int | float]] = []
    train(on_log=without.append)
    assert [record["loss"] for record in without] == [line["loss"] for line in read_log(tmp_path)]


class Slow(Interrupted):
    """The clock strikes at a batch."""

    def next(self) -> object:
        if self._left == 1:
            time.sleep(0.4)
        return super().next()


def test_a_budget_of_time_saves_and_returns(tmp_path: Path) -> None:
    part = train(source=Slow(sampler_source(), 6), out=tmp_path, max_seconds=0.4)
    assert (len(part.losses), part.finished) == (6, False)
    whole = train(out=tmp_path, max_seconds=60.0)
    assert (whole.resumed_at, whole.finished) == (6, True)
    assert whole.losses == train().losses
    with pytest.raises(ValueError, match=r"`max_seconds` must be above 0; got 0\.0\.$"):
        train(max_seconds=0.0)


def test_weights_without_a_gradient_are_named_once() -> None:
    learner = Descent()
    learner.idle, learner.still = nn.Linear(2, 1), nn.Linear(2, 1).requires_grad_(False)
    before = learner.idle.weight.clone()
    with pytest.warns(
        UserWarning, match=r"get no gradient .*: `idle\.weight`, `idle\.bias`\. F"
    ) as w:
        train(learner)
    assert len(w) == 1
    assert torch.equal(learner.idle.weight, before)


class Deaf(Descent):
    """Its losses depend on no weight, or only on what is no weight of it."""

    def __init__(self, other: Tensor) -> None:
        super().__init__()
        self.other = [other]

    def forward(self, tasks: Batch, state: Weights | None = None) -> tuple[Tensor, Tensor, Weights]:
        losses, seen, state = super().forward(tasks, state)
        return losses.detach() * self.other[0], seen, state


@pytest.mark.parametrize("requires_grad", [False, True])
def test_losses_that_no_weight_can_change_are_refused(requires_grad: bool) -> None:
    with pytest.raises(ValueError, match="`learner` must return losses that depend on its weights"):
        train(Deaf(torch.ones((), requires_grad=requires_grad)))


def test_a_source_that_cannot_be_stored_is_refused_at_once(tmp_path: Path) -> None:
    source = Interrupted(sampler_source(), 0)
    source.state_dict = lambda: {"generator": object()}
    with pytest.raises(TypeError, match="`process/source/generator` must be a tensor, number"):
        train(source=source, out=tmp_path)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_torchs_default_dtype_may_be_another(dtype: torch.dtype) -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        result = train()
    finally:
        torch.set_default_dtype(before)
    assert next(result.learner.parameters()).dtype == dtype
    assert len(result.losses) == CONFIG.iterations
