"""Files that are whole or not there."""

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Opens a temporary file beside `path`, which takes the name `path` once it is on the disk.

    A reader, or a crash, meets the old file or the new one. The temporary file has a new name each
    time, and is never opened through a link. It is locked while it is written: the next writer of
    `path` removes what killed processes left, and nothing that another one still writes.

    Args:
        path: Where to; its folder exists.

    Raises:
        OSError: If it could not be written; what was there before is untouched.
    """
    temporary = None
    try:
        _remove_abandoned(path)
        file, temporary = _create(path)
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if fcntl is None:
                file.close()  # Windows renames no open file
            os.replace(temporary, path)
    except OSError as error:
        raise OSError(
            error.errno,
            f"`{path}` could not be written: {error.strerror}; what was there before is untouched.",
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def _create(path: Path) -> tuple[BinaryIO, Path]:
    """A new file beside `path`, locked where files can be locked."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        file = open(temporary, "xb")  # noqa: SIM115  (x is O_EXCL, which follows no link)
        if fcntl is not None:
            with contextlib.suppress(OSError):  # not every network disk has locks
                fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return file, temporary
        file.close()  # another writer found it before it was locked, and removed it


def _remove_abandoned(path: Path) -> None:
    """Removes the temporary files of `path` that no process has locked."""
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]+\.tmp")
    with contextlib.suppress(OSError):
        for file in path.parent.iterdir():
            if name.fullmatch(file.name):
                _remove_unlocked(file)


def _remove_unlocked(file: Path) -> None:
    if fcntl is None:
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.unlink()
        finally:
            os.close(descriptor)
