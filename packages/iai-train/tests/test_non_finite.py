"""Numbers that are not finite: who is named, what is undone, and that no file holds them."""

import math
from pathlib import Path

import attrs
import pytest
import torch
from iai_train import CheckpointError, NonFiniteError, load_weights, save_weights
from iai_train.testing.comparison import equal as _equal
from iai_train.training.checkpoint import load_checkpoint
from least_squares import CONFIG, Batch, Descent, GaveUpError, Interrupted, sampler_source, train
from torch import Tensor, nn


class Normed(nn.Module):
    """Has running statistics; from one iteration on, its inputs are scaled."""

    def __init__(self, iteration: int = 0, scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.left, self.scale = iteration, scale
        self.norm, self.linear = nn.BatchNorm1d(2), nn.Linear(2, 1)

    def forward(self, tasks: Batch, state: None = None) -> tuple[Tensor, Tensor, None]:
        self.left -= 1
        x = tasks.query.x * (self.scale if self.left == 0 else 1.0)
        losses = self.linear(self.norm(x.flatten(0, 1))).view(x.shape[0], -1).square().mean(1)
        return losses[None], torch.ones(1, len(losses)), None


def after_10_iterations() -> dict[str, Tensor]:
    learner = Normed()
    with pytest.raises(GaveUpError):
        train(learner, Interrupted(sampler_source(), 10))
    return learner.state_dict()


@pytest.mark.parametrize(
    ("scale", "named"),
    [
        (math.nan, r"The loss of task 0 after step 1 \(`losses\[0, 0\]`\)"),
        (1e30, "The buffer `norm.running_var`"),  # whose square is no float; the loss is finite
    ],
)
def test_running_statistics_are_those_from_before(tmp_path: Path, scale: float, named: str) -> None:
    learner = Normed(11, scale)
    with pytest.raises(NonFiniteError, match=f"^{named} was not finite in iteration 11: "):
        train(learner, out=tmp_path)
    assert _equal(learner.state_dict(), after_10_iterations())


def test_running_statistics_do_not_stop_a_run() -> None:
    learner = Normed()
    train(learner)
    assert learner.norm.num_batches_tracked == CONFIG.iterations


class Picky(Descent):
    """Loses one task at one of its steps, in one chunk."""

    def __init__(self, step: int, task: int) -> None:
        super().__init__()
        self.step, self.task = step, task

    def forward(self, tasks: Batch, state: object = None) -> tuple[Tensor, Tensor, object]:
        losses, seen, state = super().forward(tasks, state)
        self.task -= losses.shape[1]
        if -losses.shape[1] <= self.task < 0:
            spoiled = torch.zeros_like(losses)
            spoiled[self.step, self.task] = math.inf
            losses = losses + spoiled
        return losses, seen, state


@pytest.mark.parametrize("chunk", [None, 3])
def test_step_and_task_are_named(chunk: int | None) -> None:
    with pytest.raises(NonFiniteError, match=r"The loss of task 4 after step 3 \(`losses\[2, 4\]`"):
        train(Picky(2, 4), config=attrs.evolve(CONFIG, chunk=chunk))


def test_a_weight_of_losses_that_is_not_finite_is_named() -> None:
    with pytest.raises(NonFiniteError, match="The weighted loss was not finite in iteration 1:"):
        train(weight=lambda seen: torch.full_like(seen, math.inf))


class Flung(nn.Module):
    """Its weight overflows in the second update, which no loss has shown yet."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, tasks: Batch, state: None = None) -> tuple[Tensor, Tensor, None]:
        losses = -self.weight.clamp(max=1).expand(1, 8) - 0 * self.weight.clamp(max=1)
        return losses - self.weight * 1e-30, torch.ones(1, 8), None


def test_a_checkpoint_of_weights_that_are_not_finite_is_not_written(tmp_path: Path) -> None:
    config = attrs.evolve(CONFIG, learning_rate=3e37, warmup=0, checkpoint_every=1)
    with pytest.raises(NonFiniteError) as caught:
        train(Flung(), config=config, out=tmp_path, setup={"seed": 3})
    assert str(caught.value) == (
        "The weight or buffer `weight` was not finite after iteration 2 (seed 3): no checkpoint "
        "was written; that of iteration 1 is kept."
    )
    tree, _ = load_checkpoint(tmp_path / "checkpoint.safetensors")
    assert len(tree["losses"]) == 1
    assert tree["learner"]["weight"].isfinite().all()


class Remembering(Descent):
    """Has buffers of every kind, which it writes, empties or drops."""

    def __init__(self) -> None:
        super().__init__()
        kinds = {"cache": torch.ones(2), "gone": torch.ones(2), "empty": torch.zeros(0)}
        kinds |= {"grows": torch.zeros(0), "wave": torch.ones(2, dtype=torch.complex64)}
        for name, buffer in (kinds | {"graph": torch.eye(2).to_sparse()}).items():
            self.register_buffer(name, buffer)

    def forward(self, tasks: Batch, state: object = None) -> tuple[Tensor, Tensor, object]:
        self.cache, self.grows = None, torch.cat([self.grows, torch.ones(1)])
        self._buffers.pop("gone", None)
        self.empty.mul_(2)
        self.wave.add_(1j)
        return super().forward(tasks, state)


def test_buffers_of_every_kind_are_let_be() -> None:
    assert train(Remembering()).losses == train().losses


@pytest.mark.parametrize(("frozen", "number"), [(True, -math.inf), (False, math.nan)])
def test_what_no_checkpoint_could_hold_is_refused_before_training(
    tmp_path: Path, frozen: bool, number: float
) -> None:
    learner, value = Descent(), torch.full((2,), number)
    if frozen:
        learner.extra = nn.Parameter(value, requires_grad=False)
    else:
        learner.register_buffer("extra", value)
    with pytest.raises(ValueError, match=r"`learner` must have finite weights, .*; `extra` is"):
        train(learner, Interrupted(sampler_source(), 0), out=tmp_path)
    assert train(learner).finished


def test_a_weight_that_is_not_finite_is_named_before_the_losses() -> None:
    config = attrs.evolve(CONFIG, learning_rate=3e37, warmup=0)
    with pytest.raises(NonFiniteError, match="The weight `weight` was not finite in iteration 3:"):
        train(Flung(), config=config)


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.register_buffer("mask", torch.full((2, 2), -math.inf).triu(1))
        self.register_buffer("mean", torch.zeros(2))


@pytest.mark.parametrize(("name", "number"), [("linear.weight", math.inf), ("mean", math.nan)])
def test_weights_that_are_not_finite_are_not_written(
    tmp_path: Path, name: str, number: float
) -> None:
    module = Masked()
    module.get_parameter(name).data.fill_(number) if "." in name else module.mean.fill_(number)
    with pytest.raises(ValueError, match=f"`module` must have finite weights; `{name}` is not"):
        save_weights(module, tmp_path / "weights")
    assert not list(tmp_path.iterdir())


def test_a_mask_of_infinities_is_loaded_and_running_statistics_of_them_are_not(
    tmp_path: Path,
) -> None:
    module = Masked()
    save_weights(module, tmp_path / "weights")
    load_weights(Masked(), tmp_path / "weights")
    module.mean.fill_(math.inf)
    save_weights(module, tmp_path / "weights")
    with pytest.raises(CheckpointError, match="holds weights that are not finite: `mean`"):
        load_weights(Masked(), tmp_path / "weights")
