"""A disk that is full, as one clear error: which file, the room it needs, the room there is."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

# No space, no quota left, or a file larger than the user may write.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DiskFull(OSError):
    """There is no room for a file; what was begun of it is gone, and what was there before is as it was."""

    def __str__(self) -> str:
        return str(self.strerror)


@contextmanager
def room_for(path: Path, needed: int | None = None, then: str = "free some space, and try again") -> Iterator[None]:
    """Within the block, a write that finds no room is about one file or folder.

    Args:
        path: What is written.
        needed: Its size in bytes, if it is known.
        then: What to do about it, as the end of the message.

    Raises:
        DiskFull: there is no room.
    """
    try:
        yield
    except DiskFull:
        raise
    except (OSError, SafetensorError) as error:
        number = _number(error)
        if number not in FULL:
            raise
        size = "" if needed is None else f" ({readable(needed)})"
        raise DiskFull(
            number, f"there is no room for {path}{size}: {os.strerror(number).lower()}, with {readable(free(path))} "
            f"free on its disk; {then}.",
        ) from None  # fmt: skip


def free(path: Path) -> int:
    """Bytes that are free where a file is, or is to be."""
    place = next(p for p in (path, *path.absolute().parents) if p.exists())
    return shutil.disk_usage(place).free


def readable(size: int) -> str:
    """A number of bytes as people write it: 812 B, 12 kB, 3.4 GB."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if value >= 99.5 or unit == "B" else f"{value:.2g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def _number(error: OSError | SafetensorError) -> int | None:
    """The system's number of an error; safetensors has it in its words alone."""
    if isinstance(error, OSError):
        return error.errno
    return next((number for number in FULL if f"(os error {number})" in str(error)), None)
