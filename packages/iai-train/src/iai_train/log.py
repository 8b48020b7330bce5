"""What a training run writes down as it goes: lines of JSON, and TensorBoard when asked."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from iai_train.files import write_atomically


class Log:
    """`log.jsonl` in a folder, one record a line, and events for TensorBoard beside it.

    Args:
        out: The folder.
        tensorboard: Whether to write events too.
    """

    def __init__(self, out: Path, *, tensorboard: bool) -> None:
        self._out = out
        self._tensorboard = tensorboard
        self._path = out / "log.jsonl"
        self._events: Any = None

    def open(self, iteration: int) -> None:
        """Begin, or go on after an iteration: drop what was logged later, and a line cut short.

        Raises:
            ImportError: TensorBoard is asked for and not installed.
            OSError: The log cannot be written.
        """
        kept = [record for record in read_log(self._out) if record["iteration"] <= iteration]
        write_atomically(self._path, "".join(_line(record) for record in kept).encode())
        if self._tensorboard:
            self._events = _event_writer(self._out, iteration)

    def write(self, record: Mapping[str, int | float]) -> None:
        """Add a record, which has an `iteration`.

        Raises:
            OSError: It could not be written.
        """
        try:
            with self._path.open("a") as file:
                file.write(_line(record))
        except OSError as error:
            raise OSError(
                error.errno, f"`{self._path}` could not be written: {error.strerror}."
            ) from error
        if self._events is not None:
            for name in record.keys() - {"iteration"}:
                self._events.add_scalar(f"train/{name}", record[name], int(record["iteration"]))

    def close(self) -> None:
        """Finish the events."""
        if self._events is not None:
            self._events.close()


def read_log(out: Path) -> list[dict[str, int | float]]:
    """Return the records of a run's `log.jsonl`, oldest first; none when there is no log."""
    path = out / "log.jsonl"
    records = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except ValueError:  # cut short
            break
    return records


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
