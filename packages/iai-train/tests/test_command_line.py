from pathlib import Path
from typing import Literal

import attrs
import pytest
from iai_train import Device, FitConfig, parse


@attrs.frozen(kw_only=True)
class Model:
    width: int = 8
    """Numbers of one token."""


@attrs.frozen(kw_only=True)
class Config:
    fit: FitConfig
    model: Model = Model()
    signal: Literal["data", "gradient"] = "data"
    """What the update reads."""
    out: Path = Path("runs")
    """Folder of the results."""
    seed: int = attrs.field(default=0, validator=attrs.validators.ge(0))
    device: Device = "auto"


PRESETS = {
    "smoke": Config(fit=FitConfig(iterations=5)),
    "cpu": Config(fit=FitConfig(iterations=500), model=Model(width=64)),
}


def read(*argv: str) -> tuple[str, Config]:
    return parse(PRESETS, "Refine a line.", argv)


def test_the_first_preset_is_the_default() -> None:
    assert read() == ("smoke", PRESETS["smoke"])


def test_settings_go_over_the_preset_in_any_order() -> None:
    name, config = read(
        "--model.width", "32", "--seed=7", "--preset", "cpu", "--out", "there", "--device", "cpu",
        "--fit.learning-rate", "0.1", "--fit.betas", "0.8", "0.9", "--fit.clip-norm", "None",
        "--signal", "gradient",
    )  # fmt: skip
    fit = FitConfig(iterations=500, learning_rate=0.1, betas=(0.8, 0.9), clip_norm=None)
    assert name == "cpu"
    assert config == Config(
        fit=fit, model=Model(width=32), signal="gradient", out=Path("there"), seed=7, device="cpu"
    )


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        read("--preset", "cpu", "--help")
    assert caught.value.code == 0
    told = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for word in (
        "Refine a line.",
        "--preset smoke|cpu",
        "--model.width",
        "Numbers of one token.",
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
        (["--model.width", "wide"], "wide"),
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
