"""Letters as distributions: more points of one that was never seen
================================================================

A task is a distribution: the points on a letter that is rotated by a random angle. A learner reads
some of the points, minibatch by minibatch, and predicts a velocity field; an ODE solver follows the
field from noise to new points. Learners and baselines are those of mixture_of_gaussians.py, and the
training, by flow matching, is on 24 capitals of one font. They are tested on X and Y and on the
capitals of other fonts. samples.png shows new points of the first learner.
"""

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import attrs
import iai_regimes as regimes
import matplotlib
import torch
from iai_encoders import LinearAttention, MemoryTransformer, RunningTransformer, SetTransformer
from iai_iterate import Iterated, Pool, unrolled
from iai_tasks import GlyphClouds, TaskBatch, straight_path
from iai_train import Experiment, FitConfig, SampleComparison, SamplerSource, Settings, parse
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn

ATTENTION, MEMORY = "running attention", "explicit memory"  # trained through all their steps
ONE_PASS = "implicit, one pass, all samples"
LEARNERS = (ATTENTION, MEMORY, "implicit", "explicit", ONE_PASS)


@attrs.frozen(kw_only=True)
class Train:
    """What decides the weights of a learner."""

    letters: str = "ABCDEFGHIJKLMNOPQRSTUVWZ"  # of training tasks
    minibatch: int = 32  # points read at a step
    minibatches: tuple[int, ...] = (32, 32, 64, 128, 256)  # the same, by training through all steps
    max_steps: int = 30  # most steps that a training task is refined for
    at_once: int = 512  # most points of a training task for the model of one pass
    width: int = 64  # size of a token, and of the explicit decoder's latent
    layers: int = 2  # layers of the set encoder, and of the explicit decoder
    heads: int = 4  # attention heads
    summary: int = 128  # size of the running mean of learned features
    num_tasks: int = 32  # training tasks that are refined side by side
    num_query: int = 64  # queries of a training task


@attrs.frozen(kw_only=True)
class Config(Settings):
    """Settings of the example."""

    out: Path = Path("runs/alphabets")
    train: Train = Train()
    learners: tuple[Literal[*LEARNERS], ...] = LEARNERS  # learners to train
    fonts: tuple[Path, ...] = ()  # font files of training tasks; by default DejaVu Sans
    unseen_letters: str = "XY"  # letters of the split "unseen letters"
    unseen_fonts: tuple[Path, ...] = ()  # of the split "unseen fonts"; by default italic DejaVu
    test_tasks: int = 8  # test tasks of each split
    points: int = 256  # new points of a task, compared with as many held back
    tolerance: float = 1e-3  # error tolerance of the ODE solver
    steps: tuple[int, ...] = (1, 2, 4, 8, 16)  # minibatches read before new points are drawn


CPU = FitConfig(iterations=3000, learning_rate=1e-3, warmup=100, betas=(0.9, 0.95), log_every=500)
SMOKE = FitConfig(iterations=2, log_every=1, checkpoint_every=1)
GPU = attrs.evolve(CPU, iterations=20_000, learning_rate=3e-4, warmup=500, log_every=1000)
SMALL = {"width": 8, "layers": 1, "heads": 2, "summary": 8, "num_tasks": 4, "num_query": 4}
TINY = Train(minibatch=4, minibatches=(4, 8), max_steps=3, at_once=12, **SMALL)
COARSE = Train(minibatch=64, minibatches=(64, 64, 128, 256), max_steps=16)
LARGE = Train(width=256, layers=4, num_tasks=128, num_query=256, at_once=1024)
FINE = {"points": 700, "tolerance": 1e-4, "steps": (1, 2, 4, 8, 16, 32)}
PRESETS = {
    "cpu": Config(fit=CPU, train=COARSE, steps=(1, 2, 4, 8)),
    "smoke": Config(fit=SMOKE, train=TINY, test_tasks=2, points=8, steps=(1, 2)),
    "gpu": Config(fit=GPU, train=LARGE, test_tasks=32, **FINE),
}


