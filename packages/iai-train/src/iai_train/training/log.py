"""The log of a training run: lines of JSON, and TensorBoard on demand."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from iai_train.files import write_atomically


class Log:
    """`log.jsonl` in a folder, one record a line, and events for TensorBoard beside it.

    Args:
        out: The folder; None writes nothing.
        tensorboard: Whether to write events too.
    """

    def __init__(self, out: Path | None, *, tensorboard: bool) -> None:
        self._out, self._tensorboard = out, tensorboard
        self._events: Any = None

    def open(self, iteration: int) -> None:
        """Drops what was logged after an iteration, and a line that was cut short.

        Raises:
            ImportError: TensorBoard is asked for and not installed.
            OSError: The log cannot be written.
        """
        if self._out is None:
            return
        kept = [record for record in read_log(self._out) if record["iteration"] <= iteration]
        write_atomically(self._out / "log.jsonl", "".join(map(_line, kept)).encode())
        if self._tensorboard:
            self._events = _event_writer(self._out, iteration)

    def write(self, record: Mapping[str, int | float]) -> None:
        """Adds a record, which has an `iteration`.

        Raises:
            OSError: It could not be written.
        """
        if self._out is None:
            return
        path = self._out / "log.jsonl"
        try:
            with path.open("a") as file:
                file.write(_line(record))
        except OSError as error:
            raise OSError(
                error.errno, f"`{path}` could not be written: {error.strerror}."
            ) from error
        if self._events is not None:
            for name in record.keys() - {"iteration"}:
                self._events.add_scalar(f"train/{name}", record[name], int(record["iteration"]))

    def close(self) -> None:
        """Finishes the events."""
        if self._events is not None:
            self._events.close()


def read_log(out: str | Path) -> list[dict[str, int | float]]:
    """The records of a run's `log.jsonl`, oldest first; none where there is no log."""
    path, records = Path(out) / "log.jsonl", []
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
