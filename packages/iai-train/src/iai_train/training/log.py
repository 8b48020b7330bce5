"""The log of a training run: lines of JSON, and TensorBoard on demand."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from iai_train.files import appending, flush, parse_json, write_atomically

FIELDS = ("iteration", "loss", "gradient_norm", "learning_rate", "wall_seconds")
"""What a line tells."""
OnLog = Callable[[dict[str, int | float]], object]


class Log:
    """`log.jsonl` in a folder, one record a line, and events for TensorBoard beside it.

    Args:
        out: The folder; None writes nothing.
        tensorboard: Whether to write events too.
        on_log: Called with each new record.
    """

    def __init__(self, out: Path | None, *, tensorboard: bool, on_log: OnLog | None) -> None:
        self._path = None if out is None else out / "log.jsonl"
        self._tensorboard, self._on_log = tensorboard, on_log
        self._events: Any = None

    def open(self, iteration: int, records: Sequence[Mapping[str, int | float]]) -> None:
        """Writes the log anew, as the checkpoint has it: what else was in the file is dropped.

        Raises:
            ImportError: TensorBoard is asked for and not installed.
            OSError: The log cannot be written.
        """
        if self._path is None:
            return
        write_atomically(self._path, "".join(map(_line, records)).encode())
        if self._tensorboard:
            self._events = _event_writer(self._path.parent, iteration)

    def write(self, record: dict[str, int | float]) -> None:
        """Adds a record, which has an `iteration`.

        Raises:
            OSError: It could not be written.
        """
        if self._path is not None:
            with appending(self._path) as file:
                file.write(_line(record).encode())
        if self._events is not None:
            for name in record.keys() - {"iteration"}:
                self._events.add_scalar(f"train/{name}", record[name], int(record["iteration"]))
        if self._on_log is not None:
            self._on_log(dict(record))

    def flush(self) -> None:
        """Waits until the lines are on the disk.

        Raises:
            OSError: They could not be written.
        """
        if self._path is not None:
            with appending(self._path) as file:
                flush(file)

    def close(self) -> None:
        """Finishes the events."""
        if self._events is not None:
            self._events.close()


def read_log(out: str | Path) -> list[dict[str, int | float]]:
    """The records of a run's `log.jsonl`, oldest first; none where there is no log.

    A line that is no record of finite numbers, such as one that was cut short, is left out.
    """
    path, records = Path(out) / "log.jsonl", []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            record = parse_json(line)
        except ValueError:
            continue
        if _is_record(record):
            records.append(record)
    return records


def _is_record(line: object) -> TypeGuard[dict[str, int | float]]:
    return (
        isinstance(line, dict)
        and "iteration" in line
        and all(type(value) in (int, float) and math.isfinite(value) for value in line.values())
    )


def _line(record: Mapping[str, int | float]) -> str:
    return json.dumps(dict(record), allow_nan=False) + "\n"


def _event_writer(out: Path, iteration: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "`tensorboard` needs the extra: pip install 'iai-train[tensorboard]'."
        ) from error
    return SummaryWriter(str(out / "tensorboard"), purge_step=iteration + 1)
