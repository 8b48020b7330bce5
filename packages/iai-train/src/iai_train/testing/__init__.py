"""Contracts for sources, learners, metrics and loggers of your own, to be called in your tests."""

from iai_train.testing.learner import check_learner, check_traceable
from iai_train.testing.logger import check_logger
from iai_train.testing.metric import check_metric
from iai_train.testing.source import check_source

__all__ = ["check_learner", "check_logger", "check_metric", "check_source", "check_traceable"]
