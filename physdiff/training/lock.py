"""One process at a time in a run's folder.

The lock is the system's (flock), not the file's presence: it falls with the process that holds it, however that ends,
so a killed run leaves nothing to clean up. What the file says is for the message alone.
"""

from __future__ import annotations

import errno
import fcntl
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAME = ".lock"
NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def only_process(folder: Path) -> Iterator[None]:
    """Within the block, no other process may be in such a block of the same folder; the folder is made when missing.

    Limit (C): on a network file system without locks it warns and goes on.

    Raises:
        ValueError: another process holds the folder; it is named.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / NAME).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in NO_LOCKS_HERE:
                warnings.warn(f"{folder} is on a file system without locks: start one process at a time.", stacklevel=3)
            elif isinstance(error, BlockingIOError):
                file.seek(0)
                raise ValueError(
                    f"'{folder}' is in use by another process ({file.read().strip() or 'unknown'}); wait for it or "
                    "stop it, or train in another folder."
                ) from None
            else:
                raise
        try:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {os.uname().nodename}")
            file.flush()
        except OSError:  # a full disk does not keep the lock from holding
            pass
        yield
