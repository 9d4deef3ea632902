"""Open HDF5 files, kept for reuse, each process with its own.

Opening a file costs a millisecond, reading a frame a tenth of that. So handles are kept, the least used of them closed
when there are many. They are never part of an object that is pickled, and a forked process opens its own: a handle
that two processes share reads from one file position.

HDF5 decompresses a chunk whole, and keeps it only if it fits into the dataset's chunk cache. So each compressed dataset
gets a cache that holds a few of its chunks; datasets are closed, the least used first, when their caches together might
hold too much.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import cast

import h5py
import numpy as np

from physdiff.data.asked import Asked, Known, read_by_hdf5
from physdiff.data.containment import dataset_within
from physdiff.data.direct import Plain, axes_before_chunk, plain_of
from physdiff.data.global_heaps import require_sound_heaps

UNREADABLE = (OSError, RuntimeError, KeyError)  # what h5py raises of damaged bytes
MOST = 64  # open files of a process; the usual limit of the system is 1024
MOST_DATASETS = 1024
CHUNKS_KEPT = 8  # of each dataset
CACHE_AT_LEAST = 8 << 20  # bytes of small chunks, as HDF5 itself keeps
CACHE_OF_ONE = 64 << 20  # bytes of chunks that a dataset keeps at most
CACHE_OF_ALL = 256 << 20  # and all that are open


@dataclass(frozen=True)
class _File:
    """A file that is open, and what it was when it was opened: inode, size and times of change."""

    handle: h5py.File
    identity: tuple[int, ...]


@dataclass(frozen=True)
class _Dataset:
    """A dataset that is open, the bytes of chunks that its cache may hold, and how to read it without HDF5."""

    handle: h5py.Dataset
    cached: int
    plain: Plain | None = None
    known: Known = field(default_factory=Known)


_lock = threading.RLock()
_files: OrderedDict[str, _File] = OrderedDict()
_datasets: OrderedDict[tuple[str, str], _Dataset] = OrderedDict()
_walked: dict[str, tuple[int, ...]] = {}  # files whose heaps were found sound, as they were then
_cached = 0  # by all of them


def _after_fork() -> None:
    global _lock
    _lock = threading.RLock()
    close_all()  # in this process alone: the parent's descriptors are its own


# Held while the process forks: a thread that reads would leave what is kept here half changed. h5py holds its own lock
# too, which is taken after this one.
os.register_at_fork(
    before=lambda: _lock.acquire(), after_in_parent=lambda: _lock.release(), after_in_child=_after_fork
)  # fmt: skip


@contextmanager
def reading(path: str, name: str) -> Iterator[h5py.Dataset]:
    """A dataset that stays open within the block, whatever other threads do; unreadable bytes become one sentence.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no HDF5 file, or has no such dataset.
    """
    # HDF5 serves one thread at a time in any case.
    with _lock:
        dataset = hdf5_dataset(path, name)
        with readable(path):
            yield dataset


def read_part(path: str, name: str, key: tuple[int | slice, ...]) -> np.ndarray:
    """A part of a dataset, as `reading` would give it, in less time.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no HDF5 file, has no such dataset, or holds damaged bytes.
    """
    with _lock:
        dataset = hdf5_dataset(path, name)
        try:
            return np.asarray(dataset[key])
        except UNREADABLE as error:
            raise unreadable(path, error) from error


def read_into(path: str, name: str, key: tuple[int | slice, ...], out: np.ndarray) -> bool:
    """Read a part of a dataset into an array of its shape, without a copy in between if it is stored as it is.

    Returns:
        Whether there was no copy.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no HDF5 file, has no such dataset, or holds damaged bytes.
    """
    with _lock:
        found = _opened(path, name)
        try:
            if found.plain is not None and found.plain.read_into(key, out):
                return True
            out[...] = found.handle[key]
            return False
        except UNREADABLE as error:
            raise unreadable(path, error) from error


def read_windows(
    path: str, name: str, asked: Asked, runs: Sequence[int], starts: Sequence[int], out: Sequence[np.ndarray]
) -> float:
    """Read windows of a dataset, each into an array of its shape: the file is looked at once for all of them.

    Returns:
        Sum of the squares of what was read, without frames that were read before and are finite.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no HDF5 file, has no such dataset, or holds damaged bytes.
    """
    with _lock:
        found = _opened(path, name)
        try:
            squares = None if found.plain is None else found.plain.read_windows(asked, runs, starts, out)
            if squares is not None:
                return squares
            return read_by_hdf5(found.handle, asked, runs, starts, out, found.known)
        except UNREADABLE as error:
            raise unreadable(path, error) from error


def hdf5_dataset(path: str, name: str) -> h5py.Dataset:
    """A dataset of a file, both open until they are among the least used; for what its header says.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no HDF5 file, or has no such dataset.
    """
    with _lock:
        return _opened(path, name).handle


def _opened(path: str, name: str) -> _Dataset:
    global _cached
    file = _file(path)
    found = _datasets.get((path, name))
    if found is None:
        with readable(path):
            found = _with_cache(file, path, name)
        _datasets[path, name] = found
        _cached += found.cached
        while len(_datasets) > MOST_DATASETS or (_cached > CACHE_OF_ALL and len(_datasets) > 1):
            _cached -= _datasets.popitem(last=False)[1].cached  # closed with its last reference
    else:
        _datasets.move_to_end((path, name))
    return found


def close_if_changed(path: str | Path) -> None:
    """Close a file that was written anew: HDF5 would go on to see what it was.

    Raises:
        FileNotFoundError: there is no such file.
    """
    identity = _identity(str(path))
    with _lock:
        found = _files.get(str(path))
        if found is not None and found.identity != identity:
            _close(str(path))


def close_all() -> None:
    """Close every file that this process holds open."""
    with _lock:
        for path in list(_files):
            _close(path)


def held() -> tuple[int, int, int]:
    """Files and datasets that this process holds open, and the bytes of chunks that these may keep."""
    with _lock:
        return len(_files), len(_datasets), _cached


def cache_for(chunk: int, pieces: int = CHUNKS_KEPT) -> int:
    """Bytes of chunks that a dataset of so many pieces keeps, each of `chunk` bytes.

    One at least, if it can be held at all: a window of frames then decompresses it once.
    """
    if not 0 < chunk <= CACHE_OF_ALL:
        return 0
    return chunk * max(1, min(max(CHUNKS_KEPT, CACHE_AT_LEAST // chunk), pieces, CACHE_OF_ONE // chunk))


@contextmanager
def open_hdf5(path: str | Path) -> Iterator[h5py.File]:
    """A file of its own, open within the block; unreadable bytes become one sentence."""
    close_if_changed(path)
    _look_at_heaps(str(path))
    with readable(path), h5py.File(path, "r", locking="best-effort") as file:
        yield file


def _look_at_heaps(path: str) -> None:
    """Once for each file, and again after it was written."""
    identity = _identity(path)
    if _walked.get(path) != identity:
        require_sound_heaps(path)
        _walked[path] = identity


@contextmanager
def readable(path: str | Path) -> Iterator[None]:
    """Whatever HDF5 says of damaged bytes within the block, as a ValueError that names the file."""
    try:
        yield
    except UNREADABLE as error:
        raise unreadable(path, error) from error


def unreadable(path: str | Path, error: BaseException) -> ValueError:
    """What HDF5 said, in one sentence."""
    said = " ".join(str(error).split()).rstrip(".")
    return ValueError(f"'{path}' is truncated, damaged or no HDF5 file: {said}.")


def _file(path: str) -> h5py.File:
    found, identity = _files.get(path), _identity(path)
    if found is not None:
        if found.identity == identity:
            _files.move_to_end(path)
            return found.handle
        _close(path)
    with readable(path):
        file = h5py.File(path, "r", locking="best-effort")
    _files[path] = _File(file, identity)
    while len(_files) > MOST:
        _close(next(iter(_files)))
    return file


def _with_cache(file: h5py.File, path: str, name: str) -> _Dataset:
    """A dataset, opened with a cache that fits its chunks."""
    try:
        dataset = dataset_within(file, name)
    except KeyError:
        raise ValueError(f"'{path}' has no dataset '{name}'.") from None
    made = dataset.id.get_create_plist()
    # An external link leads to another file, in which its name may be that of something else here.
    home = cast(h5py.File, dataset.file)
    is_linked = home.filename != file.filename
    # Values in other files change without a trace in this one, so that nothing is known of them for long.
    is_elsewhere = is_linked or dataset.is_virtual or made.get_external_count() > 0
    known = Known(is_lasting=not is_elsewhere)
    # Without a filter HDF5 reads the part of a chunk that is asked for, and no cache is wanted.
    if dataset.chunks is None or made.get_nfilters() == 0:
        return _Dataset(dataset, 0, None if is_linked else plain_of(file, dataset), known)
    for i in range(made.get_nfilters()):
        _require_filter(path, name, made.get_filter(i)[0])
    pieces = prod(-(-n // c) for n, c in zip(dataset.shape, dataset.chunks, strict=True))
    size = cache_for(prod(dataset.chunks) * dataset.dtype.itemsize, pieces)
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    # Far more places than chunks, so that no two of those kept need the same one. The least used chunk goes first; but
    # where each is a frame, which is read whole, the one just read: its memory is at hand for the next.
    access.set_chunk_cache(8191, size, 1.0 if axes_before_chunk(dataset.shape, dataset.chunks) else 0.0)
    place = cast(str, dataset.name).encode()
    # `readonly` lets h5py remember the shape, which halves the time of a small read.
    # A dataset that is open keeps the cache with which it was opened, so this handle must go first.
    del dataset
    return _Dataset(h5py.Dataset(h5py.h5d.open(home.id, place, access), readonly=True), size, known=known)


def _require_filter(path: str, name: str, number: int) -> None:
    """Raise unless HDF5 can undo a filter; those of hdf5plugin are there once it is imported."""
    if h5py.h5z.filter_avail(number):
        return
    try:
        importlib.import_module("hdf5plugin")
    except ImportError:
        pass
    if not h5py.h5z.filter_avail(number):
        raise ValueError(
            f"'{path}': '{name}' is compressed by HDF5 filter {number}, which is not here; install hdf5plugin, which "
            "has most of them."
        )


def _identity(path: str) -> tuple[int, ...]:
    """What changes when a file is written, but for a second time within the system's tick, some milliseconds.

    HDF5's own writers cannot open a file that is held open here. The last of the times changes even where a copy, or an
    archive, sets the other to what it was.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"no file or folder '{path}'.") from None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _close(path: str) -> None:
    global _cached
    for key in [key for key in _datasets if key[0] == path]:
        _cached -= _datasets.pop(key).cached
    try:
        _files.pop(path).handle.close()
    except (RuntimeError, OSError):  # HDF5 says so of a file that was replaced under it
        pass
