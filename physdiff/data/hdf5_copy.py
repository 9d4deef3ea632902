"""An HDF5 file copied whole, with other chunks for some datasets; read back and compared.

Groups, attributes, dimension scales, names that several paths share and references between objects stay as they are. A
reference is an address within one file, so it is made again from the name of what it leads to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5o, h5r  # pyright: ignore[reportAttributeAccessIssue]
from tqdm import tqdm

from physdiff.data.amplification import frame_chunks
from physdiff.data.containment import dataset_within, is_dataset, is_group
from physdiff.data.handles import readable
from physdiff.data.view import View

# References to other objects by which HDF5 ties coordinates to axes: they are attached again, not copied.
_TIES = ("DIMENSION_LIST", "REFERENCE_LIST")
_OF_A_SCALE = ("CLASS", "NAME")
_PIECE = 2**26  # bytes that are held at once


def copy_file(
    old: h5py.File, new: h5py.File, fields: Mapping[str, View], how: Mapping[str, Any], bar: tqdm[Any]
) -> None:
    """Copy everything into an empty file, the datasets of fields with one chunk a frame.

    Args:
        old: The file.
        new: The empty one.
        fields: Views of the datasets that hold fields, by name.
        how: Compression of these, as h5py is told it.
        bar: Is moved on by the bytes of fields that were copied.

    Raises:
        ValueError: something cannot be read, or refers to a region of a dataset.
    """
    own = [name for name in fields if old[name].file.id == old.id]
    chunked = {_address(old[name]): fields[name] for name in own}
    linked = {f"/{name.strip('/')}": view for name, view in fields.items() if name not in own}
    _Copying(chunked, linked, how, bar, {_address(old): "/"}).members(old, new)
    _attach_scales(old, new)
    _remake_references(old, new)


def compare(old: h5py.File, new: h5py.File, target: Path) -> None:
    """Check a copy.

    Raises:
        ValueError: a dataset of the new file does not hold the bits of the old one.
    """

    names: list[str] = []
    with readable(target):
        old.visit(names.append)  # opens none of them, so that each is opened as `dataset_within` does
        for name in names:
            if is_dataset(old, name):
                item, copy = dataset_within(old, name), new.get(name)
                _compare_values(item, copy, name, target)


def _compare_values(item: h5py.Dataset, copy: Any, name: str, target: Path) -> None:
    if copy is None or copy.shape != item.shape or copy.dtype != item.dtype:
        raise ValueError(f"'{target}': '{name}' was not written as it was read; nothing was replaced.")
    for key in _pieces(item):
        if not _same_bits(_plain(item, item[key]), _plain(copy, copy[key])):
            raise ValueError(f"'{target}': '{name}' does not read back as it was at {key}; nothing was replaced.")


@dataclass(frozen=True)
class _Copying:
    """A copy under way.

    Attributes:
        fields: Views of the datasets of the file that hold fields, by address.
        linked: Views of those that it has from other files, by path.
        how: Compression of both, as h5py is told it.
        bar: Is moved on by the bytes of fields that were copied.
        seen: Paths of what was copied by its address, for further names of the same.
    """

    fields: Mapping[int, View]
    linked: Mapping[str, View]
    how: Mapping[str, Any]
    bar: tqdm[Any]
    seen: dict[int, str]

    def members(self, old: Any, new: Any) -> None:
        """Copy what is in a group into an empty one."""
        _copy_attributes(old, new)
        for name in (str(n) for n in old):
            link: Any = old.get(name, getlink=True)
            full = f"{old.name.rstrip('/')}/{name}"
            if isinstance(link, h5py.ExternalLink) and full in self.linked:
                self._values(dataset_within(old.file, full), new, name, self.linked[full])
            elif isinstance(link, h5py.SoftLink | h5py.ExternalLink):
                _require_reach(link, full, old.file, new.file)
                new[name] = link
            elif (address := _address(old[name])) in self.seen:
                new[name] = new.file[self.seen[address]]
            else:
                self.seen[address] = f"{new.name.rstrip('/')}/{name}"
                self._member(old, new, name, self.fields.get(address))

    def _member(self, old: Any, new: Any, name: str, view: View | None) -> None:
        if is_group(old, name):
            self.members(old[name], new.create_group(name))
        elif is_dataset(old, name) and (view is not None or _lies_elsewhere(old[name])):
            # What lies in other files is brought into this one, which may stand elsewhere.
            self._values(dataset_within(old.file, f"{old.name.rstrip('/')}/{name}"), new, name, view)
        else:
            old.copy(name, new)

    def _values(self, old: h5py.Dataset, group: h5py.Group, name: str, view: View | None) -> None:
        """A dataset with its values; that of a field with one chunk a frame, packed."""
        options: dict[str, Any] = {}
        if view is not None:
            options = {"chunks": frame_chunks(view), "maxshape": old.maxshape, **self.how}
        new = group.create_dataset(name, shape=old.shape, dtype=old.dtype, fillvalue=old.fillvalue, **options)
        _copy_attributes(old, new)
        for key in _pieces(old):
            with readable(old.file.filename):
                values = old[key]
            new[key] = values
            self.bar.update(values.nbytes if view is not None else 0)


def _lies_elsewhere(dataset: h5py.Dataset) -> bool:
    return bool(dataset.is_virtual or dataset.external)


def _require_reach(link: h5py.SoftLink | h5py.ExternalLink, full: str, old: h5py.File, new: h5py.File) -> None:
    """Raise where a link to another file would lead to nothing from the new place."""
    here, there = (Path(file.filename).resolve().parent for file in (old, new))
    if isinstance(link, h5py.ExternalLink) and here != there:
        raise ValueError(
            f"'{old.filename}': '{full}' is a link to '{link.filename}', which would lead to nothing from another "
            "folder; write the new file into the folder of the old one."
        )


def _address(item: Any) -> int:
    return h5o.get_info(item.id).addr


def _copy_attributes(old: Any, new: Any) -> None:
    is_scale = isinstance(old, h5py.Dataset) and old.is_scale
    for key in old.attrs:
        if key in _TIES or (is_scale and key in _OF_A_SCALE):
            continue
        attribute = h5py.h5a.open(old.id, key.encode())
        kept = h5py.h5a.create(new.id, key.encode(), attribute.get_type(), attribute.get_space())
        # What has no shape has no entry either.
        if attribute.get_space().get_simple_extent_npoints() and not _refers(attribute.dtype):
            values = np.empty(attribute.shape, dtype=attribute.dtype)
            attribute.read(values)
            kept.write(values)


def _pieces(dataset: Any) -> Iterator[tuple[slice, ...]]:
    """Parts of a dataset of bounded size that begin and end where its chunks do; none of one without a shape."""
    shape = dataset.shape
    if shape is None or 0 in shape:
        return
    step = list(dataset.chunks or (1,) * len(shape))
    item = dataset.dtype.itemsize
    for axis in reversed(range(len(shape))):  # whole rows of chunks
        while step[axis] < shape[axis] and int(np.prod(step)) * item * 2 <= _PIECE:
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

    new.visititems(_forget_ties)
    old.visititems(visit)


def _forget_ties(name: str, item: Any) -> None:
    for key in _TIES:
        if key in item.attrs:
            del item.attrs[key]


def _remake_references(old: h5py.File, new: h5py.File) -> None:
    """References of datasets and attributes: MATLAB's cells and structs are made of them."""

    def visit(name: str, item: Any) -> None:
        here: Any = new[name]
        for key in item.attrs:
            if key not in _TIES and _refers(h5py.h5a.open(item.id, key.encode()).dtype):
                value = _translated(item, np.asarray(item.attrs[key], dtype=object), new)
                here.attrs.create(key, value if value.ndim else value[()], dtype=h5py.ref_dtype)
        if isinstance(item, h5py.Dataset) and item.shape is not None and _refers(item.dtype):
            for part in _pieces(item):
                here[part] = _translated(item, np.asarray(item[part], dtype=object), new)

    visit("/", old)
    old.visititems(visit)


