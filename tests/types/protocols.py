"""Every producer, held by mypy against the Protocol of every consumer; nothing here is run.

A new part joins the list of its role. Where one does not fit, mypy names the method.
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


def samplers(
    linear_regression: iai_tasks.LinearRegression,
    linear_classification: iai_tasks.LinearClassification,
    random_network: iai_tasks.RandomNetworkRegression,
    projected: iai_tasks.ProjectedClassification,
) -> None:
    own: list[tasks.Sampler] = [
        linear_regression,
        linear_classification,
        random_network,
        projected,
    ]
    redrawn: list[iterate.Sampler] = [*own]
    trained_on: list[train.TaskSampler[iai_tasks.TaskBatch]] = [*own]


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
) -> None:
    own_sets: list[iai_encoders.SetEncoder[Any]] = [transformer, deep_set]
    own_sequences: list[iai_encoders.SequenceEncoder[Any]] = [causal]
    sets: list[regimes.SetEncoder] = [transformer, deep_set]


def regime(
    parametric: iai_regimes.Parametric,
    explicit: iai_regimes.Explicit,
    implicit: iai_regimes.Implicit,
    gaussian: iai_regimes.Gaussian,
    categorical: iai_regimes.Categorical,
    learned_rule: iai_regimes.LearnedRule,
    adam: iai_regimes.Adam,
) -> None:
    refined: list[iterate.Regime] = [parametric, explicit, implicit]
    likelihoods: list[regimes.Likelihood] = [gaussian, categorical]
    rules: list[regimes.Rule] = [learned_rule, adam]


def gradient_modes() -> None:
    modes: list[iterate.GradientMode[Any]] = [
        iai_iterate.greedy,
        iai_iterate.truncated(2),
        iai_iterate.unrolled,
    ]


def learner(iterated: iai_iterate.Iterated, adapted: iai_iterate.Adapted) -> None:
    trained: train.Learner[iai_tasks.TaskBatch, Any] = iterated
    measured: train.Traceable[iai_tasks.Examples] = iterated
    shown: train.Snapshot = adapted


def sources(sampled: iai_train.SamplerSource[iai_tasks.TaskBatch], pool: iai_iterate.Pool) -> None:
    fed: list[train.Source[Any, Any]] = [sampled, pool]
