"""A row, all of whose fields a test may change."""

from iai_train import Row

WHAT = {"method": "oracle", "split": "in", "step": 1, "examples": 16.0, "metric": "error"}


def row(value: float = 1.0, seed: int | None = 0, **changes: object) -> Row:
    return Row(**{**WHAT, "value": value, "stderr": 0.1, "seed": seed, **changes})
