"""A file written anew with one chunk a frame, so that training reads what it uses and nothing else.

An HDF5 file keeps its schema: groups, attributes, dimension scales and everything that is no field are copied as they
are, and whoever read the file before reads the new one. Other kinds become a file in The Well's layout. The new file is
read back and compared, value by value, before it takes its place.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from tqdm import tqdm

from physdiff.atomic import replacing_file, replacing_folder
from physdiff.data.amplification import amplification, frame_chunks
from physdiff.data.containment import is_dataset, is_group
from physdiff.data.decoded import as_stored
from physdiff.data.formats import open_source
from physdiff.data.formats.format import Probe
from physdiff.data.formats.the_well_writer import FieldSpec, WellFile
from physdiff.data.handles import close_all, open_hdf5, readable
from physdiff.data.layout import Layout
from physdiff.data.packing import packing, plugin_is_there
from physdiff.data.source import TIME, TRAJECTORY, Source, Variable
from physdiff.data.stored import HDF5Array, StackedArray, StoredArray
from physdiff.data.view import View

SUFFIXES = (".h5", ".hdf5", ".nc", ".mat", ".he5")
# References to other objects of the file: they are made again, not copied.
_SCALES = ("DIMENSION_LIST", "REFERENCE_LIST", "CLASS", "NAME")


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
    """Write a file, or every file of a folder, anew.

    Args:
        path: A file of any format, or a folder of files.
        target: The new file or folder.
        compression: "gzip", "lzf", "none", or with hdf5plugin "lz4" or "zstd".
        layout: What the files do not tell.
        overwrite: Whether `target` may be replaced; it may be `path` itself.
        progress: Whether to show bars.

    Returns:
        One entry a file.

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
    with replacing_folder(target, overwrite, mark=data[0].relative_to(path).parts[0]) as partial:
        for file in files:
            new = partial / file.relative_to(path)
            new.parent.mkdir(parents=True, exist_ok=True)
            if file in data:
                one = _file(file, new, how, layout, progress)
                found.append(replace(one, path=target / file.relative_to(path)))
            else:
                shutil.copyfile(file, new)
    return found


def _file(path: Path, target: Path, how: Mapping[str, Any], layout: Layout | None, progress: bool) -> Repacked:
    source = open_source(path, layout)
    fields = _fields(source)
    worst = max((amplification(view).factor for view in fields.values()), default=1.0)
    before = path.stat().st_size if path.is_file() else sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    with replacing_file(target) as partial, _bar(path, progress) as bar:
        with _opened(path) as old:
            if old is None:
                _as_the_well(source, partial, how, bar)
                after = 1.0
            else:
                with h5py.File(partial, "w") as new:
                    _copy(old, new, fields, how, bar)
                with open_hdf5(partial) as new:
                    _compare(old, new, fields, target)
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


def _bar(path: Path, progress: bool) -> tqdm[Any]:
    return tqdm(desc=path.name, unit="B", unit_scale=True, disable=not progress, leave=False)


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


def _copy(old: h5py.Group, new: h5py.Group, fields: Mapping[str, View], how: Mapping[str, Any], bar: tqdm[Any]) -> None:
    _copy_attributes(old, new)
    for name in (str(n) for n in old):
        link: Any = old.get(name, getlink=True)
        if isinstance(link, (h5py.SoftLink, h5py.ExternalLink)):
            new[name] = link
        elif is_group(old, name):
            _copy(old[name], new.create_group(name), fields, how, bar)  # pyright: ignore[reportArgumentType]
        elif is_dataset(old, name) and str(old[name].name) in fields:
            _copy_field(old[name], new, name, fields[str(old[name].name)], how, bar)
        else:
            old.copy(name, new)
    if old.name == "/":
        _attach_scales(old, new)  # pyright: ignore[reportArgumentType]


def _copy_attributes(old: Any, new: Any) -> None:
    for key in old.attrs:
        if key not in _SCALES:
            attribute = h5py.h5a.open(old.id, key.encode())
            kept = h5py.h5a.create(new.id, key.encode(), attribute.get_type(), attribute.get_space())
            values = np.empty(attribute.shape, dtype=attribute.dtype)
            if attribute.get_space().get_simple_extent_npoints():
                attribute.read(values)
                kept.write(values)


def _copy_field(old: Any, group: h5py.Group, name: str, view: View, how: Mapping[str, Any], bar: tqdm[Any]) -> None:
    chunks = frame_chunks(view)
    new = group.create_dataset(
        name, shape=old.shape, dtype=old.dtype, chunks=chunks, fillvalue=old.fillvalue, maxshape=old.maxshape, **how
    )
    _copy_attributes(old, new)
    for key in _pieces(view):
        with readable(old.file.filename):
            values = old[key]
        new[key] = values
        bar.update(values.nbytes)


def _pieces(view: View) -> Iterator[tuple[slice, ...]]:
    """Parts of an array of bounded size that begin and end where its old chunks do."""
    shape, chunks = view.array.shape, view.array.chunks or frame_chunks(view)
    step = list(chunks)
    item = view.array.dtype.itemsize
    for axis in reversed(range(len(shape))):  # whole rows of chunks, up to 64 MB
        while step[axis] < shape[axis] and int(np.prod(step)) * item * 2 <= 2**26:
            step[axis] = min(shape[axis], step[axis] * 2)
    starts = [range(0, n, s) for n, s in zip(shape, step, strict=True)]
    for corner in np.ndindex(*(len(r) for r in starts)):
        yield tuple(slice(r[i], min(r[i] + s, n)) for i, r, s, n in zip(corner, starts, step, shape, strict=True))


