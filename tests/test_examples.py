"""Every example runs at its smoke preset, leaves the files it promises, and resumes."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import pytest
from iai_train import CheckpointError

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(ROOT.glob("examples/*.py"))
RUN = {"example", "preset", "seed", "device", "data", "versions", "wall_seconds"}
ROW = {"method", "split", "step", "examples", "metric", "value", "stderr", "seed"}


def command(example: Path, out: Path) -> list[str]:
    return [str(example), "--preset=smoke", f"--out={out}", "--seed=3", "--device=cpu"]


def run(example: Path, out: Path) -> tuple[dict, str]:
    done = subprocess.run(
        [sys.executable, "-W", "error", *command(example, out)],
        env=os.environ | {"MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((out / "metrics.json").read_text()), done.stdout


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_smoke(example, tmp_path, run_here):
    record, printed = run(example, tmp_path)
    ran = record["run"]
    assert set(ran) >= RUN
    assert ran["example"].split("-")[0] == example.stem
    assert (ran["preset"], ran["seed"]) == ("smoke", 3)
    assert record["rows"]
    for row in record["rows"]:
        assert set(row) == ROW
        assert math.isfinite(row["value"])
        assert row["stderr"] is None or row["stderr"] >= 0
    assert (tmp_path / "figure.png").stat().st_size > 5_000
    assert str(tmp_path) in printed, "an example says where it left its files"

    (tmp_path / "metrics.json").unlink()
    run_here(command(example, tmp_path))  # from where it stopped
    assert json.loads((tmp_path / "metrics.json").read_text())["rows"] == record["rows"]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_help_teaches(example, run_here, capsys):
    with pytest.raises(SystemExit) as caught:
        run_here([str(example), "--help"])
    assert caught.value.code == 0
    told = capsys.readouterr().out
    for word in ("--preset", "smoke", "--out", "--seed", "--device"):
        assert word in told


def test_alphabets_of_fonts_of_ones_own(tmp_path, run_here):
    fonts, font = Path(mpl.get_data_path(), "fonts", "ttf"), tmp_path / "a.ttf"
    letters = ["--train.letters=IO", "--unseen-letters=L", "--learners=implicit"]
    options = command(ROOT / "examples" / "alphabets.py", tmp_path / "out") + letters

    def trained(file, into):
        shutil.copy(fonts / file, into)
        run_here([*options, f"--fonts={into}"])
        return (tmp_path / "out" / "implicit" / "log.jsonl").read_text()

    log = trained("DejaVuSansMono.ttf", font)
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["rows"]
    assert trained("DejaVuSansMono.ttf", tmp_path / "moved.ttf") == log
    with pytest.raises(CheckpointError, match=r"`setup\.data\.letters` is \w{64} there and \w{64}"):
        trained("DejaVuSerif.ttf", font)


@pytest.mark.parametrize(
    ("name", "learner", "options", "first", "second"),
    [
        (
            "digits",
            "explicit, latent",
            ("--test-tasks=2", "--fit.iterations=2", "--learners"),
            ("explicit, latent",),
            ("implicit, logits", "explicit, latent"),
        ),
        (
            "learned_optimizer",
            "parametric, MLP",
            ("--runs=1", "--steps=1", "--fit.iterations"),
            ("2",),
            ("3",),
        ),
    ],
)
def test_a_learner_does_not_depend_on_those_before_it(
    tmp_path, run_here, name, learner, options, first, second
):
    def rows(out, *settings):
        run_here([*command(ROOT / "examples" / f"{name}.py", out), *options, *settings])
        every = json.loads((out / "metrics.json").read_text())["rows"]
        return [row for row in every if row["method"] == learner]

    assert rows(tmp_path / "first", *first) == rows(tmp_path / "second", *second) != []
