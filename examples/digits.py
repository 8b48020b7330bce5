"""Handwritten digits, refined minibatch by minibatch
===================================================

A task takes 5 of the 10 classes, permutes their labels, and maps the 64 pixels to 16 numbers by a
random projection of its own. A learner reads 16 labelled images a step, and classifies others. It
is tested on tasks and images that it was not trained on. The baselines, logistic regression and
Adam, train a model on each test task.

Learners differ in what they keep of the images that they have read: running sums of attention for
each query, an online ridge regression in each layer, five logits for each query, a latent, or the
weights of a linear classifier. "One pass" keeps all of them and reads them at once.
"""

from pathlib import Path
from typing import Literal

import attrs
import iai_regimes as regimes
from iai_encoders import MemoryTransformer, RunningTransformer, SetTransformer
from iai_iterate import Iterated, Pool, unrolled
from iai_tasks import ProjectedClassification, digits
from iai_train import Experiment, FitConfig, SamplerSource, Settings, accuracy, parse
from sklearn.linear_model import LogisticRegression

SEEN_TASKS = 2**20  # training tasks have seeds below this, test tasks from it on
RATES = (1.0, 0.3, 0.1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5)  # of Adam
STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0)  # C of logistic regression, one over its penalty
RUNNING, RIDGE = "implicit, running attention", "explicit, ridge memory"
AT_ONCE, LOGISTIC, ADAM = "implicit, one pass over all", "logistic regression", "adam"
REFINED = ("implicit, logits", "explicit, latent", "parametric, both", "parametric, data")


@attrs.frozen(kw_only=True)
class Train:
    """What decides the weights of a learner."""

    num_classes: int = 5  # classes of a task
    dim: int = 16  # numbers that an image is projected to
    minibatch: int = 16  # examples read at a step
    width: int = 64  # size of a token
    layers: int = 2  # layers of a set encoder
    heads: int = 4  # attention heads
    ridge_layers: int = 3  # layers of the ridge memory, which holds 15,360 numbers a task
    ridge_heads: int = 2  # its heads
    curvature: int = 6  # Hessian-vector products of a step
    summary: int = 64  # size of the running mean of learned features
    num_tasks: int = 64  # training tasks that are refined side by side, where steps learn alone
    num_long: int = 12  # training tasks of most examples side by side, where all steps learn
    num_query: int = 16  # queries of a training task
    max_steps: int = 10  # most steps that a training task is refined for


@attrs.frozen(kw_only=True)
class Config(Settings):
    """Settings of the example."""

    out: Path = Path("runs/digits")
    train: Train = Train()
    learners: tuple[Literal[RUNNING, RIDGE, AT_ONCE, *REFINED], ...] = (RUNNING, RIDGE)
    baselines: tuple[Literal[LOGISTIC, ADAM], ...] = (LOGISTIC, ADAM)  # to tune and fit
    test_tasks: int = 256  # test tasks
    support: int = 640  # examples of a test task
    steps: tuple[int, ...] = (0, 1, 2, 4, 8, 20, 40)  # steps that are reported


CPU = FitConfig(iterations=2000, learning_rate=3e-3, warmup=100, betas=(0.9, 0.95), log_every=100)
DEMO = attrs.evolve(CPU, log_every=50)
SMOKE = FitConfig(iterations=8, log_every=4, checkpoint_every=6)
TINY = Train(width=16, summary=8, num_tasks=8, num_query=8)
GPU = attrs.evolve(CPU, iterations=20_000, learning_rate=5e-4, warmup=500, precision="bf16")
LARGE = Train(width=256, layers=4, num_tasks=512, num_query=64)
SMALL = {"learners": (RUNNING, RIDGE, AT_ONCE, *REFINED), "steps": (0, 1, 2, 5)}
SHOWN = {"learners": (RUNNING,), "baselines": (LOGISTIC,), "steps": (1, 2, 4, 8, 20, 40)}
PRESETS = {
    "cpu": Config(fit=CPU, learners=(RUNNING, RIDGE, AT_ONCE, *REFINED[::2])),
    "demo": Config(fit=DEMO, **SHOWN),
    "smoke": Config(fit=SMOKE, train=TINY, test_tasks=4, support=80, **SMALL),
    "gpu": Config(fit=GPU, train=LARGE, test_tasks=1024),
}


