"""Rows of a training set, wherever they are kept: the same bits for the same numbers.

Fields in memory, in a memory-mapped file or read batch by batch answer the same questions. Every way prepares samples
by the same elementwise operations, so that a run may be continued with another.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from physdiff.condition import Condition, Given
from physdiff.data.ahead import pinned
from physdiff.data.fieldset import FieldSet
from physdiff.data.fingerprint import content_of, digest_of_tensor, digest_with
from physdiff.data.order import FullOrder, Order, Shuffling, order_of
from physdiff.data.samples import Samples

Loader = Literal["auto", "memory", "mmap", "stream"]
MEMORY_LIMIT = 2 << 30  # bytes of prepared fields that "auto" holds in memory
AT_ONCE = 32 << 20  # bytes of samples that are read and prepared in one piece


class Prepares(Protocol):
    """What makes tensors for a network of samples in physical units; elementwise, so that no sample sees another."""

    def tensors(self, samples: Samples) -> tuple[Tensor, Given | None]:
        """Fields, float32, shape (n, channels, *grid), and their condition."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Plain values that say all of what it does."""
        ...


@runtime_checkable
class Rows(Protocol):
    """Fields that a network learns from, with their condition, by number."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, channels, *grid)."""
        ...

    @property
    def digest(self) -> str:
        """The same for the same data, however it is kept."""
        ...

    @property
    def order(self) -> Order:
        """In which order an epoch visits them."""
        ...

    def __len__(self) -> int: ...

    def batch(self, rows: Tensor) -> tuple[Tensor, Given | None]:
        """Rows by number, int64, shape (k,), in this order: fields, shape (k, channels, *grid), and condition."""
        ...

    def expect(self, schedule: Iterator[Tensor]) -> None:
        """What `batch` will be asked for, in order, so that it may be read ahead; forgets what was expected before."""
        ...

    def close(self) -> None:
        """Stop reading ahead."""
        ...


class TensorRows:
    """Rows in memory.

    Args:
        fields: Shape (n, channels, *grid), on any device.
        condition: Of the same n rows, or None.
        digest: What tells the data from other data; that of all its numbers when not given.
        order: In which order an epoch visits them; in full random order when not given.
        is_pinned: Whether batches lie in memory that a GPU fetches by itself.
    """

    def __init__(
        self, fields: Tensor, condition: Given | None = None, digest: str | None = None, order: Order | None = None,
        is_pinned: bool = False,
    ) -> None:  # fmt: skip
        self.fields, self.condition, self.is_pinned = fields, condition, is_pinned
        self.order: Order = order or FullOrder(len(fields))
        self._digest = digest

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.fields.shape)

    @property
    def digest(self) -> str:
        if self._digest is None:
            self._digest = digest_of_tensor(self.fields) + digest_of_condition(self.condition)
        return self._digest

    def __len__(self) -> int:
        return len(self.fields)

    def batch(self, rows: Tensor) -> tuple[Tensor, Given | None]:
        condition = self.condition
        x = self.fields[rows.to(self.fields.device)]
        given = None if condition is None else condition[rows.to(condition.device)]
        return joined(pinned(parts_of(x, given))) if self.is_pinned else (x, given)

    def expect(self, schedule: Iterator[Tensor]) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""


