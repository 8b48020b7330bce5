"""Arrays kept in a file: checked when read, whole or not there when written, nothing pickled."""

import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray[Any, np.dtype[Any]]]


def save_arrays(path: Path, arrays: Arrays) -> None:
    """Writes arrays to a .npz file, which appears under its name when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # on the disk that it goes to
        written = Path(folder, path.name)
        np.savez(written, **arrays)  # type: ignore[arg-type]
        os.replace(written, path)


def load_arrays(path: Path) -> Arrays | None:
    """Reads the arrays; None if there is no such file, or its checksums say that it is damaged."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return dict(file)
    except (FileNotFoundError, zipfile.BadZipFile, EOFError, ValueError):
        return None
