"""Small instances of every producer of the repository, by role; a new part is one line here."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from iai_encoders import (
    AxialTransformer,
    CausalTransformer,
    DeepSet,
    LinearAttention,
    MemoryTransformer,
    RunningTransformer,
    SetTransformer,
)
from iai_iterate import (
    ConjugateGradient,
    Neumann,
    first_order,
    greedy,
    rematerialised,
    truncated,
    unrolled,
)
from iai_regimes import (
    LBFGS,
    Adam,
    Categorical,
    Embedded,
    Explicit,
    ExplicitMemory,
    Gaussian,
    GradientDescent,
    Implicit,
    ImplicitColumns,
    LatentDecoder,
    LearnedRule,
    NewtonCG,
    Parametric,
    Predictor,
    Proximal,
    RunningAttention,
    Unlabelled,
    UntilConverged,
    WhitenedNewton,
)
from iai_tasks import (
    ErdosRenyi,
    FewShotClassification,
    ImageClasses,
    LinearClassification,
    LinearRegression,
    MixtureOfGaussians,
    ProjectedClassification,
    RandomExamples,
    RandomNetworkRegression,
    Sinusoid,
    StructuralCausalModels,
)
from iai_train import accuracy, mean_squared_error
from torch import nn

X_DIM, NUM_CLASSES, DIM = 3, 4, 8


def projected() -> ProjectedClassification:
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(240, 6, generator=generator), torch.arange(240) % 5
    return ProjectedClassification(images, labels, projection_dim=X_DIM, num_classes=NUM_CLASSES)


def few_shot(**options: bool) -> FewShotClassification:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (240, 1, 6, 6), generator=generator, dtype=torch.uint8)
    letters = ImageClasses(images=images, labels=torch.arange(240) % 8, class_names="abcdefgh")
    return FewShotClassification(letters, range(6), ways=NUM_CLASSES, **options)


SAMPLERS: dict[str, Callable[[], Any]] = {
    "linear-regression": lambda: LinearRegression(X_DIM),
    "linear-regression-wide": lambda: LinearRegression(X_DIM, query_shift="wide"),
    "linear-regression-far": lambda: LinearRegression(X_DIM, query_shift="far"),
    "linear-classification": lambda: LinearClassification(X_DIM, NUM_CLASSES),
    "random-network": lambda: RandomNetworkRegression(X_DIM),
    "projected": projected,
    "few-shot": few_shot,
    "few-shot-rotations": lambda: few_shot(rotations=True),
    "sinusoid": Sinusoid,
    "random-examples": lambda: RandomExamples(torch.randn(9, X_DIM), torch.arange(9) % 4),
    "mixture": MixtureOfGaussians,
    "causal": lambda: StructuralCausalModels(graphs=ErdosRenyi(), num_nodes=5),
}
SET_ENCODERS: dict[str, Callable[[], Any]] = {
    "transformer": lambda: SetTransformer(DIM, num_layers=1, num_heads=2),
    "deep-set": lambda: DeepSet(DIM),
}
TABLE_ENCODERS: dict[str, Callable[[], Any]] = {
    "axial-transformer": lambda: AxialTransformer(DIM, num_layers=1, num_heads=2),
}
MEMORY_ENCODERS: dict[str, Callable[[], Any]] = {
    "ridge": lambda: MemoryTransformer(DIM, num_layers=2, num_heads=2),
    "linear-attention": lambda: MemoryTransformer(DIM, 1, 2, association=LinearAttention),
    "deep-set": lambda: DeepSet(DIM),
}
RUNNING_ENCODERS: dict[str, Callable[[], Any]] = {
    "plain": lambda: RunningTransformer(SetTransformer(DIM, num_layers=2, num_heads=2)),
    "latents": lambda: RunningTransformer(SetTransformer(DIM, 1, 2), num_latents=3),
    "on-ridge": lambda: RunningTransformer(
        SetTransformer(DIM, 1, 2), memory=MemoryTransformer(DIM, 1, 2)
    ),
}
SEQUENCE_ENCODERS: dict[str, Callable[[], Any]] = {
    "causal-transformer": lambda: CausalTransformer(DIM, num_layers=2, num_heads=2),
}
MEMORY_ENCODERS: dict[str, Callable[[], Any]] = {
    "deep-set": lambda: DeepSet(DIM),
    "ridge": lambda: MemoryTransformer(DIM, num_layers=2, num_heads=2),
    "linear-attention": lambda: MemoryTransformer(
        DIM, num_layers=2, num_heads=2, association=LinearAttention
    ),
}
RUNNING_ENCODERS: dict[str, Callable[[], Any]] = {
    "running-attention": lambda: RunningTransformer(
        SetTransformer(DIM, num_layers=2, num_heads=2), num_latents=2
    ),
}
LIKELIHOODS: dict[str, Callable[[], Any]] = {
    "gaussian": lambda: Gaussian(1, scale=0.5),
    "gaussian-with-scale": lambda: Gaussian(1),
    "categorical": lambda: Categorical(NUM_CLASSES),
}
GRADIENTS: dict[str, Callable[[], Any]] = {
    "greedy": lambda: greedy,
    "truncated": lambda: truncated(2),
    "unrolled": lambda: unrolled,
    "rematerialised": lambda: rematerialised,
    "first-order": lambda: first_order,
}
SOLVERS: dict[str, Callable[[], Any]] = {
    "conjugate-gradient": lambda: ConjugateGradient(steps=5),
    "neumann": lambda: Neumann(steps=20),
}
METRICS: dict[str, tuple[Any, Any, int]] = {
    "squared-error": (mean_squared_error, LinearRegression(X_DIM), 1),
    "accuracy": (accuracy, LinearClassification(X_DIM, NUM_CLASSES), NUM_CLASSES),
}


def parametric(encoder: Any, likelihood: Any, **options: Any) -> Parametric:
    predictor = Predictor(nn.Linear(X_DIM, likelihood.num_outputs))
    rule = LearnedRule(predictor, likelihood, encoder, x_dim=X_DIM, **options)
    return Parametric(predictor, likelihood, rule)


def whitened(encoder: Any, likelihood: Any) -> Parametric:
    predictor = Predictor(nn.Linear(X_DIM, likelihood.num_outputs))
    slope = WhitenedNewton(predictor, 4)
    rule = LearnedRule(predictor, likelihood, encoder, x_dim=X_DIM, slope=slope)
    return Parametric(predictor, likelihood, rule)


def ruled(rule: Any, likelihood: Any) -> Parametric:
    predictor = Predictor(nn.Linear(X_DIM, likelihood.num_outputs))
    return Parametric(predictor, likelihood, rule)


def solved(rule: Any, likelihood: Any) -> Parametric:
    return ruled(UntilConverged(Proximal(rule, 5.0), tolerance=1e-3, max_steps=5), likelihood)


def embedded(regime: Any) -> Embedded:
    return Embedded(regime, nn.Sequential(nn.Linear(X_DIM, DIM), nn.Tanh(), nn.Linear(DIM, X_DIM)))


def explicit(encoder: Any, likelihood: Any, **options: Any) -> Explicit:
    decoder = LatentDecoder(X_DIM, 5, likelihood.num_outputs, hidden_dim=DIM)
    predictor = Predictor(decoder, adapt=["latent"])
    rule = LearnedRule(predictor, likelihood, encoder, x_dim=X_DIM, **options)
    return Explicit(predictor, likelihood, rule)


def implicit(encoder: Any, likelihood: Any, **options: Any) -> Implicit:
    return Implicit(encoder, likelihood, x_dim=X_DIM, **options)


REGIMES: dict[str, Callable[[Any, Any], Any]] = {
    f"parametric-{signal}": lambda encoder, likelihood, signal=signal: parametric(
        encoder, likelihood, signal=signal
    )
    for signal in ("data", "gradient", "both")
}
REGIMES |= {
    "parametric-whitened": whitened,
    "explicit": explicit,
    "implicit": implicit,
    "implicit-latents": lambda *parts: implicit(*parts, state="latents"),
    "embedded-parametric": lambda *parts: embedded(parametric(*parts)),
    "embedded-implicit": lambda *parts: embedded(implicit(*parts)),
}
RULED: dict[str, Callable[[Any], Any]] = {
    "parametric-adam": lambda likelihood: ruled(Adam(0.1), likelihood),
    "parametric-descent": lambda likelihood: ruled(GradientDescent(0.1), likelihood),
    "parametric-newton": lambda likelihood: solved(
        NewtonCG(ConjugateGradient(steps=8)), likelihood
    ),
    "parametric-lbfgs": lambda likelihood: solved(LBFGS(), likelihood),
}
MAKERS: dict[str, Callable[[Any], Any]] = RULED | {
    f"{name}-{encoder}": lambda likelihood, make=make, encode=encode: make(encode(), likelihood)
    for name, make in REGIMES.items()
    for encoder, encode in SET_ENCODERS.items()
}
MAKERS |= {
    f"{name}-{encoder}": lambda likelihood, make=make, encode=encode: make(
        encode(), likelihood, x_dim=X_DIM
    )
    for name, make, encoders in (
        ("memory", ExplicitMemory, MEMORY_ENCODERS),
        ("running", RunningAttention, RUNNING_ENCODERS),
    )
    for encoder, encode in encoders.items()
}


@pytest.fixture(params=SAMPLERS)
def sampler(request: pytest.FixtureRequest) -> Any:
    return SAMPLERS[request.param]()


@pytest.fixture(params=SET_ENCODERS)
def set_encoder(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    return SET_ENCODERS[request.param]()


@pytest.fixture(params=TABLE_ENCODERS)
def table_encoder(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    return TABLE_ENCODERS[request.param]()


@pytest.fixture(params=MEMORY_ENCODERS)
def memory_encoder(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    return MEMORY_ENCODERS[request.param]()


@pytest.fixture(params=RUNNING_ENCODERS)
def running_encoder(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    return RUNNING_ENCODERS[request.param]()


@pytest.fixture(params=SEQUENCE_ENCODERS)
def sequence_encoder(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    return SEQUENCE_ENCODERS[request.param]()


@pytest.fixture(params=LIKELIHOODS)
def likelihood(request: pytest.FixtureRequest) -> Any:
    return LIKELIHOODS[request.param]()


@pytest.fixture(params=GRADIENTS)
def gradient(request: pytest.FixtureRequest) -> Any:
    return GRADIENTS[request.param]()


@pytest.fixture(params=SOLVERS)
def solver(request: pytest.FixtureRequest) -> Any:
    return SOLVERS[request.param]()


@pytest.fixture(params=METRICS)
def metric(request: pytest.FixtureRequest) -> tuple[Any, Any, int]:
    """The metric, a sampler of what it compares, and how many outputs it reads for a query."""
    return METRICS[request.param]


@pytest.fixture(params=MAKERS)
def regime(request: pytest.FixtureRequest, likelihood: Any) -> Any:
    """An untrained regime, with each likelihood, and with each encoder where it has one."""
    torch.manual_seed(0)
    return MAKERS[request.param](likelihood)


@pytest.fixture
def moving_regime(regime: Any) -> Any:
    """The same with random weights, as if trained: a new regime does not move its state."""
    for parameter in regime.parameters():
        nn.init.normal_(parameter, std=0.05)
    return regime


@pytest.fixture
def fitting_sampler(likelihood: Any) -> Any:
    """A sampler of tasks whose targets fit the likelihood."""
    known = (LinearClassification(X_DIM, NUM_CLASSES), LinearRegression(X_DIM))
    return next(sampler for sampler in known if likelihood.fits(sampler.spec))


def generative(regime: str) -> tuple[Any, Any]:
    """A regime that reads samples without targets, and a sampler of such tasks."""
    if regime == "columns":
        columns = ImplicitColumns(TABLE_ENCODERS["axial-transformer"](), Unlabelled(Categorical(2)))
        return columns, SAMPLERS["causal"]()
    likelihood, encoder = Unlabelled(Gaussian(2, scale=1.0)), SET_ENCODERS["transformer"]()
    if regime == "implicit":
        return Implicit(encoder, likelihood, x_dim=2, query_dim=3), SAMPLERS["mixture"]()
    if regime in MEMORY_ENCODERS:
        encoder = MEMORY_ENCODERS[regime]()
        return ExplicitMemory(encoder, likelihood, x_dim=2, query_dim=3), SAMPLERS["mixture"]()
    if regime in RUNNING_ENCODERS:
        encoder = RUNNING_ENCODERS[regime]()
        return RunningAttention(encoder, likelihood, x_dim=2, query_dim=3), SAMPLERS["mixture"]()
    predictor = Predictor(LatentDecoder(3, 5, 2, hidden_dim=DIM), adapt=["latent"])
    rule = LearnedRule(predictor, likelihood, encoder, x_dim=2, signal="data")
    return Explicit(predictor, likelihood, rule), SAMPLERS["mixture"]()


@pytest.fixture(params=["columns", "implicit", "explicit", "ridge", "on-ridge"])
def unlabelled(request: pytest.FixtureRequest) -> Any:
    """A regime for examples without targets, with random weights, and a sampler of such tasks."""
    torch.manual_seed(0)
    regime, sampler = generative(request.param)
    for parameter in regime.parameters():
        nn.init.normal_(parameter, std=0.05)
    return regime, sampler


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], None]:
    """Runs a script with its arguments in this process, which saves the imports of a new one."""

    def run(command: list[str]) -> None:
        monkeypatch.setenv("MPLBACKEND", "agg")
        monkeypatch.syspath_prepend(Path(command[0]).parent)
        monkeypatch.setattr(sys, "argv", command)
        runpy.run_path(command[0], run_name="__main__")

    return run


@pytest.fixture(scope="session", params=MAKERS)
def make_regime(request: pytest.FixtureRequest) -> Any:
    """What makes an untrained regime of a likelihood."""
    return MAKERS[request.param]
