"""The embeddings example on a user's folder of images: what it does, and what it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from iai_train import CheckpointError
from iai_train.training.checkpoint import load_checkpoint
from PIL import Image

EXAMPLE = Path(__file__).parents[1] / "examples" / "embeddings.py"
MODES = ("RGB", "L", "P", "RGBA", "1")  # colour, grey, palette, transparent, black and white


def folder_of_images(root, num_classes, num_images):
    numbers = np.random.default_rng(0)
    for label in range(num_classes):
        folder = root / f"class {label:02}"
        folder.mkdir(parents=True)
        for image in range(num_images):
            pixels = numbers.integers(0, 256, (9 + image, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).convert(MODES[image % 5]).save(folder / f"{image:02}.png")
    return root


def command(out, *options):
    settings = ["--preset", "smoke", "--out", str(out), "--device", "cpu"]
    settings += ["--learners", "parametric linear, both"]
    return [str(EXAMPLE), *settings, *map(str, options)]


def run(out, *options):
    return subprocess.run(
        [sys.executable, "-W", "default", *command(out, *options)],
        env=os.environ | {"MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_images_of_any_kind_are_classified_beside_the_others(tmp_path, run_here):
    images = folder_of_images(tmp_path / "mine", num_classes=3, num_images=10)
    done = run(tmp_path / "out", "--images", images)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / "metrics.json").read_text())
    trained_on = {"digits-train", "digits-test", "backbone"}
    assert record["run"]["data"].keys() == trained_on | {"mine"}
    own = [row for row in record["rows"] if row["split"] == "yours: mine"]
    # A third of 30 images are asked about; 60 examples there are not.
    assert {row["examples"] for row in own} == {10, 20}
    assert {row["method"] for row in own} >= {"parametric linear, both", "logistic regression"}
    # The learner may go on to other images of the user's, but not to other embeddings.
    _, setup = load_checkpoint(
        tmp_path / "out" / "parametric-linear-both" / "checkpoint.safetensors"
    )
    assert setup["setup"]["data"].keys() == trained_on
    with pytest.raises(
        CheckpointError, match=r"`setup\.data\.backbone` is \w{64} there and \w{64}"
    ):
        run_here(command(tmp_path / "out", "--embedding.size", "9"))


def test_a_file_that_cannot_be_read_is_named_and_left_out_if_asked(tmp_path):
    images = folder_of_images(tmp_path / "mine", num_classes=2, num_images=15)
    (images / "class 00" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    refused = run(tmp_path / "out", "--images", images)
    assert refused.returncode != 0
    assert "class 00/torn.png" in refused.stderr
    skipped = run(tmp_path / "out", "--images", images, "--embedding.unreadable", "skip")
    assert skipped.returncode == 0, skipped.stderr
    assert "1 of 31 images could not be read and were left out" in skipped.stderr


@pytest.mark.parametrize(
    ("num_classes", "num_images", "options", "text"),
    [
        (
            11,
            10,
            (),
            "`train.classifier.num_classes` must be at least 11, the most classes of a test; got",
        ),
        (0, 10, (), "must hold a folder for each class"),
        (2, 2, (), "must have each class at least 3 times, so that an image of it is held out"),
        (2, 3, (), "`examples` must hold a number of at most 4, as many as there are; got (10, "),
        (
            3,
            10,
            ("--train.classifier.num-classes", "8"),
            "classifier.num_classes` must be at least 10, the most classes of a test; got 8.",
        ),
        (
            3,
            10,
            ("--train.seen-classes", "10"),
            "invalid choice '10' for argument '--train.seen-classes'",
        ),
        (
            3,
            10,
            ("--tests.examples", "10", "15"),
            "`examples` must be what whole minibatches of (10, 10, 20)",
        ),
        (
            3,
            10,
            ("--learners", "parametric MLP, both"),
            "invalid choice 'parametric MLP, both' for argument '--learners'",
        ),
        (
            2,
            10,
            ("--train.classifier.x-dim", "500"),
            "`dim` must be from 1 to 72, the numbers of an embedding",
        ),
        (
            2,
            10,
            ("--embedding.backbone", "resnet18"),
            "`weights` must name a file of weights for resnet18;",
        ),
    ],
)
def test_what_is_refused_is_refused_before_training(
    tmp_path, run_here, capsys, num_classes, num_images, options, text
):
    images = folder_of_images(tmp_path / "mine", num_classes, num_images)
    images.mkdir(exist_ok=True)
    with pytest.raises((SystemExit, ValueError)) as refusal:
        run_here(command(tmp_path / "out", "--images", images, *options))
    said = str(refusal.value) + capsys.readouterr().err  # of the example, or of its command line
    assert text in said
    assert not list((tmp_path / "out").glob("parametric*"))


def test_training_images_leave_a_class_to_test_on(tmp_path, run_here):
    images = folder_of_images(tmp_path / "mine", num_classes=6, num_images=3)
    own = ("--embedding.source", "folder", "--embedding.data", images)
    with pytest.raises(SystemExit, match=r"`train.seen_classes` must be less than 6, .*; got 6"):
        run_here(command(tmp_path / "out", *own))
