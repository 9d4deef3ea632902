"""Files and folders that are whole or absent: written beside their place, flushed, then renamed into it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from physdiff.disk import room_for


@contextmanager
def replacing_file(path: str | Path) -> Iterator[Path]:
    """A temporary file in the folder of `path`, which takes its place when the block ends without an error.

    Args:
        path: File to make or replace; its folder is made when missing.

    Raises:
        DiskFull: there is no room; what stood there is as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        with room_for(path):
            yield partial
            # mkstemp's files are private to their owner; what is published follows the user's own mask.
            partial.chmod(0o666 & ~_mask())
            _flush(partial)
            os.replace(partial, path)
            _flush(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder: str | Path, overwrite: bool = False, mark: str = "data") -> Iterator[Path]:
    """A temporary folder beside `folder`, which takes its place when the block ends without an error.

    Args:
        folder: Folder to make.
        overwrite: Whether one that stands there may be replaced.
        mark: Entry by which a folder of the same kind is known; any other folder is never replaced.

    Raises:
        ValueError: `folder` holds something already.
        DiskFull: there is no room; what stood there is as it was.
    """
    folder = Path(folder)
    occupied = folder.is_file() or (folder.is_dir() and any(folder.iterdir()))
    if occupied and not overwrite:
        raise ValueError(f"'{folder}' exists already; choose another folder or pass overwrite=True (--overwrite true).")
    if occupied and not (folder / mark).exists():
        raise ValueError(f"'{folder}' is of another kind (it has no '{mark}'), so it is not overwritten.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    partial, previous = stage / "new", stage / "old"
    partial.mkdir()
    try:
        with room_for(folder):
            yield partial
            for written in partial.rglob("*"):
                _flush(written)
            _flush(partial)
            if occupied:
                folder.rename(previous)
            partial.rename(folder)
            _flush(folder.parent)
    finally:
        if previous.is_dir() and not folder.exists():
            previous.rename(folder)
        shutil.rmtree(stage, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _mask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
