"""How arrays lie in their files: in chunks or whole, packed by what, and what of them was never written."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import h5py

from physdiff.data.decoded import as_stored
from physdiff.data.formats.zarr_store import ZarrArray
from physdiff.data.handles import open_hdf5
from physdiff.data.joined_array import JoinedArray
from physdiff.data.stored import HDF5Array, StackedArray, StoredArray

# Registered numbers of filters that hdf5plugin brings; HDF5 has names only for those that are loaded.
_FILTERS = {
    32001: "blosc", 32026: "blosc2", 32004: "lz4", 32015: "zstd", 32008: "bitshuffle", 32013: "zfp", 32000: "lzf",
    307: "bzip2", 32017: "sz",
}  # fmt: skip


@dataclass(frozen=True)
class Storage:
    """How an array lies in its file.

    Attributes:
        chunks: Shape of the pieces in which it is stored; None where it is one.
        compression: Filters that pack them, by name; "" for none.
    """

    chunks: tuple[int, ...] | None
    compression: str

    def __str__(self) -> str:
        pieces = f"chunks {self.chunks}" if self.chunks else "one piece"
        return f"{pieces}, {self.compression or 'not compressed'}"


def storage_of(array: StoredArray) -> Storage:
    """How an array lies in its file; of several that are joined or stacked, how the first does."""
    first = next(_parts(array))
    if not isinstance(first, HDF5Array):
        return Storage(first.chunks, str(getattr(first, "compression", "")))
    with open_hdf5(first.path) as file:
        dataset: Any = file[first.name]
        return Storage(first.chunks, compression_of(dataset))


def _parts(array: StoredArray) -> Iterator[StoredArray]:
    """Arrays as they are stored; of those that are joined or stacked, also of stacks, each."""
    array = as_stored(array)
    if isinstance(array, StackedArray | JoinedArray):
        for part in array.parts:
            yield from _parts(part)
    else:
        yield array


def compression_of(dataset: h5py.Dataset) -> str:
    """Names of the filters that pack a dataset, without those that only order or check bytes."""
    if dataset.compression in ("gzip", "lzf", "szip"):
        return str(dataset.compression)
    filters = dataset.id.get_create_plist()
    told = [filters.get_filter(i) for i in range(filters.get_nfilters())]
    names = [_FILTERS.get(number) or word.decode(errors="replace").split(";")[0] for number, _, _, word in told]
    return " + ".join(name for name in names if name not in ("shuffle", "fletcher32"))


def never_written(array: StoredArray) -> str:
    """What of an array is not in the file at all, as after a run that was broken off; it is read as one number."""
    lacking, of, fills = 0, 0, set()
    for part in _parts(array):
        if isinstance(part, HDF5Array):
            with open_hdf5(part.path) as file:
                there, all_of_it, fill = _pieces_there(file[part.name])
        elif isinstance(part, ZarrArray):
            there, all_of_it, fill = part.pieces_there()
        else:
            continue
        lacking, of, fills = lacking + all_of_it - there, of + all_of_it, fills | {str(fill)}
    if not lacking:
        return ""
    return f"{lacking} of {of} pieces were never written: they are read as {', '.join(sorted(fills))}"


def _pieces_there(dataset: Any) -> tuple[int, int, Any]:
    """Chunks that are in the file, all that there should be, and the number that stands for the others."""
    if dataset.is_virtual:
        # Cells that no other dataset stands behind; how many an unlimited one has is not told.
        counts = [piece.vspace.get_select_npoints() for piece in dataset.virtual_sources()]
        there = sum(counts) if min(counts, default=0) >= 0 else dataset.size
        return (1, 1, dataset.fillvalue) if there >= dataset.size else (there, dataset.size, dataset.fillvalue)
    if dataset.external:
        return 1, 1, dataset.fillvalue
    if dataset.chunks is None:
        return int(dataset.id.get_storage_size() > 0), 1, dataset.fillvalue
    pieces = math.prod(-(-n // c) for n, c in zip(dataset.shape, dataset.chunks, strict=True))
    return dataset.id.get_num_chunks(), pieces, dataset.fillvalue
