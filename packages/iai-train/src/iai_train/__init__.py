"""The outer loop of learners that have learned to learn: fit, evaluate, checkpoint, report."""

from iai_train.checkpoint import CheckpointError, load_weights, save_weights
from iai_train.command_line import parse
from iai_train.config import FitConfig, Settings
from iai_train.cost import peak_bytes, seconds
from iai_train.distance import maximum_mean_discrepancy, wasserstein
from iai_train.estimator import each_task
from iai_train.evaluate import evaluate, first
from iai_train.experiment import Experiment
from iai_train.figure import clouds, curves, figure, save_figure
from iai_train.fit import FitResult, fit
from iai_train.interfaces import LabelledTasks, Learner, Query, Snapshot, Source, Traceable
from iai_train.log import read_log
from iai_train.metric import accuracy, mean_squared_error
from iai_train.processes import (
    Device,
    num_processes,
    process_generator,
    process_index,
    resolve_device,
)
from iai_train.report import RunInfo, installed_versions, read_metrics, table, write_metrics
from iai_train.row import Row, over_seeds, summarise
from iai_train.run import NonFiniteError
from iai_train.schedule import learning_rate_factor
from iai_train.source import SamplerSource

__all__ = [
    "CheckpointError",
    "Device",
    "Experiment",
    "FitConfig",
    "FitResult",
    "LabelledTasks",
    "Learner",
    "NonFiniteError",
    "Query",
    "Row",
    "RunInfo",
    "SamplerSource",
    "Settings",
    "Snapshot",
    "Source",
    "Traceable",
    "accuracy",
    "clouds",
    "curves",
    "each_task",
    "evaluate",
    "figure",
    "first",
    "fit",
    "installed_versions",
    "learning_rate_factor",
    "load_weights",
    "maximum_mean_discrepancy",
    "mean_squared_error",
    "num_processes",
    "over_seeds",
    "parse",
    "peak_bytes",
    "process_generator",
    "process_index",
    "read_log",
    "read_metrics",
    "resolve_device",
    "save_figure",
    "save_weights",
    "seconds",
    "summarise",
    "table",
    "wasserstein",
    "write_metrics",
]
