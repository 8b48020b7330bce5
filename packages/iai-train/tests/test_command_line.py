from pathlib import Path
from typing import Literal

import attrs
import pytest
from iai_train import FitConfig, Settings, parse


@attrs.frozen(kw_only=True)
class Model:
    width: int = 8
    """Numbers of one token."""


@attrs.frozen(kw_only=True)
class Config(Settings):
    train: Model = Model()
    signal: Literal["data", "gradient"] = "data"
    """What the update reads."""
    steps: tuple[int, ...] = (0, 1)  # steps that are reported
    out: Path = Path("runs")
    """Folder of the results."""
    seed: int = attrs.field(default=0, validator=attrs.validators.ge(0))

    def __attrs_post_init__(self) -> None:
        if max(self.steps) > self.train.width:
            raise ValueError(f"`steps` must end at {self.train.width}; got {max(self.steps)}.")


PRESETS = {
    "smoke": Config(fit=FitConfig(iterations=5)),
    "cpu": Config(fit=FitConfig(iterations=500), train=Model(width=64)),
}


def read(*argv: str) -> tuple[str, Config]:
    return parse(PRESETS, "Refine a line.", argv)


def test_the_first_preset_is_the_default() -> None:
    assert read() == ("smoke", PRESETS["smoke"])


def test_settings_go_over_the_preset_in_any_order() -> None:
    name, config = read(
        "--train.width", "32", "--seed=7", "--preset", "cpu", "--out", "there", "--device", "cpu",
        "--fit.learning-rate", "0.1", "--fit.betas", "0.8", "0.9", "--fit.clip-norm", "None",
        "--signal", "gradient",
    )  # fmt: skip
    fit = FitConfig(iterations=500, learning_rate=0.1, betas=(0.8, 0.9), clip_norm=None)
    assert name == "cpu"
    assert config == Config(
        fit=fit, train=Model(width=32), signal="gradient", out=Path("there"), seed=7, device="cpu"
    )


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        read("--preset", "cpu", "--help")
    assert caught.value.code == 0
    told = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for word in (
        "Refine a line.",
        "--preset smoke|cpu",
        "--train.width",
        "Numbers of one token.",
        "What decides the weights",
        "steps that are reported",
        "--fit.warmup",
        "Iterations over which the learning rate rises.",
        "500",
        "{auto,cpu,cuda}",
        "Folder of the results.",
    ):
        assert word in told


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--preset", "huge"], "invalid choice: 'huge'"),
        (["--wdith", "3"], "--wdith"),
        (["--pre", "cpu"], "--pre"),
        (["--train.width", "wide"], "wide"),
        (["--steps", "0", "99"], "`steps` must end at 8; got 99."),
        (["--fit.iterations", "0"], "`iterations` must be at least 1; got 0."),
        (["--signal", "both"], "both"),
        (["--seed", "-1"], "'seed' must be >= 0: -1"),
    ],
)
def test_a_mistake_is_said_and_ends_the_program(
    capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        read(*argv)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
