"""mypy checks every producer against the Protocols of its consumers; nothing here is run.

A new part joins the list of its role. Where it does not fit, mypy names the method.
"""

from typing import Any

import iai_encoders
import iai_iterate
import iai_regimes
import iai_tasks
import iai_train
from iai_iterate import interfaces as iterate
from iai_regimes import interfaces as regimes
from iai_tasks import interfaces as tasks
from iai_train import interfaces as train
from iai_train.measuring.evaluate import Metric
from torch import Tensor


def samplers(
    linear_regression: iai_tasks.LinearRegression,
    linear_classification: iai_tasks.LinearClassification,
    random_network: iai_tasks.RandomNetworkRegression,
    projected: iai_tasks.ProjectedClassification,
    few_shot: iai_tasks.FewShotClassification,
    sinusoid: iai_tasks.Sinusoid,
    mixture: iai_tasks.MixtureOfGaussians,
    causal: iai_tasks.StructuralCausalModels,
    clouds: iai_tasks.GlyphClouds,
    random_examples: iai_tasks.RandomExamples,
) -> None:
    based: list[iai_tasks.AbstractSampler] = [
        linear_regression,
        linear_classification,
        random_network,
        projected,
        few_shot,
        sinusoid,
        mixture,
        causal,
        clouds,
        random_examples,
    ]
    own: list[tasks.Sampler] = [*based]
    redrawn: list[iterate.Sampler] = [*based]
    trained_on: list[train.TaskSampler[iai_tasks.TaskBatch]] = [*based]
    described: list[regimes.TaskSpec] = [sampler.spec for sampler in based]


def embeddings(
    arrays: iai_tasks.ImageClasses, files: iai_tasks.ImageFiles, backbone: iai_tasks.Backbone
) -> None:
    sources: list[iai_tasks.ImageSource] = [arrays, files]
    embedder: tasks.Embedder = backbone


def examples(batch: iai_tasks.TaskBatch, examples: iai_tasks.Examples) -> None:
    labelled: regimes.Examples = examples
    cut: iterate.Batch = examples
    asked: train.Query = examples
    refined: iterate.Tasks = batch
    measured: train.LabelledTasks[iai_tasks.Examples] = batch


def encoders(
    transformer: iai_encoders.SetTransformer,
    deep_set: iai_encoders.DeepSet,
    causal: iai_encoders.CausalTransformer,
    associative: iai_encoders.MemoryTransformer,
    running: iai_encoders.RunningTransformer,
    ridge: iai_encoders.Ridge,
    linear: iai_encoders.LinearAttention,
) -> None:
    own_sets: list[iai_encoders.SetEncoder[Any]] = [transformer, deep_set]
    own_sequences: list[iai_encoders.SequenceEncoder[Any]] = [causal]
    own_memories: list[iai_encoders.MemoryEncoder[Any]] = [deep_set, associative, causal]
    own_layers: list[iai_encoders.LowerMemory[Any]] = [associative]
    own_tracing: list[iai_encoders.TracingMemory[Any]] = [associative]
    own_running: list[iai_encoders.RunningEncoder[Any, Any]] = [running]
    own_associations: list[iai_encoders.Association[Any]] = [ridge, linear]
    sets: list[regimes.SetEncoder] = [transformer, deep_set]
    memories: list[regimes.MemoryEncoder] = [deep_set, associative, causal]
    tracing: list[regimes.TracingMemory] = [associative]
    refined: list[regimes.RunningEncoder] = [running]


def tracing(memory: iai_regimes.ExplicitMemory, running: iai_regimes.RunningAttention) -> None:
    traced: list[iterate.TracingRegime] = [memory, running]


def regime(
    parametric: iai_regimes.Parametric,
    explicit: iai_regimes.Explicit,
    implicit: iai_regimes.Implicit,
    gaussian: iai_regimes.Gaussian,
    categorical: iai_regimes.Categorical,
    embedded: iai_regimes.Embedded,
) -> None:
    refined: list[iterate.Regime] = [parametric, explicit, implicit, embedded]
    embeddable: list[regimes.Regime] = [*refined]
    likelihoods: list[regimes.Likelihood] = [gaussian, categorical]


def rules(
    learned: iai_regimes.LearnedRule,
    recurrent: iai_regimes.RecurrentRule,
    small: iai_regimes.MLPRule,
    adam: iai_regimes.Adam,
    descent: iai_regimes.GradientDescent,
    proximal: iai_regimes.Proximal,
    converged: iai_regimes.UntilConverged,
    newton: iai_regimes.NewtonCG,
    lbfgs: iai_regimes.LBFGS,
) -> None:
    solvers: list[regimes.Solver] = [adam, descent, proximal, converged, newton, lbfgs]
    moving: list[regimes.Rule] = [learned, recurrent, small, *solvers]


def gradient_modes(parametric: iai_regimes.Parametric) -> None:
    modes: list[iterate.GradientMode[Any]] = [
        iai_iterate.greedy,
        iai_iterate.truncated(2),
        iai_iterate.unrolled,
        iai_iterate.rematerialised,
        iai_iterate.first_order,
        iai_iterate.reptile,
        iai_iterate.ImplicitGradient(parametric.residual, iai_iterate.ConjugateGradient()),
    ]


def linear_solvers() -> None:
    solvers: list[iai_iterate.LinearSolver] = [
        iai_iterate.ConjugateGradient(),
        iai_iterate.Neumann(steps=3),
    ]
    for_newton: list[regimes.LinearSolver] = [*solvers]


def metrics(query: train.Query, outputs: Tensor) -> list[Tensor]:
    measures: list[Metric] = [iai_train.accuracy, iai_train.mean_squared_error]
    return [measure(outputs, query) for measure in measures]


def learner(
    iterated: iai_iterate.Iterated, adapted: iai_iterate.Adapted, module: iai_train.TrainedModule
) -> None:
    trained: train.Learner[iai_tasks.TaskBatch, Any] = iterated
    measured: train.Traceable[iai_tasks.Examples] = iterated
    run: train.Traceable[int] = module
    shown: train.Snapshot = adapted


def sources(sampled: iai_train.SamplerSource[iai_tasks.TaskBatch], pool: iai_iterate.Pool) -> None:
    fed: list[train.Source[Any, Any]] = [sampled, pool]
