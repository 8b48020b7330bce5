"""One letter of each: every method on the same few-shot images
===============================================================

A task shows an image of each of five letters and asks which of these other images are; test tasks
have other scripts. MAML and its relatives, memories and a learned rule are one loop, trained on as
many tasks: they differ in what a task adapts, in the rule, and in the meta-gradient.
"""

from functools import partial
from pathlib import Path
from typing import Literal

import attrs
import iai_iterate as iterate
import iai_regimes as regimes
import iai_train
import torch
from iai_encoders import MemoryTransformer, RunningTransformer, SetTransformer
from iai_tasks import FewShotClassification, ImageClassSource, split_classes
from iai_train import Experiment, FitConfig, SamplerSource, Settings, learning_costs, parse

METHODS = ("maml", "first-order maml", "reptile", "meta-sgd", "anil", "imaml", "cavia")
MEMORIES = ("attentive process", "running attention", "ridge memory")  # images are read once
METHODS += (*MEMORIES, "parametric, learned")


@attrs.frozen(kw_only=True)
class Train:
    """What decides the weights of a method."""

    ways: int = 5  # classes of a task
    shots: int = 1  # images that a task shows of each class
    queries: int = 3  # images that a task asks about, of each class
    rotations: bool = True  # train on classes turned by 90, 180 and 270 degrees too
    transductive: bool = False  # normalise over all queries of a task, as in several papers
    width: int = 16  # channels of each convolution
    features: int = 64  # features of an image, for CAVIA, the memories and the learned rule
    inner_rate: float = 0.4  # rate of an inner step
    inner_steps: int = 1  # inner steps in training, where they are unrolled
    long_steps: int = 5  # inner steps of first-order MAML and Reptile, which keep no graph
    latent_dim: int = 64  # numbers that CAVIA adapts
    latent_steps: int = 2  # inner steps of CAVIA
    strength: float = 0.5  # weight of iMAML's proximal term
    proximal_rate: float = 0.05  # rate of iMAML's inner steps
    proximal_steps: int = 10  # inner steps of iMAML
    num_tasks: int = 16  # tasks of a meta-gradient


@attrs.frozen(kw_only=True)
class Config(Settings):
    """Settings of the example."""

    out: Path = Path("runs/few_shot")
    train: Train = Train()
    methods: tuple[Literal[*METHODS], ...] = METHODS  # which to train
    images: ImageClassSource = ImageClassSource()  # by default, the cache is a folder in `out`
    split: Literal["test", "validation"] = "test"  # classes to test on: validation to tune settings
    test_tasks: int = 600  # test tasks
    test_chunk: int = 50  # test tasks at a time
    steps: tuple[int, ...] = (0, 1, 2, 3, 5, 10)  # reported inner steps, beside those of training


CPU = FitConfig(iterations=400, learning_rate=3e-3, warmup=50, weight_decay=0, chunk=8)
SMOKE = FitConfig(iterations=2, weight_decay=0, log_every=1, checkpoint_every=1, chunk=1)
GPU = FitConfig(iterations=20_000, weight_decay=0, log_every=200, chunk=32)
SHORT = {"long_steps": 2, "proximal_steps": 2}
TINY = Train(queries=1, width=4, features=8, latent_dim=4, num_tasks=2, **SHORT)
LONG = {"strength": 2.0, "proximal_rate": 0.1, "proximal_steps": 16}
LARGE = Train(queries=15, width=64, num_tasks=32, **LONG)
MANY = {"test_tasks": 1000, "test_chunk": 250, "steps": (0, 1, 2, 3, 5, 10, 20, 50)}
FEW = ImageClassSource(letters=10)
PRESETS = {
    "cpu": Config(fit=CPU),
    "smoke": Config(fit=SMOKE, train=TINY, images=FEW, test_tasks=4, steps=(0, 1, 2)),
    "gpu": Config(fit=GPU, train=LARGE, images=ImageClassSource(source="omniglot"), **MANY),
}


