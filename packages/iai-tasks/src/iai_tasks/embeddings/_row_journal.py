"""Rows of numbers, written batch by batch; a kill loses no batch but the one that it met."""

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np


class RowJournal:
    """Appends float32 rows to a .npy file, and notes in a journal what has reached the disk.

    A line of the journal is a batch: how many rows it has, their SHA-256, and the numbers of the
    images that have no row. What lies beyond the last whole line, or the first batch that is not as
    noted, is cut off when the files are opened again.

    Args:
        array: The .npy file, `row dim`; it is made if there is none.
        journal: The file of lines.
        dim: Numbers of a row.

    Attributes:
        num_images: Images that are done: the rows, and those without one.
        num_rows: Rows written.
        skipped: Numbers of the images that have no row, in order.
    """

    def __init__(self, array: Path, journal: Path, *, dim: int) -> None:
        self.num_rows = 0
        self.skipped: list[int] = []
        self._array, self._journal, self._dim = array, journal, dim
        self._start = len(_header(0, dim))
        array.touch()
        journal.touch()
        with open(journal, "r+b") as lines, open(array, "r+b") as rows:
            whole = 0
            for line in lines:
                if not self._take(line, rows):
                    break
                whole += len(line)
            lines.truncate(whole)
            rows.truncate(self._end())
            for file in (lines, rows):
                file.flush()
                os.fsync(file.fileno())

    @property
    def num_images(self) -> int:
        return self.num_rows + len(self.skipped)

    def append(self, rows: np.ndarray[Any, np.dtype[np.float32]], skipped: list[int]) -> None:
        """Writes a batch; on the return it is on the disk.

        Raises:
            OSError: If it could not be written; earlier batches are untouched.
        """
        content = rows.astype("<f4").tobytes()
        sha = hashlib.sha256(content).hexdigest()
        line = json.dumps({"rows": len(rows), "sha256": sha, "skipped": skipped}) + "\n"
        try:
            _append(self._array, content)
            _append(self._journal, line.encode("ascii"))
        except OSError as error:
            raise OSError(
                error.errno,
                f"`{self._array}` could not be written: {error.strerror}; earlier batches are "
                "untouched.",
            ) from error
        self.num_rows += len(rows)
        self.skipped += skipped

    def finish(self) -> None:
        """Writes the number of rows into the .npy file, which from then on is one."""
        with open(self._array, "r+b") as file:
            file.write(_header(self.num_rows, self._dim))
            file.flush()
            os.fsync(file.fileno())

    def _end(self) -> int:
        return self._start + 4 * self._dim * self.num_rows

    def _take(self, line: bytes, rows: io.BufferedRandom) -> bool:
        """Whether a line and its batch are whole; if so, they count."""
        try:
            batch = json.loads(line) if line.endswith(b"\n") else {}
            num_rows, sha, skipped = batch["rows"], batch["sha256"], batch["skipped"]
            rows.seek(self._end())
            content = rows.read(4 * self._dim * num_rows)
        except (KeyError, TypeError, ValueError):
            return False
        if hashlib.sha256(content).hexdigest() != sha:
            return False
        self.num_rows += num_rows
        self.skipped += skipped
        return True


def _append(path: Path, content: bytes) -> None:
    with open(path, "ab") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _header(num_rows: int, dim: int) -> bytes:
    """The same number of bytes for any number of rows: numpy leaves room for it to grow."""
    buffer = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": (num_rows, dim)}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()
