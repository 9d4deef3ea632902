"""A file written anew with one chunk a frame, so that training reads what it uses and nothing else.

An HDF5 file keeps its schema: groups, attributes, dimension scales and everything that is no field are copied as they
are, and whoever read the file before reads the new one. Other kinds become a file in The Well's layout, which says at
the ends of axes what the old file or its layout said. The new file is read back and compared, value by value, before it
takes its place.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
from tqdm import tqdm

from physdiff.atomic import replacing_file, replacing_folder
from physdiff.data.amplification import amplification
from physdiff.data.as_the_well import write_as_the_well
from physdiff.data.decoded import as_stored
from physdiff.data.file_order import runs_of
from physdiff.data.fingerprint import files_under
from physdiff.data.formats.format import Probe
from physdiff.data.handles import close_all, open_hdf5, readable
from physdiff.data.hdf5_copy import compare, copy_file
from physdiff.data.joined import open_run
from physdiff.data.layout import Layout
from physdiff.data.packing import packing, plugin_is_there
from physdiff.data.source import Source
from physdiff.data.stored import HDF5Array, StackedArray, StoredArray
from physdiff.data.view import View

SUFFIXES = (".h5", ".hdf5", ".hdf", ".nc", ".nc4", ".mat", ".he5", ".h5py")


@dataclass(frozen=True)
class Repacked:
    """A file that was written anew.

    Attributes:
        path: The new one.
        before: Bytes of the old file.
        after: Bytes of the new one.
        worst_before: Largest read amplification of its fields before.
        worst_after: And after.
    """

    path: Path
    before: int
    after: int
    worst_before: float
    worst_after: float


def repack(
    path: str | Path,
    target: str | Path,
    *,
    compression: str = "gzip",
    layout: Layout | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> list[Repacked]:
    """Write a file, or every file of a folder, anew; files of a folder that hold one run become one.

    Args:
        path: A file of any format, or a folder of files.
        target: The new file or folder.
        compression: "gzip", "lzf", "none", or with hdf5plugin "lz4" or "zstd".
        layout: What the files do not tell.
        overwrite: Whether `target` may be replaced; it may be `path` itself.
        progress: Whether to show bars.

    Returns:
        One entry a new file.

    Raises:
        FileNotFoundError: nothing is at `path`.
        ValueError: a file cannot be read, `target` exists, or what was written is not what was read.
        DiskFull: there is no room; nothing is left of what was begun.
    """
    path, target, how = Path(path), Path(target), packing(compression)
    plugin_is_there()  # so that a file that was packed with it can be read
    if not path.exists():
        raise FileNotFoundError(f"no file or folder '{path}'.")
    if not path.is_dir() or Probe.of(path).kind == "zarr":
        if target.exists() and not overwrite:
            raise ValueError(f"'{target}' exists already; choose another file or pass overwrite.")
        if target.is_dir():
            raise ValueError(f"'{target}' is a folder; give the name of a file.")
        return [_file(path, target, how, layout, progress)]
    files = sorted(f for f in path.rglob("*") if f.is_file() and not f.name.startswith("."))
    data = [f for f in files if f.suffix.lower() in SUFFIXES]
    if not data:
        raise FileNotFoundError(f"no HDF5 or netCDF file below '{path}'.")
    found = []
    first = {run[0]: run for run in runs_of(data, layout or Layout()) if len(run) > 1}
    later = {file for run in first.values() for file in run[1:]}
    with replacing_folder(target, overwrite, mark=data[0].relative_to(path).parts[0]) as partial:
        for file in files:
            new = partial / file.relative_to(path)
            new.parent.mkdir(parents=True, exist_ok=True)
            if file in later:
                continue
            if file in data:
                # Files that hold one run become one.
                new = new.with_suffix(".hdf5") if file in first else new
                one = _file(file, new, how, layout, progress, first.get(file))
                found.append(replace(one, path=target / new.relative_to(partial)))
            else:
                shutil.copyfile(file, new)
    return found


def _file(
    path: Path, target: Path, how: Mapping[str, Any], layout: Layout | None, progress: bool,
    run: list[Path] | None = None,
) -> Repacked:  # fmt: skip
    source = open_run(run or [path], layout or Layout())
    fields = _fields(source)
    worst = max(amplification(variable.view).factor for variable in source.variables)
    before = sum(inner.stat().st_size for file in run or [path] for inner in files_under(file))
    # HDF5 2.0 writes past its memory when it copies a dataset that is open, of which chunks are kept, and that was
    # packed with scaleoffset.
    close_all()
    with replacing_file(target) as partial, _bar(path, progress) as bar:
        with _opened(path) as old:
            if old is None or run is not None:
                write_as_the_well(source, partial, target.stem, how, layout or Layout(), bar)
                after = 1.0
            else:
                with h5py.File(partial, "w", userblock_size=old.userblock_size) as new:
                    copy_file(old, new, fields, how, bar)
                _copy_block_of_user(path, partial, old.userblock_size)
                with open_hdf5(partial) as new:
                    compare(old, new, target)
                    after = max((_factor(new, name, view) for name, view in fields.items()), default=1.0)
        size = partial.stat().st_size
    close_all()  # of what was there before under this name
    return Repacked(target, before, size, worst, after)


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File | None]:
    """The old file, if it is HDF5. Errors of writing within the block are not its own."""
    if Probe.of(path).kind != "hdf5":
        yield None
        return
    with readable(path):
        file = h5py.File(path, "r", locking="best-effort")
    try:
        yield file
    finally:
        file.close()


def _copy_block_of_user(path: Path, partial: Path, size: int) -> None:
    """What stands before HDF5's own first byte: MATLAB knows its files by it."""
    with path.open("rb") as old, partial.open("r+b") as new:
        new.write(old.read(size))


def _bar(path: Path, progress: bool) -> tqdm[Any]:
    return tqdm(desc=path.name, unit="B", unit_scale=True, disable=None if progress else True, leave=False)


def _fields(source: Source) -> dict[str, View]:
    """The view of each dataset that holds fields, by the dataset's name."""
    found: dict[str, View] = {}
    for variable in source.variables:
        view = variable.view
        for array, dims in _datasets(view.array, view.dims):
            found[array.name] = View(array, dims)
    return found


def _datasets(array: StoredArray, dims: tuple[str, ...]) -> Iterator[tuple[HDF5Array, tuple[str, ...]]]:
    if isinstance(array, HDF5Array):
        yield array, dims
    elif isinstance(array, StackedArray):
        for part in array.parts:
            yield from _datasets(part, dims[1:])
    elif (stored := as_stored(array)) is not array:
        yield from _datasets(stored, dims)


def _factor(file: h5py.File, name: str, view: View) -> float:
    chunks: Any = file[name].chunks  # pyright: ignore[reportAttributeAccessIssue]
    return amplification(replace(view, array=replace(view.array, chunks=chunks))).factor  # pyright: ignore
