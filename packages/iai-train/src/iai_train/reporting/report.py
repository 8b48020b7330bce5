"""Rows as a file and as a table."""

import json
import math
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, cast

import attrs
from rich.box import SIMPLE_HEAD
from rich.table import Table

from iai_train.files import make_folder, parse_json, write_atomically
from iai_train.row import Row, over_seeds

_METHOD_WIDTH = 16


def _installed_versions() -> dict[str, str]:
    """The versions of Python, torch and the packages of this project that are installed."""
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
    """Name and fingerprint of each data set that is not drawn from the seed."""
    versions: dict[str, str] = attrs.field(factory=_installed_versions)
    """Of Python, torch and the packages of this project."""


def write_metrics(out: str | Path, run: RunInfo, rows: Iterable[Row]) -> Path:
    """Writes `metrics.json`: `run`, and `rows` as records that pandas reads as they are.

    A number that is not finite, such as the error of a method that diverged or the standard error
    of a single task, is written as null.

    Returns:
        The file's path.

    Raises:
        OSError: It could not be written; what was there before is untouched.
    """
    records = [
        {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in attrs.asdict(row).items()
        }
        for row in rows
    ]
    content = {"run": attrs.asdict(run), "rows": records}
    make_folder(Path(out))
    path = Path(out) / "metrics.json"
    write_atomically(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
    return path


def read_metrics(path: str | Path) -> tuple[RunInfo, list[Row]]:
    """Reads a `metrics.json`; null comes back as NaN. `over_seeds` averages the rows of several.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not what `write_metrics` writes.
    """

    def row(record: dict[str, Any]) -> Row:
        numbers = {
            name: math.nan if record[name] is None else float(record[name])
            for name in ("value", "stderr")
        }
        return Row(**record | numbers)

    try:
        content = cast(dict[str, Any], parse_json(Path(path).read_bytes()))
        return RunInfo(**content["run"]), list(map(row, content["rows"]))
    except (ValueError, TypeError, LookupError) as error:
        raise ValueError(f"`{path}` is no record of `write_metrics`: {error}.") from error


def table(rows: Iterable[Row], *, metric: str, by: Literal["step", "examples"] = "step") -> Table:
    """Lays out one metric: methods down, in a section for each split; steps or examples across.

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
    splits, methods = (
        list(dict.fromkeys(getattr(row, name) for row in shown)) for name in ("split", "method")
    )
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
    # Two digits of the standard error, and the value to the same decimal.
    places = 1 - math.floor(math.log10(row.stderr))
    if not 0 <= places <= 6:
        return f"{row.value:.3g}\n±{row.stderr:.1g}"
    return f"{row.value:.{places}f}\n±{row.stderr:.{places}f}"