def rows_of(
    fields: FieldSet,
    preparation: Prepares,
    loader: Loader = "auto",
    workers: int = 0,
    cache: str | Path | None = None,
    memory_limit: int = MEMORY_LIMIT,
    order: Shuffling = "auto",
    progress: bool = False,
    is_pinned: bool | None = None,
    reads_ahead: bool | None = None,
) -> Rows:
    """A data set as rows for training.

    Args:
        fields: The samples.
        preparation: What makes tensors of them.
        loader: "memory" holds all prepared rows; "mmap" keeps them in a file in `cache`, which is made once; "stream"
            reads and prepares each batch when it is asked for; "auto" is "memory" up to `memory_limit`, above it "mmap"
            where a folder is given for it, else "stream".
        workers: Processes that read ahead when streaming; 0 reads within the training process.
        cache: Folder of the memory-mapped files.
        memory_limit: Bytes of prepared fields that "auto" holds in memory.
        order: How epochs are shuffled, see `order_of`.
        progress: Show a progress bar while rows are prepared.
        is_pinned: Whether batches lie in memory that a GPU fetches by itself; None where there is a GPU.
        reads_ahead: Whether "mmap", and "stream" without workers, make the next batches in a thread while a step runs;
            None where batches are pinned. On the processor a step needs the cores itself.

    Raises:
        ValueError: there is no such loader, or it lacks a folder.
        DiskFull: the file in `cache` has no room.
    """
    from physdiff.data.cache import MappedRows
    from physdiff.data.stream import StreamedRows

    if loader not in get_args(Loader):
        raise ValueError(f"unknown loader '{loader}'; it is one of {', '.join(get_args(Loader))}.")
    if workers < 0:
        raise ValueError(f"workers must be at least 0; got {workers}.")
    if loader == "mmap" and cache is None:
        raise ValueError("loader 'mmap' needs a folder for its file: give cache, or take 'stream'.")
    if loader == "auto":
        small = prepared_bytes(fields) <= memory_limit
        loader = "memory" if small else "stream" if cache is None else "mmap"
    pins = torch.cuda.is_available() if is_pinned is None else is_pinned
    ahead = pins if reads_ahead is None else reads_ahead
    visited = order_of(fields, order)
    digest = digest_with(content_of(fields), preparation.to_dict())
    if loader == "stream":
        return StreamedRows(fields, preparation, workers, digest, visited, is_pinned=pins, reads_ahead=ahead)
    if loader == "mmap":
        assert cache is not None
        return MappedRows.of(fields, preparation, Path(cache), digest, visited, progress, pins, ahead)
    return in_memory(fields, preparation, digest, visited, progress, pins)


def in_memory(
    fields: FieldSet, preparation: Prepares, digest: str, order: Order, progress: bool, is_pinned: bool = False
) -> TensorRows:
    """All rows, prepared piece by piece into one tensor."""
    held: dict[str, Tensor] = {}
    for rows, parts in prepared_pieces(fields, preparation, progress):
        for name, x in parts.items():
            if name not in held:
                held[name] = torch.empty((len(fields), *x.shape[1:]), dtype=x.dtype)
            held[name][rows] = x
    x, condition = joined(held)
    return TensorRows(x, condition, digest, order, is_pinned)


def prepared_pieces(
    fields: FieldSet, preparation: Prepares, progress: bool
) -> Iterator[tuple[slice, dict[str, Tensor]]]:
    """All rows, in order, in pieces of bounded size."""
    size = max(1, AT_ONCE // max(1, prepared_bytes(fields) // len(fields)))
    with tqdm(total=len(fields), disable=not progress, unit="sample", desc="preparing") as bar:
        for start in range(0, len(fields), size):
            rows = slice(start, min(start + size, len(fields)))
            yield rows, parts_of(*preparation.tensors(fields.read(np.arange(rows.start, rows.stop))))
            bar.update(rows.stop - rows.start)


def prepared_bytes(fields: FieldSet) -> int:
    """Size of all prepared fields and those of their condition, in bytes."""
    channels = len(fields.names) + len(fields.given_names)
    return len(fields) * channels * int(np.prod(fields.grid.shape)) * 4


def parts_of(x: Tensor, condition: Given | None) -> dict[str, Tensor]:
    """A batch as named tensors, which any process and any file can hold; `joined` makes it again."""
    if condition is None:
        return {"x": x}
    if isinstance(condition, Tensor):
        return {"x": x, "condition": condition}
    return {"x": x} | {name: part for name, part in vars(condition).items() if part is not None}


def joined(parts: dict[str, Tensor]) -> tuple[Tensor, Given | None]:
    """Fields and condition of a batch."""
    rest = {name: part for name, part in parts.items() if name != "x"}
    if not rest:
        return parts["x"], None
    return parts["x"], rest["condition"] if "condition" in rest else Condition(**rest)


def digest_of_condition(condition: Given | None) -> str:
    """The condition of some rows, to go with their fields; nothing without one."""
    if condition is None:
        return ""
    parts = {name: x for name, x in vars(Condition.of(condition)).items() if x is not None}
    return ", condition " + ", ".join(f"{name} {digest_of_tensor(x)}" for name, x in parts.items())
