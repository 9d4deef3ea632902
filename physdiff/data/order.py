"""The order in which samples are visited: a function of (seed, epoch) alone, so that a run is taken up anywhere.

A compressed chunk is decompressed whole. Where one holds many samples, as when a file keeps each trajectory in one
piece, samples in full random order decompress it once for each of them: with 64 frames a chunk, 64 times too often.
Then the chunks are shuffled, and samples are drawn from a window of a few that are next: every sample once an epoch,
every chunk decompressed about once, and a batch still mixes several trajectories.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from math import prod
from typing import Literal, Protocol, get_args

import numpy as np
import torch
from torch import Tensor

from physdiff.data.fieldset import FieldSet
from physdiff.data.handles import CACHE_OF_ALL, CHUNKS_KEPT, cache_for, reading
from physdiff.data.source import TIME, TRAJECTORY, Variable
from physdiff.data.stored import HDF5Array, StackedArray
from physdiff.randomness import keyed_generator

Shuffling = Literal["auto", "full", "chunks"]
WORTHWHILE = 4.0  # times that a chunk is decompressed too often, from which on "auto" goes by chunks


class Order(Protocol):
    """A permutation of the samples for every epoch."""

    def __len__(self) -> int: ...

    @property
    def name(self) -> str:
        """What tells two orders of one data set apart, in one line; "" of the full one."""
        ...

    def epoch(self, epoch: int, seed: int) -> Tensor:
        """The samples of an epoch as they are visited, each once: int64, shape (n,)."""
        ...


@dataclass(frozen=True)
class FullOrder:
    """Every permutation of n samples is as likely."""

    n: int

    def __len__(self) -> int:
        return self.n

    @property
    def name(self) -> str:
        return ""

    def epoch(self, epoch: int, seed: int) -> Tensor:
        return torch.randperm(self.n, generator=keyed_generator(seed, "epoch", epoch))


@dataclass(frozen=True, eq=False)
class ChunkOrder:
    """Chunks in random order; within a window of some, samples in random order.

    Attributes:
        chunks: Number of the chunk in which each sample lies, shape (n,), int64, from 0.
        window: Chunks from which samples are drawn at a time, at least 1.
    """

    chunks: Tensor
    window: int

    def __len__(self) -> int:
        return len(self.chunks)

    @property
    def name(self) -> str:
        return f"by {self.window} chunks of {int(self.chunks.max()) + 1}, digest {_digest(self.chunks)}"

    def epoch(self, epoch: int, seed: int) -> Tensor:
        generator = keyed_generator(seed, "chunks", epoch)
        turn = torch.randperm(int(self.chunks.max()) + 1, generator=generator)
        shuffled = torch.randperm(len(self.chunks), generator=generator)
        # Sorting by window and leaving the rest as it was keeps the order within a window random.
        windows = torch.div(turn[self.chunks[shuffled]], self.window, rounding_mode="floor")
        return shuffled[torch.sort(windows, stable=True).indices]


def rows_at(order: Order, first: int, count: int, seed: int) -> Tensor:
    """Samples at positions first, first + 1, ... of the epochs read one after the other, shape (count,), int64."""
    parts: list[Tensor] = []
    position, end, n = first, first + count, len(order)
    while position < end:
        epoch, start = divmod(position, n)
        taken = min(n - start, end - position)
        parts.append(epoch_of(order, epoch, seed)[start : start + taken])
        position += taken
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)


@lru_cache(maxsize=3)
def epoch_of(order: Order, epoch: int, seed: int) -> Tensor:
    """An epoch of an order, the last few of them kept."""
    return order.epoch(epoch, seed)


def order_of(fields: FieldSet, shuffling: Shuffling = "auto") -> Order:
    """The order in which to visit a data set.

    Args:
        fields: The samples.
        shuffling: "full"; "chunks"; "auto" for chunks where full order decompresses more than 4 times too much.

    Raises:
        ValueError: there is no such way to shuffle.
    """
    if shuffling not in get_args(Shuffling):
        raise ValueError(f"unknown order '{shuffling}'; it is one of {', '.join(get_args(Shuffling))}.")
    full = FullOrder(len(fields))
    if shuffling == "full" or (shuffling == "auto" and excess(fields) < WORTHWHILE):
        return full
    chunks, window = chunks_of(fields), window_of(fields)
    # Chunks that are kept all at once allow any order.
    return ChunkOrder(chunks, window) if int(chunks.max()) >= window else full


def excess(fields: FieldSet) -> float:
    """Numbers decompressed for each number used, when samples are read in full random order; 1 where nothing is.

    Counted along trajectories and time. The worst of the fields is told.
    """
    s = fields.selection
    frames = s.past + s.frames
    worst = 1.0
    for source in fields.sources:
        for variable in _read(fields, source.variables):
            if not _decompresses(variable):
                continue
            runs, times = _chunk(variable)
            too_much = float(min(runs or 1, source.trajectories))
            if times:
                times = min(times, source.frames)
                touched = min(1 + (s.span - 1) / times, -(-source.frames // times), frames) * times
                too_much *= max(touched / frames, 1.0)
            worst = max(worst, too_much)
    return worst


def chunks_of(fields: FieldSet) -> Tensor:
    """Number of the chunk in which each sample begins, shape (n,), int64, from 0 in the order of the files."""
    numbers = fields.chunk_of(np.arange(len(fields)))
    return torch.from_numpy(np.unique(numbers, return_inverse=True)[1].astype(np.int64))


def window_of(fields: FieldSet) -> int:
    """Chunks of which the caches of open files can hold all fields at a time."""
    source = fields.sources[0]
    sizes = [size for v in _read(fields, source.variables) if (size := _chunk_bytes(v)) and _decompresses(v)]
    if not sizes:
        return CHUNKS_KEPT
    kept = min(max(1, cache_for(size) // size) for size in sizes)
    return max(1, min(kept, CACHE_OF_ALL // sum(cache_for(size) or size for size in sizes)))


def _read(fields: FieldSet, variables: tuple[Variable, ...]) -> Iterator[Variable]:
    """Those that change from sample to sample and are read."""
    names = {v.name for v in (*fields.channels, *fields.given_variables)}
    return (v for v in variables if v.name in names and (v.varies_in_time or v.varies_between_runs))


def _chunk(variable: Variable) -> tuple[int, int]:
    """Trajectories and frames of a chunk; 0 where there is no such axis."""
    chunks = variable.view.array.chunks
    if chunks is None:
        return 1, 1
    by_axis = dict(zip(variable.view.dims, chunks, strict=True))
    return by_axis.get(TRAJECTORY, 0), by_axis.get(TIME, 0)


def _chunk_bytes(variable: Variable) -> int:
    array = variable.view.array
    return prod(array.chunks or ()) * array.dtype.itemsize


def _decompresses(variable: Variable) -> bool:
    """Whether a chunk can only be read whole: HDF5 reads parts of one that has no filter."""
    array = variable.view.array
    while isinstance(array, StackedArray):
        array = array.parts[0]
    if array.chunks is None:
        return False
    if isinstance(array, HDF5Array):
        with reading(array.path, array.name) as dataset:
            return dataset.id.get_create_plist().get_nfilters() > 0
    return True


def _digest(x: Tensor) -> str:
    return blake2b(x.numpy().tobytes(), digest_size=8).hexdigest()
