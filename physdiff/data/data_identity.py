"""A digest of a data set and of what a sample of it is: equal where statistics may be shared, and cheap to compute.

It is of the samples as `physdiff.data.fingerprint.content_of` sees them, of which trajectories belong to the set, and
of the files: their names from their common folder on, so that a set may be moved, their sizes, their first and last
bytes and pieces at fixed places between. Up to 400 kB a file are read so, less where there are many. A change of a few
bytes in a large file can escape it; the digest of all values, which statistics also carry, tells that too.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from physdiff.data.fieldset import FieldSet
from physdiff.data.fingerprint import content_of, files_under, is_on_disk
from physdiff.data.streaming import blocks

_ENDS, _PIECES, _PIECE = 65536, 64, 4096
_BUDGET = 2**26  # bytes read of all files, if there are few enough for it


def identity_of(fields: FieldSet) -> str:
    """The digest of a data set, 32 hexadecimal digits."""
    digest = hashlib.blake2b(content_of(fields).encode(), digest_size=16)
    for taken in fields.taken:
        digest.update(b"all" if taken is None else np.asarray(taken, dtype=np.int64).tobytes())
    paths = [Path(path).absolute() for source in fields.sources for path in source.paths]
    if not is_on_disk(fields):  # in memory, where reading costs nothing
        for _, samples in blocks(fields, "identity"):
            digest.update(samples.values.tobytes())
        return digest.hexdigest()
    common = Path(os.path.commonpath([path.parent for path in paths]))
    for path in paths:
        digest.update(f"\x1f{path.relative_to(common)}".encode())
        for file in files_under(path):
            digest.update(f"\x1e{file.relative_to(path)}".encode())
            _add_file(digest, file, _BUDGET // len(paths))
    return digest.hexdigest()


def _add_file(digest: Any, path: Path, budget: int) -> None:
    size = path.stat().st_size
    digest.update(size.to_bytes(8, "big"))
    ends, pieces = min(_ENDS, max(budget // 4, _PIECE)), min(_PIECES, max(budget // 2 // _PIECE, 2))
    with path.open("rb") as file:
        digest.update(file.read(ends))
        between = size - 2 * ends
        for i in range(pieces if between > 0 else 0):
            file.seek(ends + i * max(between - _PIECE, 0) // (pieces - 1))
            digest.update(file.read(_PIECE))
        file.seek(max(size - ends, 0))
        digest.update(file.read(ends))