def build(train: Train, name: str) -> Iterated:
    """A learner by the name of its rows."""
    sizes = train.width, train.layers, train.heads, 2 * train.width
    encoder = SetTransformer(*sizes)
    if name == ATTENTION:
        encoder = RunningTransformer(encoder)
    elif name == MEMORY:
        encoder = MemoryTransformer(*sizes, association=LinearAttention)
    flow = regimes.LearnedFlow(summary_dim=train.summary, num_layers=train.layers)
    regime = flow.regime(name.partition(",")[0], encoder)
    if name in (ATTENTION, MEMORY):
        return Iterated(regime, steps=None, minibatch=train.minibatches, gradient=unrolled)
    if name == ONE_PASS:
        return Iterated(regime, steps=None)
    return Iterated(regime, steps=1, minibatch=train.minibatch)


def main() -> None:
    """Trains each learner, measures it beside the baselines, and writes what came out."""
    preset, config = parse(PRESETS, "Meta-learn to sample from letters.")
    run = Experiment("alphabets", preset, config, metrics=SampleComparison.metrics)
    train = config.train
    shipped = Path(matplotlib.get_data_path(), "fonts", "ttf")
    fonts = config.fonts or (shipped / "DejaVuSans.ttf",)
    oblique = shipped / "DejaVuSerif-Italic.ttf", shipped / "DejaVuSansMono-Oblique.ttf"
    seen = GlyphClouds(fonts, train.letters)
    samplers = {
        "in": seen,
        "unseen letters": GlyphClouds(fonts, config.unseen_letters),
        "unseen fonts": GlyphClouds(config.unseen_fonts or oblique, train.letters),
    }
    run.data = {"letters": seen.fingerprint}
    run.test_data = {split: sampler.fingerprint for split, sampler in samplers.items()}
    sizes = {"num_tasks": config.test_tasks, "num_samples": config.points}
    sizes["read"] = {step: step * train.minibatch for step in config.steps}
    tests = SampleComparison(run, samplers, flow=regimes.flow, tolerance=config.tolerance, **sizes)

    def source(learner: Iterated) -> Pool | SamplerSource:
        """A pool of tasks, a step each; or half as many new tasks, of more points, read whole."""
        counts = {"num_query": train.num_query, "generator": run.training_generator()}
        if learner.steps:
            counts |= {"num_tasks": train.num_tasks, "max_steps": train.max_steps}
            return Pool(learner, seen, **counts)
        half, num_support = train.num_tasks // 2, (train.minibatch, train.at_once)
        return SamplerSource(seen, num_tasks=half, num_support=num_support, **counts)

    def fit(tasks: TaskBatch, num_steps: int) -> Callable[[Tensor], Tensor]:
        """Trains a network for each task, as learners are: on `num_query` queries a step."""
        torch.manual_seed(config.seed)
        layers = nn.Linear(3, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 2)
        network, generator = nn.Sequential(*layers).to(run.device), run.generator(0)
        counts = {"num_steps": num_steps, "num_points": train.num_query, "generator": generator}
        return regimes.fit_flow(network, tasks.support, straight_path, **counts)

    for name in config.learners:
        learner = run.build(build, train, name)
        run.train(name, learner, source(learner))
        run.rows += tests.measure_learner(name, learner.eval().adapt)
    warnings.filterwarnings("ignore", module="sklearn")  # that EM has not converged
    em = {"n_init": 2, "reg_covar": 1e-3, "random_state": config.seed}
    run.rows += tests.measure_density("EM", partial(GaussianMixture, **em), range(1, 10))
    run.rows += tests.measure_as_long("flow trained on the task", fit)
    run.rows += tests.measure_references()
    tests.draw(config.out / "samples.png")
    run.finish()


if __name__ == "__main__":
    main()
