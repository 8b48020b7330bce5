"""The outer loop of learners that have learned to learn: fit, evaluate, checkpoint, report."""

from iai_train.alternating_source import AlternatingSource
from iai_train.command_line import parse
from iai_train.comparison import Comparison
from iai_train.config import ComparisonSizes, FitConfig, Settings
from iai_train.experiment import Experiment
from iai_train.learning_cost import learning_costs
from iai_train.measuring.classifier import simple_classifiers
from iai_train.measuring.cost import peak_bytes, seconds
from iai_train.measuring.density import sample_by_bic
from iai_train.measuring.distance import maximum_mean_discrepancy, wasserstein
from iai_train.measuring.estimator import each_task
from iai_train.measuring.evaluate import evaluate, first
from iai_train.measuring.metric import accuracy, mean_squared_error
from iai_train.measuring.nearest_mean import nearest_mean
from iai_train.measuring.trained_module import TrainedModule, TrainingRun
from iai_train.processes import Device, process_generator, process_index, resolve_device
from iai_train.progress import progress
from iai_train.reporting.figure import clouds, figure
from iai_train.reporting.report import RunInfo, read_metrics, table, write_metrics
from iai_train.row import Row, over_seeds, summarise
from iai_train.sample_comparison import SampleComparison
from iai_train.source import SamplerSource
from iai_train.training.checkpoint import CheckpointError
from iai_train.training.fit import FitResult, fit
from iai_train.training.log import read_log
from iai_train.training.run import NonFiniteError
from iai_train.training.weights import load_weights, save_weights

__all__ = [
    "AlternatingSource",
    "CheckpointError",
    "Comparison",
    "ComparisonSizes",
    "Device",
    "Experiment",
    "FitConfig",
    "FitResult",
    "NonFiniteError",
    "Row",
    "RunInfo",
    "SampleComparison",
    "SamplerSource",
    "Settings",
    "TrainedModule",
    "TrainingRun",
    "accuracy",
    "clouds",
    "each_task",
    "evaluate",
    "figure",
    "first",
    "fit",
    "learning_costs",
    "load_weights",
    "maximum_mean_discrepancy",
    "mean_squared_error",
    "nearest_mean",
    "over_seeds",
    "parse",
    "peak_bytes",
    "process_generator",
    "process_index",
    "progress",
    "read_log",
    "read_metrics",
    "resolve_device",
    "sample_by_bic",
    "save_weights",
    "seconds",
    "simple_classifiers",
    "summarise",
    "table",
    "wasserstein",
    "write_metrics",
]
