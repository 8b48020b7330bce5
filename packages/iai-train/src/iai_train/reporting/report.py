"""Rows as a file and as a table."""

import json
import math
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import attrs
from rich.box import SIMPLE_HEAD
from rich.table import Table

from iai_train.files import make_folder, write_atomically
from iai_train.row import Row, over_seeds

_METHOD_WIDTH = 16


def installed_versions() -> dict[str, str]:
    """Return the versions of Python, torch and the packages of this project that are installed.

    >>> sorted(installed_versions())[-1]
    'torch'
    """
    names = {dist.name for dist in metadata.distributions() if (dist.name or "").startswith("iai-")}
    versions = {name: metadata.version(name) for name in sorted(names | {"torch"})}
    return {"python": platform.python_version(), **versions}


@attrs.frozen(kw_only=True)
class RunInfo:
    """What made the rows."""

    example: str
    preset: str
    seed: int
    device: str
    wall_seconds: float
    data: dict[str, str] = attrs.field(factory=dict)
    versions: dict[str, str] = attrs.field(factory=installed_versions)


def write_metrics(out: Path, run: RunInfo, rows: Iterable[Row]) -> Path:
    """Write `metrics.json`: `run`, and `rows` as records that pandas reads as they are.

    A number that is not finite, of a method that diverged or the standard error of a single task,
    is written as null.

    Returns:
        The file's path.

    Raises:
        OSError: It could not be written; what was there before is untouched.
    """
    content = {
        "run": attrs.asdict(run),
        "rows": [
            {key: _finite_or_none(value) for key, value in attrs.asdict(row).items()}
            for row in rows
        ],
    }
    make_folder(out)
    path = out / "metrics.json"
    write_atomically(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
    return path


def read_metrics(path: Path) -> tuple[RunInfo, list[Row]]:
    """Read a `metrics.json`; null comes back as NaN. `over_seeds` averages the rows of several."""
    content = json.loads(path.read_text())
    return RunInfo(**content["run"]), [Row(**_nan_for_none(row)) for row in content["rows"]]


def table(
    rows: Iterable[Row],
    *,
    metric: str,
    by: Literal["step", "examples"] = "step",
) -> Table:
    """Lay out one metric: methods down, in a section for each split; steps or examples across.

    Several seeds are averaged. Print it with `rich.print`.

    Args:
        rows: Rows of any metrics and splits.
        metric: The metric to show.
        by: What the columns are.

    Raises:
        ValueError: No row has this metric.
    """
    shown = [row for row in over_seeds(rows) if row.metric == metric]
    if not shown:
        raise ValueError(f"There must be rows of `{metric}`; got none.")
    columns = sorted({float(getattr(row, by)) for row in shown})
    cells = {(row.split, row.method, float(getattr(row, by))): _cell(row) for row in shown}
    splits = list(dict.fromkeys(row.split for row in shown))
    methods = list(dict.fromkeys(row.method for row in shown))
    title = f"{metric} by {by}, ± standard error"
    result = Table(title=title, box=SIMPLE_HEAD, padding=0, pad_edge=False)
    # Wide enough to be read where the numbers would squeeze it.
    result.add_column("method", min_width=min(max(map(len, methods)), _METHOD_WIDTH))
    for column in columns:
        result.add_column(f"{column:g}", justify="right", no_wrap=True)
    for split in splits:
        if len(splits) > 1:
            result.add_section()
            result.add_row(f"[bold]split: {split}[/bold]")
        for method in methods:
            line = [cells.get((split, method, column), "") for column in columns]
            if any(line):
                result.add_row(method, *line)
    return result


def _cell(row: Row) -> str:
    if not (math.isfinite(row.value) and math.isfinite(row.stderr) and row.stderr > 0):
        return f"{row.value:.4g}"
    # Two digits of the standard error, and the value to the same place.
    places = 1 - math.floor(math.log10(row.stderr))
    if not 0 <= places <= 6:
        return f"{row.value:.3g}\n±{row.stderr:.1g}"
    return f"{row.value:.{places}f}\n±{row.stderr:.{places}f}"


def _finite_or_none(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _nan_for_none(row: dict[str, Any]) -> dict[str, Any]:
    return {
        key: math.nan if value is None and key != "seed" else value for key, value in row.items()
    }
