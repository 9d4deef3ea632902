"""Digests by which a data set is known again, wherever its files lie and however they are packed."""

from __future__ import annotations

import json
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from physdiff.data.fieldset import FieldSet
from physdiff.data.samples import Samples

ALL_UP_TO = 32 << 20  # bytes of samples that are read whole
PROBES = 16  # samples that are read of a larger set


def digest_of_tensor(x: Tensor) -> str:
    """Type, shape and a hash of all its numbers."""
    numbers = blake2b(x.cpu().numpy().tobytes(), digest_size=8).hexdigest()
    return f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}, digest {numbers}"


def content_of(fields: FieldSet) -> str:
    """Hash of what a data set holds: its selection, names, units, grid, times, numbers of the runs, and samples.

    All samples count if they are few or in memory, else 16 that lie evenly: reading a terabyte to know it again would
    take longer than training on it. Not the paths, the packing or the dates of files, so that a copy is the same data.
    """
    found = blake2b(digest_size=16)
    plain = [
        asdict(fields.selection), len(fields), fields.names, fields.units, fields.given_names, fields.scalar_names,
        fields.grid.to_dict(), str(fields.dtype), [None if runs is None else runs.tolist() for runs in fields.taken],
    ]  # fmt: skip
    found.update(_plain(plain))
    for source in fields.sources:
        found.update(np.ascontiguousarray(source.times).tobytes())
        for name, numbers in sorted(source.scalars.items()):
            found.update(name.encode() + np.ascontiguousarray(numbers).tobytes())
    one = max(1, _bytes(fields.read([0])))
    n = len(fields)
    # What is in memory has no date either that would tell of a change.
    is_all = n * one <= ALL_UP_TO or not is_on_disk(fields)
    rows = np.arange(n) if is_all else np.linspace(0, n - 1, PROBES).round().astype(np.int64)
    step = max(1, ALL_UP_TO // one)
    for start in range(0, len(rows), step):
        samples = fields.read(rows[start : start + step])
        for name, x in samples.arrays.items():
            found.update(f"{name} {x.dtype} {x.shape}".encode() + np.ascontiguousarray(x).tobytes())
    return found.hexdigest()


def digest_with(content: str, preparation: dict[str, Any]) -> str:
    """Hash of a data set and of what is done to it."""
    return blake2b(content.encode() + _plain(preparation), digest_size=16).hexdigest()


def is_on_disk(fields: FieldSet) -> bool:
    """Whether all of a set lies in files; an object in memory may bear the name of one."""
    return not any(source.is_in_memory for source in fields.sources) and all(
        Path(path).exists() for source in fields.sources for path in source.paths
    )


def files_of(fields: FieldSet) -> list[list[Any]]:
    """Name, size and date of each file, which change when one is written again."""
    found = []
    for path in (Path(one) for source in fields.sources for one in source.paths):
        for file in files_under(path) if path.exists() else ():
            state = file.stat()
            found.append([str(file.relative_to(path.parent)), state.st_size, state.st_mtime_ns])
    return found


def states_of(fields: FieldSet) -> dict[str, str]:
    """For each file where it lies a hash of its size and dates, which change when a byte of it is written.

    The date of the last change is among them, which no program can set back as it can that of the last writing.
    """
    found: dict[str, str] = {}
    for path in (Path(one).absolute() for source in fields.sources for one in source.paths):
        if path.exists():
            known = [(file.relative_to(path), file.stat()) for file in files_under(path)]
            plain = [[str(name), s.st_size, s.st_mtime_ns, s.st_ctime_ns] for name, s in known]
            found[str(path)] = blake2b(_plain(plain), digest_size=16).hexdigest()
    return found


def files_under(path: Path) -> list[Path]:
    """A file, or all in the folder that a store consists of, whose own date says nothing of them."""
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


def _plain(values: Any) -> bytes:
    return json.dumps(values, sort_keys=True, default=str).encode()


def _bytes(samples: Samples) -> int:
    return sum(x.nbytes for x in samples.arrays.values())