def _attach_scales(old: h5py.File, new: h5py.File) -> None:
    """The dimension scales of each dataset, as netCDF has them."""

    def visit(name: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset):
            return
        if item.is_scale:
            own = item.attrs.get("NAME", b"")
            new[name].make_scale(own if isinstance(own, str) else own.decode())  # pyright: ignore
        for axis, dimension in enumerate(item.dims):
            for scale in dimension.values():
                new[name].dims[axis].attach_scale(new[scale.name])  # pyright: ignore

    for name in list(new):
        if is_dataset(new, name) and "REFERENCE_LIST" in new[name].attrs:
            del new[name].attrs["REFERENCE_LIST"]
    new.visititems(_forget_references)
    old.visititems(visit)


def _forget_references(name: str, item: Any) -> None:
    for key in ("DIMENSION_LIST", "REFERENCE_LIST"):
        if key in item.attrs:
            del item.attrs[key]


def _compare(old: h5py.File, new: h5py.File, fields: Mapping[str, View], target: Path) -> None:
    """Raise unless every dataset of the new file holds the bits of the old one."""

    def visit(name: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset):
            return
        copy: Any = new.get(name)
        if copy is None or copy.shape != item.shape or copy.dtype != item.dtype:
            raise ValueError(f"'{target}': '{name}' was not written as it was read; nothing was replaced.")
        view = fields.get(f"/{name}")
        keys = [()] if view is None or item.shape is None else _pieces(view)
        for key in keys:
            if item.shape is not None and not _same_bits(item[key], copy[key]):
                raise ValueError(f"'{target}': '{name}' does not read back as it was at {key}; nothing was replaced.")

    with readable(target):
        old.visititems(visit)


def _same_bits(a: Any, b: Any) -> bool:
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype.hasobject:
        return bool(np.array_equal(a, b))
    return a.tobytes() == b.tobytes()


def _factor(file: h5py.File, name: str, view: View) -> float:
    chunks: Any = file[name].chunks  # pyright: ignore[reportAttributeAccessIssue]
    return amplification(replace(view, array=replace(view.array, chunks=chunks))).factor  # pyright: ignore


def _as_the_well(source: Source, partial: Path, how: Mapping[str, Any], bar: tqdm[Any]) -> None:
    """Write what a file of another kind holds, run by run, and read it back."""
    whole: dict[str, list[Variable]] = {}
    for variable in source.variables:
        whole.setdefault(variable.parent or variable.name, []).append(variable)
    specs = {name: _spec(members) for name, members in whole.items()}
    runs = {
        name: value if value.ndim else float(value)
        for name, value in source.scalars.items()
        if tuple(source.scalar_dims.get(name, ())) in ((), (TRAJECTORY,))
    }
    packed = how.get("compression")
    with WellFile(
        partial, specs, source.grid, source.trajectories, source.times, parameters=runs,
        compression=packed if isinstance(packed, str) else None,
    ) as file:  # fmt: skip
        for run in range(source.trajectories):
            values = {name: _of_run(source, members, run) for name, members in whole.items()}
            file.write(run, values)
            bar.update(sum(v.nbytes for v in values.values()))
    back = open_source(partial, Layout(schema="the_well"))
    for run in range(source.trajectories):
        for old in source.variables:
            new = next(v for v in back.variables if _key(v) == _key(old))
            if not np.array_equal(_values(source, old, run), _values(back, new, run)):
                raise ValueError(f"{source.path}: '{old.name}' does not read back as it was; nothing was replaced.")


def _key(variable: Variable) -> tuple[str, tuple[int, ...]]:
    """What a variable is called, where components get names of their own."""
    return variable.parent or variable.name, variable.component


def _spec(members: list[Variable]) -> FieldSpec:
    first = members[0]
    dtype = np.result_type(np.float32, first.view.array.dtype)
    return FieldSpec(
        first.units, len(first.component), first.varies_between_runs, first.varies_in_time, np.dtype(dtype).str
    )


def _of_run(source: Source, members: list[Variable], run: int) -> np.ndarray:
    """One run of a field as The Well stores it, components last."""
    rank, d = len(members[0].component), source.grid.ndim
    parts = [_values(source, member, run) for member in members]
    if rank == 0:
        return parts[0]
    if len(parts) != d**rank:
        raise ValueError(f"{source.path}: '{members[0].parent}' has {len(parts)} of {d**rank} components.")
    order = sorted(range(len(parts)), key=lambda i: members[i].component)
    return np.stack([parts[i] for i in order], -1).reshape(*parts[0].shape, *[d] * rank)


def _values(source: Source, variable: Variable, run: int) -> np.ndarray:
    """One run of a variable, shape ([1,] [frames,] *grid): axes that it lacks on the grid repeated, others left out."""
    sizes = variable.view.sizes
    values = variable.view.read((TRAJECTORY, TIME, *source.grid.dims), {TRAJECTORY: slice(run, run + 1)})
    lead = [sizes[dim] if dim == TIME else 1 for dim in (TRAJECTORY, TIME) if dim in sizes]
    own = [n if dim in sizes else 1 for dim, n in zip(source.grid.dims, source.grid.shape, strict=True)]
    return np.broadcast_to(values.reshape(*lead, *own), (*lead, *source.grid.shape))
