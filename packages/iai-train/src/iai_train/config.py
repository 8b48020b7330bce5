"""The settings of a training run, and of an experiment."""

from pathlib import Path
from typing import Any, Literal

import attrs

from iai_train.processes import Device

# Settings that a run may change and go on: what is written down, and how much is done at a time.
_NOT_THE_RUN = ("chunk", "log_every", "checkpoint_every", "tensorboard")


def _at_least(minimum: int) -> Any:
    def check(_: object, attribute: "attrs.Attribute[Any]", value: int | float) -> None:
        if not value >= minimum:
            raise ValueError(f"`{attribute.name}` must be at least {minimum}; got {value}.")

    return check


def _whole(_: object, attribute: "attrs.Attribute[Any]", value: object) -> None:
    if value is not None and (not isinstance(value, int) or value < 1):
        raise ValueError(f"`{attribute.name}` must be a whole number from 1; got {value}.")


def _above_zero(_: object, attribute: "attrs.Attribute[Any]", value: int | float | None) -> None:
    if value is not None and not value > 0:
        raise ValueError(f"`{attribute.name}` must be above 0; got {value}.")


def _fraction(_: object, attribute: "attrs.Attribute[Any]", value: int | float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"`{attribute.name}` must lie in 0..1; got {value}.")


def _betas(_: object, attribute: "attrs.Attribute[Any]", value: tuple[float, float]) -> None:
    if len(value) != 2 or not all(0 <= beta < 1 for beta in value):
        raise ValueError(f"`{attribute.name}` must be two numbers in 0..1, below 1; got {value}.")


def _precision(_: object, attribute: "attrs.Attribute[Any]", value: str) -> None:
    if value not in ("fp32", "bf16"):
        raise ValueError(f"`{attribute.name}` must be fp32 or bf16; got {value}.")


@attrs.frozen(kw_only=True)
class FitConfig:
    """Settings of `fit`: AdamW, a warm-up and a cosine."""

    iterations: int = attrs.field(validator=_at_least(1))
    """Number of updates of the learner."""
    learning_rate: float = attrs.field(default=1e-3, validator=_above_zero)
    """Highest learning rate, reached after the warm-up."""
    warmup: int = attrs.field(default=0, validator=_at_least(0))
    """Iterations over which the learning rate rises."""
    final: float = attrs.field(default=0.0, validator=_fraction)
    """Fraction of the learning rate that the cosine ends at."""
    weight_decay: float = attrs.field(default=0.01, validator=_at_least(0))
    """Decoupled weight decay."""
    betas: tuple[float, float] = attrs.field(default=(0.9, 0.999), validator=_betas)
    """Decay of AdamW's running means of the gradient and of its square."""
    epsilon: float = attrs.field(default=1e-8, validator=_above_zero)
    """Added to AdamW's denominator."""
    clip_norm: float | None = attrs.field(default=1.0, validator=_above_zero)
    """Longest gradient allowed, over all weights; None does not clip."""
    precision: Literal["fp32", "bf16"] = attrs.field(default="fp32", validator=_precision)
    """fp32, or bf16 autocast of the learner (its weights stay fp32)."""
    chunk: int | None = attrs.field(default=None, validator=_whole)
    """Tasks whose gradients are computed at a time, which bounds the memory; None: all at once. The
    update is the same, but for rounding and what a learner draws."""
    log_every: int = attrs.field(default=50, validator=_at_least(1))
    """Iterations between two lines of the log."""
    checkpoint_every: int = attrs.field(default=1000, validator=_at_least(1))
    """Iterations between two checkpoints."""
    tensorboard: bool = False
    """Also log to TensorBoard (needs the extra `tensorboard`)."""

    def __attrs_post_init__(self) -> None:
        if self.warmup > self.iterations:
            raise ValueError(
                f"`warmup` must be at most `iterations`, {self.iterations}; got {self.warmup}."
            )

    def identity(self) -> dict[str, object]:
        """Return the settings that decide the result, as plain values.

        >>> "log_every" in FitConfig(iterations=1).identity()
        False
        """
        return attrs.asdict(self, filter=lambda field, _: field.name not in _NOT_THE_RUN)


@attrs.frozen(kw_only=True)
class Settings:
    """What every `Experiment` can be told; a subclass adds its own settings."""

    out: Path
    """Folder for checkpoints, metrics.json and figure.png; a stopped run goes on from it."""
    seed: int = 0
    """Seed of weights and tasks."""
    device: Device = "auto"
    """auto is CUDA where there is one."""
    train: Any
    """What decides the weights, beside the seed and `fit`: a run that goes on must have the same.
    An attrs record."""
    fit: FitConfig
    """Training, the same for every learner."""
