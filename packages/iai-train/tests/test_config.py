import attrs
import pytest
from iai_train import FitConfig


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("iterations", 0, "`iterations` must be at least 1; got 0."),
        ("learning_rate", 0.0, "`learning_rate` must be above 0; got 0.0."),
        ("learning_rate", float("nan"), "`learning_rate` must be above 0; got nan."),
        ("warmup", -1, "`warmup` must be at least 0; got -1."),
        ("warmup", 11, "`warmup` must be at most `iterations`, 10; got 11."),
        ("final", 1.5, "`final` must lie in 0..1; got 1.5."),
        ("weight_decay", -0.1, "`weight_decay` must be at least 0; got -0.1."),
        ("betas", (0.9, 1.0), "`betas` must be two numbers in 0..1, below 1; got (0.9, 1.0)."),
        ("epsilon", 0.0, "`epsilon` must be above 0; got 0.0."),
        ("clip_norm", 0.0, "`clip_norm` must be above 0; got 0.0."),
        ("precision", "fp16", "`precision` must be fp32 or bf16; got fp16."),
        ("chunk", 0, "`chunk` must be a whole number from 1; got 0."),
        ("chunk", 1.5, "`chunk` must be a whole number from 1; got 1.5."),
        ("log_every", 0, "`log_every` must be at least 1; got 0."),
        ("checkpoint_every", 0, "`checkpoint_every` must be at least 1; got 0."),
    ],
)
def test_a_setting_out_of_range_is_refused(setting: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"^`{setting}` must") as caught:
        FitConfig(**{"iterations": 10, setting: value})
    assert str(caught.value) == message


def test_identity_is_what_decides_the_result() -> None:
    config = FitConfig(iterations=10)
    reporting = attrs.evolve(config, chunk=1, log_every=1, checkpoint_every=2, tensorboard=True)
    assert reporting.identity() == config.identity()
    for setting, value in {"iterations": 11, "betas": (0.8, 0.9), "clip_norm": None}.items():
        assert attrs.evolve(config, **{setting: value}).identity() != config.identity()
