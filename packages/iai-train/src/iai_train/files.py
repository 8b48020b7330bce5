"""Files that are whole or not there."""

import contextlib
import os
from pathlib import Path


def make_folder(folder: Path) -> None:
    """Makes a folder, and checks that files can be written to it.

    Raises:
        OSError: It cannot be made, or nothing can be written there.
    """
    probe = folder / f".probe.{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
    except OSError as error:
        raise OSError(
            error.errno, f"The folder `{folder}` cannot be written to: {error.strerror}."
        ) from error
    finally:
        _remove(probe)


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that a reader, or a crash, meets all of the old content or all of the new.

    The bytes go to a temporary file in the same folder and are flushed to the disk; then the
    temporary file is renamed to the file, which is one step.

    Raises:
        OSError: It could not be written (a full disk, say). The old file is as it was, and the
            temporary one is removed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except OSError as error:
        raise OSError(
            error.errno,
            f"`{path}` could not be written: {error.strerror}; what was there before is untouched.",
        ) from error
    finally:
        _remove(temporary)


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