def _refers(dtype: np.dtype) -> bool:
    """Whether numbers of a type are references to objects, alone or as a part of a record or a list."""
    if dtype.names:
        return any(_refers(dtype[name]) for name in dtype.names)
    inner = h5py.check_vlen_dtype(dtype)
    return h5py.check_ref_dtype(dtype) is not None or (isinstance(inner, np.dtype) and _refers(inner))


def _translated(item: Any, values: np.ndarray, new: h5py.File) -> np.ndarray:
    """References as those of the new file to what has the same name there."""
    found = np.empty(values.shape, dtype=object)
    for index in np.ndindex(values.shape):
        reference = values[index]
        if not isinstance(reference, h5py.Reference) or isinstance(reference, h5py.RegionReference):
            raise ValueError(
                f"'{item.file.filename}': '{item.name}' refers to parts of datasets, or has references within records; "
                "such a file is not written anew."
            )
        name = h5r.get_name(reference, item.id) if reference else None
        found[index] = new[name.decode()].ref if name else h5py.Reference()
    return found


def _plain(dataset: Any, values: Any) -> Any:
    """What is read, with references as the names of what they lead to."""
    if not _refers(dataset.dtype):
        return values
    names = [h5r.get_name(r, dataset.id) if r else None for r in np.ravel(np.asarray(values, dtype=object))]
    return np.array(names, dtype=object)


def _same_bits(a: Any, b: Any) -> bool:
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype.hasobject:
        return a.shape == b.shape and all(np.array_equal(x, y) for x, y in zip(a.ravel(), b.ravel(), strict=True))
    return a.tobytes() == b.tobytes()
