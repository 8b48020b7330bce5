"""The settings of a training run, and of an experiment."""

from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any, Literal

import attrs

from iai_train.processes import Device

# A run that goes on may change these: what is written down, and how much is computed at a time.
_NOT_OF_THE_RESULT = ("chunk", "log_every", "checkpoint_every", "tensorboard")


def _must(be: str, condition: Callable[[Any], bool]) -> Any:
    def check(_: object, attribute: "attrs.Attribute[Any]", value: object) -> None:
        if value is not None and not condition(value):
            raise ValueError(f"`{attribute.name}` must {be}; got {value}.")

    return check


_AT_LEAST_0 = _must("be at least 0", lambda value: value >= 0)
_AT_LEAST_1 = _must("be at least 1", lambda value: value >= 1)
_ABOVE_0 = _must("be above 0", lambda value: value > 0)
_FRACTION = _must("lie in 0..1", lambda value: 0 <= value <= 1)
_WHOLE = _must("be a whole number from 1", lambda value: isinstance(value, int) and value >= 1)
_BELOW_1 = _must("lie in 0..1, below 1", lambda value: 0 <= value < 1)
_BETAS = _must(
    "be two numbers in 0..1, below 1",
    lambda pair: len(pair) == 2 and all(0 <= beta < 1 for beta in pair),
)
_PRECISION = _must("be fp32 or bf16", lambda value: value in ("fp32", "bf16"))


@attrs.frozen(kw_only=True)
class FitConfig:
    """Settings of `fit`: AdamW, a warm-up and a cosine."""

    iterations: int = attrs.field(validator=_AT_LEAST_1)
    """Number of updates of the learner."""
    learning_rate: float = attrs.field(default=1e-3, validator=_ABOVE_0)
    """Highest learning rate, reached after the warm-up."""
    warmup: int = attrs.field(default=0, validator=_AT_LEAST_0)
    """Iterations over which the learning rate rises."""
    final: float = attrs.field(default=0.0, validator=_FRACTION)
    """Fraction of the learning rate that the cosine ends at."""
    weight_decay: float = attrs.field(default=0.01, validator=_AT_LEAST_0)
    """Decoupled weight decay."""
    betas: tuple[float, float] = attrs.field(default=(0.9, 0.999), validator=_BETAS)
    """Decay of AdamW's running means of the gradient and of its square."""
    epsilon: float = attrs.field(default=1e-8, validator=_ABOVE_0)
    """Added to AdamW's denominator."""
    clip_norm: float | None = attrs.field(default=1.0, validator=_ABOVE_0)
    """Longest gradient allowed, over all weights; None does not clip."""
    average: float = attrs.field(default=0.0, validator=_BELOW_1)
    """Decay of an exponential mean of the trained weights, which a finished run leaves in the
    learner, with the last buffers. In iteration i it is at most (1 + i) / (10 + i). With 0 the run
    leaves the last weights."""
    precision: Literal["fp32", "bf16"] = attrs.field(default="fp32", validator=_PRECISION)
    """fp32, or bf16 autocast of the learner (its weights stay fp32)."""
    chunk: int | None = attrs.field(default=None, validator=_WHOLE)
    """Tasks whose gradients are computed at a time, to bound the memory; None: all at once. The
    update is the same, but for rounding and the random draws of a learner."""
    log_every: int = attrs.field(default=50, validator=_AT_LEAST_1)
    """Iterations between two lines of the log."""
    checkpoint_every: int = attrs.field(default=1000, validator=_AT_LEAST_1)
    """Iterations between two checkpoints."""
    tensorboard: bool = False
    """Also log to TensorBoard (needs the extra `tensorboard`)."""

    def __attrs_post_init__(self) -> None:
        if self.warmup > self.iterations:
            raise ValueError(
                f"`warmup` must be at most `iterations`, {self.iterations}; got {self.warmup}."
            )

    def identity(self) -> dict[str, object]:
        """The settings that decide the result, as plain values.

        >>> "log_every" in FitConfig(iterations=1).identity()
        False
        """
        return attrs.asdict(self, filter=lambda field, _: field.name not in _NOT_OF_THE_RESULT)


@attrs.frozen(kw_only=True)
class ComparisonSizes:
    """How much a `Comparison` measures."""

    examples: tuple[int, ...] = tuple(10 * 2**k for k in range(11))
    """Numbers of examples of a task that are read before a measurement. `Comparison.add` takes
    them with the steps that read them, as `read`."""
    num_tasks: int = attrs.field(default=24, validator=_WHOLE)
    """Test tasks of a split."""
    num_tuning: int = attrs.field(default=4, validator=_WHOLE)
    """Tasks of a split by which the free numbers of baselines are chosen."""
    num_query: int = attrs.field(default=256, validator=_WHOLE)
    """Queries of a task."""
    chunk: int = attrs.field(default=8, validator=_WHOLE)
    """Tasks side by side, also where costs are measured."""


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
    """What decides the weights, beside the seed, `fit` and data: a run that goes on must have the
    same. An attrs record without paths."""
    fit: FitConfig
    """Training, the same for every learner."""


def check_no_path(name: str, value: Any) -> None:
    """Raises a TypeError for a path in a record of settings, or in a sequence or mapping of it."""
    if isinstance(value, PurePath):
        raise TypeError(
            f"`{name}` must not be a path: a checkpoint would be refused where a file has moved, "
            "and taken where its content has changed. Make it a setting beside `train`, and give "
            f"`Experiment` a fingerprint of the content as `data`; got {value}."
        )
    if attrs.has(type(value)):
        for field in attrs.fields(type(value)):
            check_no_path(f"{name}.{field.name}", getattr(value, field.name))
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            check_no_path(f"{name}.{key}", inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            check_no_path(name, inner)
