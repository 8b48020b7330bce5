"""Pytrees that must be equal, and calls that must be refused."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_flatten


def check_same(actual: Any, expected: Any, sentence: str, tolerance: float = 0.0) -> None:
    """Raises AssertionError with the sentence where two pytrees of tensors differ.

    Args:
        actual: A pytree of tensors.
        expected: The pytree that it must equal.
        sentence: The sentence of the contract that demands it, with which the error begins.
        tolerance: How far numbers may lie apart, absolutely and relatively; 0 for not at all.
    """
    (leaves, structure), (others, other) = tree_flatten(actual), tree_flatten(expected)
    assert structure == other, f"{sentence}\nThe structures differ: {structure}, {other}."
    torch.testing.assert_close(
        leaves, others, rtol=tolerance, atol=tolerance, msg=lambda how: f"{sentence}\n{how}"
    )


def check_refused(call: Callable[[], object], sentence: str) -> None:
    """Raises AssertionError with the sentence where a call raises nothing, or no ValueError.

    Args:
        call: A call, without arguments, that must raise ValueError.
        sentence: The sentence of the contract that demands it: the error.
    """
    try:
        call()
    except ValueError:
        return
    except Exception as error:
        raise AssertionError(f"{sentence}\nIt is {type(error).__name__}: {error}") from error
    raise AssertionError(sentence)
