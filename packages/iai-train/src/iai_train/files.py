"""Files that are whole or not there, folders that one run uses at a time, and JSON."""

import contextlib
import errno
import glob
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

try:
    import fcntl
except ImportError:  # Windows, which does not remove a file that another process has open
    fcntl = None  # type: ignore[assignment]

_LOCK = ".lock"
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_MOST_LEVELS = 200  # of nested JSON: Python recurses to about 1000


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

    The bytes go to a temporary file in the same folder and are flushed to the disk; then the
    temporary file is renamed to the file, which is one step. The temporary file is new and its name
    is random, so no link that someone left there is followed. Temporary files of this file whose
    writers were killed are removed.

    Raises:
        OSError: It could not be written (a full disk, say). The old file is as it was, and the
            temporary one is removed.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        _remove_abandoned(path)
        with _opened(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
            _claim(file.fileno())
            file.write(content)
            flush(file)
            if fcntl is None:
                file.close()  # Windows renames no open file
            os.replace(temporary, path)
        _flush_folder(path.parent)
    except OSError as error:
        raise OSError(
            error.errno,
            f"`{path}` could not be written: {error.strerror}; what was there before is untouched.",
        ) from error
    finally:
        _remove(temporary)


@contextlib.contextmanager
def appending(path: Path) -> Iterator[BinaryIO]:
    """Opens a file to add to its end; a link is not followed.

    Raises:
        OSError: It cannot be opened or written.
    """
    try:
        with _opened(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT) as file:
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
        ValueError: It is no JSON, or nested more than 200 levels deep.

    >>> parse_json("[1, {}]")
    [1, {}]
    >>> parse_json("[" * 100_000)
    Traceback (most recent call last):
    ValueError: JSON must be nested at most 200 levels deep.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        value, levels = None, _MOST_LEVELS + 1
    else:
        levels = _levels(value)
    if levels > _MOST_LEVELS:
        raise ValueError(f"JSON must be nested at most {_MOST_LEVELS} levels deep.")
    return value


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


def _opened(path: Path, flags: int) -> BinaryIO:
    return os.fdopen(os.open(path, flags | _NO_LINK | getattr(os, "O_BINARY", 0), 0o666), "wb")


def _claim(descriptor: int) -> bool:
    """Marks a temporary file as that of a living process; False where it is another's."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _remove_abandoned(path: Path) -> None:
    for name in glob.glob(f".{glob.escape(path.name)}.*.tmp", root_dir=path.parent):
        temporary = path.with_name(name)
        with contextlib.suppress(OSError):
            descriptor = os.open(temporary, os.O_RDWR | _NO_LINK)
            try:
                abandoned = _claim(descriptor)
            finally:
                os.close(descriptor)
            if abandoned:
                temporary.unlink()


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _flush_folder(folder: Path) -> None:
    if os.name != "posix":  # elsewhere a folder cannot be opened, nor needs to be
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
