"""Letters as distributions: more points of one that was never seen
================================================================

A task is a letter, turned by any angle, and shows points on it. The learners met 24 capitals of one
font in training; here they read the points of X and Y, and of the 24 in fonts that they have not
met, minibatch by minibatch, and after any number of them a solver carries noise to new points on
the letter. Learners, baselines and measurements are those of ``mixture_of_gaussians.py`` beside it.
"""

from pathlib import Path

import attrs
import matplotlib
from iai_tasks import GlyphClouds
from iai_train import parse
from mixture_of_gaussians import PRESETS as MIXTURES
from mixture_of_gaussians import Settings, compare


@attrs.frozen(kw_only=True)
class Config(Settings):
    """Settings of the example."""

    out: Path = Path("runs/alphabets")
    """Folder for checkpoints, metrics.json and the figures; a stopped run goes on from it."""
    fonts: tuple[Path, ...] = ()
    """Font files of the training tasks; by default DejaVu Sans, which comes with matplotlib."""
    unseen_fonts: tuple[Path, ...] = ()
    """Font files of other tests; by default DejaVu Serif and DejaVu Sans Mono, both oblique."""
    letters: str = "ABCDEFGHIJKLMNOPQRSTUVWZ"
    """Letters of the training tasks."""
    unseen_letters: str = "XY"
    """Letters of other tests."""


PRESETS = {
    "cpu": Config(
        minibatch=64,
        steps=(1, 2, 4, 8),
        at_once=512,
        max_steps=16,
        **{
            name: getattr(MIXTURES["cpu"], name)
            for name in ("fit", "test_tasks", "points", "tolerance")
        },
    ),
    **{
        preset: Config(
            **{
                name: getattr(MIXTURES[preset], name)
                for name in attrs.fields_dict(Settings)
                if name != "out"
            }
        )
        for preset in ("smoke", "gpu")
    },
}


def main() -> None:
    """Trains each learner on letters of one font, and draws points of others."""
    preset, config = parse(PRESETS, "Meta-learn to sample from letters.")
    shipped = Path(matplotlib.get_data_path(), "fonts", "ttf")
    fonts = config.fonts or (shipped / "DejaVuSans.ttf",)
    unseen = config.unseen_fonts or (
        shipped / "DejaVuSerif-Italic.ttf",
        shipped / "DejaVuSansMono-Oblique.ttf",
    )
    tests = {
        "in": GlyphClouds(fonts, config.letters),
        "unseen letters": GlyphClouds(fonts, config.unseen_letters),
        "unseen fonts": GlyphClouds(unseen, config.letters),
    }
    compare(config, "alphabets", preset, tests["in"], tests)


if __name__ == "__main__":
    main()
