"""Files that are whole or not there, folders that one run uses at a time, and JSON."""

import contextlib
import errno
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from iai_train.whole_file import whole_file

_LOCK = ".lock"
_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_MOST_LEVELS = 200  # of nested JSON: Python recurses to about 1000
_MOST_DIGITS = 300  # of an integer in JSON: a float holds 308


def make_folder(folder: Path) -> None:
    """Makes a folder, and checks that files can be written to it.

    Raises:
        OSError: It cannot be made, or nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise OSError(
            error.errno, f"The folder `{folder}` cannot be written to: {error.strerror}."
        ) from error


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Makes a folder and keeps others from it, by a lock on its file `.lock`, which stays there.

    Yields:
        Whether the lock could be had; False: another process, or another call in this one, has it.

    Raises:
        OSError: Nothing can be written to the folder.
    """
    make_folder(folder)
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    except OSError as error:
        raise OSError(
            error.errno, f"The folder `{folder}` cannot be written to: {error.strerror}."
        ) from error
    try:
        yield True
    finally:
        lock.release()


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that a reader, or a crash, meets all of the old content or all of the new.

    It is written by `whole_file`; then the folder is flushed to the disk, so that a power cut does
    not take the new name back.

    Raises:
        OSError: It could not be written (a full disk, say). The old file is as it was.
    """
    with whole_file(path) as file:
        file.write(content)
    with contextlib.suppress(OSError):  # not every disk can flush folders
        _flush_folder(path.parent)


@contextlib.contextmanager
def appending(path: Path) -> Iterator[BinaryIO]:
    """Opens a file to add to its end; a link is not followed.

    Raises:
        OSError: It cannot be opened or written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | _NO_LINK, 0o666)
        with os.fdopen(descriptor, "wb") as file:
            yield file
    except OSError as error:
        raise OSError(error.errno, f"`{path}` could not be written: {error.strerror}.") from error


def flush(file: BinaryIO) -> None:
    """Waits until what was written to a file is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def parse_json(text: str | bytes) -> object:
    """Parses JSON that may come from anywhere.

    Raises:
        ValueError: It is no JSON, nested more than 200 levels deep, or holds an integer that no
            float holds.

    >>> parse_json("[1, {}]")
    [1, {}]
    >>> parse_json("[" * 100_000)
    Traceback (most recent call last):
    ValueError: JSON must be nested at most 200 levels deep.
    """
    try:
        value = json.loads(text, parse_int=_integer)
    except RecursionError:
        value, levels = None, _MOST_LEVELS + 1
    else:
        levels = _levels(value)
    if levels > _MOST_LEVELS:
        raise ValueError(f"JSON must be nested at most {_MOST_LEVELS} levels deep.")
    return value


def _integer(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"JSON must hold integers of at most {_MOST_DIGITS} digits.")
    return int(digits)


def _levels(value: object) -> int:
    """How deep lists and mappings are nested."""
    level, nodes = 0, [value]
    while nodes and level <= _MOST_LEVELS:
        level += 1
        nodes = [inner for node in nodes for inner in _inner(node)]
    return level


def _inner(node: object) -> Iterable[object]:
    if isinstance(node, dict):
        return node.values()
    return node if isinstance(node, list) else ()


def _flush_folder(folder: Path) -> None:
    if os.name != "posix":  # elsewhere a folder cannot be opened, nor needs to be
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