def learners(train: Train, image_shape: tuple[int, ...]) -> dict[str, iterate.Iterated]:
    """Every method by name: what is adapted, by which rule, and the gradient across its steps."""
    ways, dim, likelihood = train.ways, train.features, regimes.Categorical(train.ways)
    look = {"width": train.width, "image_size": image_shape[1], "transductive": train.transductive}
    conv = partial(regimes.Conv4, image_shape[0], **look)
    solver, theta = iterate.ConjugateGradient(steps=5), lambda state: state.theta
    descent, sizes = regimes.GradientDescent, {"num_heads": 4, "ff_dim": 2 * dim}
    inner, slow = descent(train.inner_rate), descent(train.proximal_rate)
    unrolled = {"steps": train.inner_steps, "gradient": iterate.unrolled, "loss": "last"}
    once = unrolled | {"steps": train.shots, "minibatch": ways}  # without the loss of no image

    def adapted(rule, adapt=None, **choices):  # the whole network, or the named part
        regime = regimes.Parametric(regimes.Predictor(conv(ways), adapt), likelihood, rule)
        if isinstance(rule, regimes.Proximal):  # whose minimum has an implicit gradient
            choices["gradient"] = iterate.ImplicitGradient(regime.residual, solver, solved=theta)
        return iterate.Iterated(regime, **unrolled | choices)

    def on_features(regime, **choices):  # of images, by a network that all tasks share
        return iterate.Iterated(regimes.Embedded(regime, conv(dim)), **choices)

    decoder = regimes.LatentDecoder(dim, train.latent_dim, ways, hidden_dim=dim)
    latent = regimes.Predictor(decoder, adapt=["latent"])
    cavia = regimes.Explicit(latent, likelihood, descent(50.0))  # the latent hardly counts at first
    attention = regimes.Implicit(SetTransformer(dim, 1, **sizes), likelihood, x_dim=dim)
    running = RunningTransformer(SetTransformer(dim, 2, **sizes))
    running = regimes.RunningAttention(running, likelihood, x_dim=dim)
    ridge = regimes.ExplicitMemory(MemoryTransformer(dim, 2, **sizes), likelihood, x_dim=dim)
    head = regimes.Predictor(torch.nn.Linear(dim, ways))
    rule = regimes.LearnedRule(head, likelihood, SetTransformer(dim, 2, **sizes), x_dim=dim)
    return {
        "maml": adapted(inner),
        "first-order maml": adapted(inner, gradient=iterate.first_order, steps=train.long_steps),
        "reptile": adapted(inner, gradient=iterate.reptile, steps=train.long_steps),
        "meta-sgd": adapted(descent(regimes.Predictor(conv(ways)).full(train.inner_rate))),
        "anil": adapted(inner, adapt=["head"]),
        "imaml": adapted(regimes.Proximal(slow, train.strength), steps=train.proximal_steps),
        "cavia": on_features(cavia, **unrolled | {"steps": train.latent_steps}),
        "attentive process": on_features(attention, **once),
        "running attention": on_features(running, **once),
        "ridge memory": on_features(ridge, **once),
        "parametric, learned": on_features(regimes.Parametric(head, likelihood, rule), **once),
    }


def main() -> None:
    """Trains every method, measures it on unseen classes, and writes what came out."""
    preset, config = parse(PRESETS, "Meta-learn to tell images apart from one of each.")
    train, images = config.train, config.images.load(config.out / "images")
    about = {"best": "largest", "data": {config.images.source: images.fingerprint}}
    run = Experiment("few_shot", preset, config, metrics={"accuracy": iai_train.accuracy}, **about)
    images, split = images.to(run.device), split_classes(images.groups, (0.64, 0.16, 0.2))
    seen = FewShotClassification(images, split.train, ways=train.ways, rotations=train.rotations)
    unseen = FewShotClassification(images, getattr(split, config.split), ways=train.ways)
    shown, asked, chunk = train.ways * train.shots, train.ways * train.queries, config.test_chunk
    (tasks,) = run.draw(unseen, config.test_tasks, num_support=shown, num_query=asked)
    batches = [tasks[i : i + chunk] for i in range(0, config.test_tasks, chunk)]
    run.rows += run.measure("nearest mean image", iai_train.nearest_mean, batches, [1])
    methods = learners(train, images.image_shape)
    for name in config.methods:
        # Reptile's inner steps read as many images as the others' support and queries together.
        counts = {"num_support": shown + asked * (name == "reptile"), "num_query": asked}
        counts |= {"num_tasks": train.num_tasks, "generator": run.training_generator()}
        learner = methods[name].to(run.device)
        run.train(name, learner, SamplerSource(seen, **counts))
        steps = {0, learner.steps} if name in MEMORIES else {learner.steps, *config.steps}
        rows = run.measure(name, learner, batches, steps)
        run.rows += rows + learning_costs(run, rows, learner, batches[0], tasks[: train.num_tasks])
    run.finish(by="step", scale="linear")


if __name__ == "__main__":
    main()