def build(train: Train, name: str) -> Iterated:
    """A learner by the name of its rows."""
    dim, width, likelihood = train.dim, train.width, regimes.Categorical(train.num_classes)
    encoder = SetTransformer(width, train.layers, train.heads, 2 * width)
    if name in (RUNNING, AT_ONCE):
        regime = regimes.RunningAttention(RunningTransformer(encoder), likelihood, x_dim=dim)
    elif name == RIDGE:
        memory = MemoryTransformer(width, train.ridge_layers, train.ridge_heads, 2 * width)
        regime = regimes.ExplicitMemory(memory, likelihood, x_dim=dim)
    else:
        return refined(train, name, encoder, likelihood)
    if name == AT_ONCE:
        return Iterated(regime, steps=1)
    return Iterated(regime, steps=None, minibatch=train.minibatch, gradient=unrolled)


def refined(
    train: Train, name: str, encoder: SetTransformer, likelihood: regimes.Categorical
) -> Iterated:
    """A learner whose state is small, of logits, a latent or weights; each step learns alone."""
    sizes, signal = {"x_dim": train.dim, "summary_dim": train.summary}, name.split(", ")[1]
    if signal == "logits":
        regime = regimes.Implicit(encoder, likelihood, **sizes)
        return Iterated(regime, steps=1, minibatch=train.minibatch)
    regime_type, predictor = regimes.Parametric, linear_head(train)
    if signal == "latent":
        decoder = regimes.LatentDecoder(train.dim, train.width, train.num_classes)
        regime_type, predictor = regimes.Explicit, regimes.Predictor(decoder, adapt=["latent"])
    slope = None if signal == "data" else regimes.Newton(train.curvature)
    choices = {"signal": "both" if signal == "latent" else signal, "slope": slope, **sizes}
    rule = regimes.LearnedRule(predictor, likelihood, encoder, **choices)
    return Iterated(regime_type(predictor, likelihood, rule), steps=1, minibatch=train.minibatch)


def linear_head(train: Train) -> regimes.Predictor:
    """A linear classifier, which gives all classes equal odds before a task adapts it."""
    return regimes.Predictor(regimes.zero_linear(train.dim, train.num_classes))


def main() -> None:
    """Trains each learner, measures it beside the baselines, and writes what came out."""
    preset, config = parse(PRESETS, "Meta-learn to classify handwritten digits.")
    images, train, minibatch = digits(), config.train, config.train.minibatch
    how = {"metrics": {"accuracy": accuracy}, "data": {"digits": images.fingerprint}}
    run = Experiment("digits", preset, config, best="largest", **how)
    sizes = {"projection_dim": train.dim, "num_classes": train.num_classes}
    # The queries of a training task are training images, so a later minibatch of the task may show
    # one of them with its label. Test accuracy was lower where images were held back to prevent it.
    seen = ProjectedClassification.training(images, num_tasks=SEEN_TASKS, **sizes)
    unseen = ProjectedClassification.held_out(images, first_seed=SEEN_TASKS, **sizes)

    def source(name: str, learner: Iterated) -> Pool | SamplerSource:
        """A pool of tasks where each step learns alone; else new tasks, with as many examples."""
        how = {"num_query": train.num_query, "generator": run.training_generator()}
        if name in REFINED:
            return Pool(learner, seen, num_tasks=train.num_tasks, max_steps=train.max_steps, **how)
        most = train.max_steps * minibatch
        sizes = (minibatch, most) if name == AT_ONCE else most
        return SamplerSource(seen, num_tasks=train.num_long, num_support=sizes, **how)

    counts = {"num_support": config.support, "num_query": 64}
    tasks = run.draw(unseen, config.test_tasks, **counts)
    tuning = run.draw(unseen, config.test_tasks, **counts, tuning=True)
    few = run.draw(unseen, max(4, config.test_tasks // 8), **counts, tuning=True)
    # Examples read by each step.
    read = {step: step * minibatch for step in config.steps if step}
    for name in config.learners:
        learner = run.build(build, train, name)
        run.train(name, learner, source(name, learner))
        run.rows += run.measure(name, learner, tasks, config.steps if learner.minibatch else read)

    def logistic(c: float) -> LogisticRegression:
        return LogisticRegression(C=c, max_iter=1000)

    def adam(rate: float) -> Iterated:
        regime = regimes.Parametric(head, likelihood, regimes.Adam(rate))
        return Iterated(regime, steps=1, minibatch=minibatch)

    head, likelihood = run.build(linear_head, train), regimes.Categorical(train.num_classes)
    if LOGISTIC in config.baselines:
        run.rows += run.tuned(LOGISTIC, logistic, STRENGTHS, few, tasks, read)
    if ADAM in config.baselines:
        run.rows += run.tuned(ADAM, adam, RATES, tuning, tasks, config.steps)
    run.finish(scale="linear", title="Digits of unseen tasks: accuracy by examples read")


if __name__ == "__main__":
    main()
