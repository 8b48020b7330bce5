"""The contract of a logger."""

from collections.abc import Callable, Mapping
from typing import Any

import torch


def check_logger(log: Callable[[Mapping[str, int | float]], object]) -> None:
    """Checks that a logger is what `fit` can hand its records to.

    It takes any record of numbers with an `iteration`, whatever else is in it, and one of an
    earlier iteration than the last, as a run writes that was stopped and went on from its
    checkpoint. It changes neither the record nor torch's global generators, from which training
    draws: a run with a logger is the run without it.

    Args:
        log: What to check. It is called with six records.

    Raises:
        AssertionError: With the sentence that does not hold.

    >>> records = []
    >>> check_logger(records.append)
    >>> records[0]["iteration"], records[-1]["iteration"]
    (10, 30)
    """
    state, enabled = torch.get_rng_state(), torch.is_grad_enabled()
    for iteration in (10, 20, 30, 20, 30):
        record: dict[str, int | float] = {"iteration": iteration, "loss": 1 / iteration}
        record |= {"gradient_norm": 0.5, "learning_rate": 1e-3, "wall_seconds": 0.1 * iteration}
        _check_log(log, record)
    _check_log(log, {"iteration": 30, "loss": 0.1, "another": 3})
    same = torch.equal(torch.get_rng_state(), state) and torch.is_grad_enabled() == enabled
    assert same, "A logger leaves torch's global generator and gradients as they were."


def _check_log(log: Callable[[Mapping[str, int | float]], object], record: dict[str, Any]) -> None:
    before = dict(record)
    try:
        log(record)
    except Exception as error:
        raise AssertionError(f"A logger takes the record {before}; got {error!r}.") from error
    assert record == before, f"A logger leaves its record as it was; {before} became {record}."
