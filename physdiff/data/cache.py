"""Prepared rows in files that are mapped into memory: made once, shared by all processes of a machine.

`CACHE/<digest>/` holds one `.npy` for the fields and one for each part of their condition. The digest is that of the
data, the selection, the preparation and the dates of the files; what does not fit it is never read.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from physdiff.atomic import replacing_folder
from physdiff.condition import Given
from physdiff.data.ahead import Ahead, Parts
from physdiff.data.fieldset import FieldSet
from physdiff.data.fingerprint import files_of
from physdiff.data.order import Order
from physdiff.data.rows import Prepares, joined, parts_of, prepared_bytes, prepared_pieces
from physdiff.disk import DiskFull, free, readable

ABOUT = "about.json"
COMPARED = 8  # rows that are compared with the files when a cache is opened


class MappedRows:
    """Rows in memory-mapped files.

    Args:
        parts: Arrays by name, one row each, as `parts_of` names them.
        digest: What tells the data from other data.
        order: In which order an epoch visits them.
        is_pinned: Whether batches lie in memory that a GPU fetches by itself.
        reads_ahead: Whether a thread makes the next batches; else only the system reads ahead.
    """

    def __init__(
        self, parts: dict[str, np.ndarray], digest: str, order: Order, is_pinned: bool = False,
        reads_ahead: bool = False,
    ) -> None:  # fmt: skip
        self.parts, self.digest, self.order = parts, digest, order
        self._ahead = Ahead(partial(_at, parts), reads_ahead, is_pinned)

    @classmethod
    def of(
        cls, fields: FieldSet, preparation: Prepares, cache: Path, digest: str, order: Order, progress: bool = False,
        is_pinned: bool = False, reads_ahead: bool = False,
    ) -> MappedRows:  # fmt: skip
        """The rows of a data set, from its file in a folder or into it.

        Raises:
            DiskFull: there is no room.
            ValueError: what lies in the folder under the digest is damaged.
        """
        key = blake2b(json.dumps([digest, files_of(fields)]).encode(), digest_size=12).hexdigest()
        folder = cache / key
        with _alone(cache):  # of several processes, the first makes it and the others wait
            if not (folder / ABOUT).is_file():
                _write(fields, preparation, folder, digest, progress)
        rows = cls(_opened(folder, digest, len(fields)), digest, order, is_pinned, reads_ahead)
        rows._compare(fields, preparation, folder)
        return rows

    @property
    def shape(self) -> tuple[int, ...]:
        return self.parts["x"].shape

    def __len__(self) -> int:
        return len(self.parts["x"])

    def batch(self, rows: Tensor) -> tuple[Tensor, Given | None]:
        return joined(self._ahead.batch(rows.tolist()))

    def expect(self, schedule: Iterator[Tensor]) -> None:
        self._ahead.expect(schedule)

    def close(self) -> None:
        self._ahead.close()

    def _compare(self, fields: FieldSet, preparation: Prepares, folder: Path) -> None:
        rows = np.unique(np.linspace(0, len(self) - 1, COMPARED).round().astype(np.int64))
        fresh = parts_of(*preparation.tensors(fields.read(rows)))
        for name, x in fresh.items():
            kept = self.parts.get(name)
            if kept is None or x.numpy().tobytes() != np.ascontiguousarray(kept[rows]).tobytes():
                raise _damaged(folder, f"its '{name}' is not that of {fields.source}")


def _at(parts: dict[str, np.ndarray], rows: list[int]) -> Parts:
    return {name: torch.from_numpy(x[rows]) for name, x in parts.items()}


def _write(fields: FieldSet, preparation: Prepares, folder: Path, digest: str, progress: bool) -> None:
    needed = prepared_bytes(fields)
    if needed > free(folder):
        raise DiskFull(
            28, f"there is no room for the prepared rows in {folder} ({readable(needed)}), with "
            f"{readable(free(folder))} free on its disk; free some space, name another cache, or take loader 'stream'."
        )  # fmt: skip
    with replacing_folder(folder, mark=ABOUT) as partial:
        kept: dict[str, np.memmap] = {}
        for rows, parts in prepared_pieces(fields, preparation, progress):
            for name, x in parts.items():
                if name not in kept:
                    kept[name] = np.lib.format.open_memmap(
                        partial / f"{name}.npy", "w+", dtype=x.numpy().dtype, shape=(len(fields), *x.shape[1:])
                    )
                    _reserve(partial / f"{name}.npy")
                kept[name][rows] = x.numpy()
        for x in kept.values():
            x.flush()
        shapes = {name: [str(x.dtype), *x.shape] for name, x in kept.items()}
        (partial / ABOUT).write_text(json.dumps({"digest": digest, "parts": shapes}, indent=1), encoding="utf-8")


def _reserve(path: Path) -> None:
    """Take the room of a sparse file now: a full disk is an error here, and a crash at a mapped page."""
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _opened(folder: Path, digest: str, n: int) -> dict[str, np.ndarray]:
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        parts = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in about["parts"]}
    except (OSError, ValueError, KeyError) as error:
        raise _damaged(folder, " ".join(str(error).split())) from error
    found = {name: [str(x.dtype), *x.shape] for name, x in parts.items()}
    if about.get("digest") != digest or found != about["parts"] or any(len(x) != n for x in parts.values()):
        raise _damaged(folder, f"it holds {found}, which is not what it was made for")
    return parts


def _damaged(folder: Path, what: str) -> ValueError:
    return ValueError(f"the cache '{folder}' is damaged: {what}; delete this folder and it will be made again.")


@contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """Within the block this process is the only one that writes into the folder."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("a") as file:
        with suppress(OSError):  # a file system without locks: then each process makes it, and one is kept
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
