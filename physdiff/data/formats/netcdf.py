"""netCDF files: version 4 (HDF5) with its structure told by xarray, and version 3 by scipy; numbers are read in place.

Packed numbers, fill values and missing values are decoded as the CF conventions say. Times stay the numbers that are
stored, in the unit that is stored, whatever the calendar: 360_day needs no table of dates.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from scipy.io import netcdf_file

from physdiff.atomic import replacing_file
from physdiff.data.axes import text
from physdiff.data.containment import dataset_within, is_dataset, is_group
from physdiff.data.decoded import unpacked
from physdiff.data.file_map import MappedArray
from physdiff.data.formats.by_layout import SHOWN
from physdiff.data.formats.conventions import read_by_conventions
from physdiff.data.formats.described import Described
from physdiff.data.formats.format import Format, Probe, kind_of
from physdiff.data.handles import open_hdf5
from physdiff.data.layout import Layout
from physdiff.data.source import Source
from physdiff.data.stored import HDF5Array


def open_netcdf(path: Path, layout: Layout) -> Source:
    """The variables of a netCDF file of version 3 or 4.

    Raises:
        ValueError: it is damaged, its fields have no common grid, or something that must be known is not told.
    """
    groups: list[str] = []
    if kind_of(path) == "netcdf3":
        if layout.group is not None:
            raise ValueError(f"'{path}' is netCDF of version 3, which has no groups; got group='{layout.group}'.")
        variables, attrs = _version_3(str(path))
    else:
        variables, attrs = _version_4(str(path), layout.group or "")
        _add_from_above(str(path), (layout.group or "").strip("/"), variables)
        groups = _groups(path, layout.group or "")
    return read_by_conventions(str(path), "netcdf", variables, attrs, layout, groups)


def _groups(path: Path, group: str) -> list[str]:
    """Groups below one that hold arrays, as many as a message shows."""
    found: list[str] = []
    with open_hdf5(path) as file:
        waiting = [group.strip("/")]
        for here in waiting:
            inner: Any = file[here or "/"]
            if here != group.strip("/") and any(is_dataset(inner, name) for name in inner):
                found.append(here)
            # A file that links a group into itself has no end.
            if len(found) < SHOWN and here.count("/") < 8:
                waiting += [f"{here}/{name}".strip("/") for name in inner if is_group(inner, name)][: 4 * SHOWN]
    return found


def _version_4(path: str, group: str) -> tuple[dict[str, Described], dict[str, Any]]:
    prefix = "".join(f"/{part}" for part in group.split("/") if part)
    with open_hdf5(path) as file:
        if prefix and prefix not in file:
            raise ValueError(f"'{path}' has no group '{group}'.")
        here: Any = file[prefix or "/"]
        # Before xarray reads coordinates whole: a size that cannot be, or values that are in another folder.
        for name in here:
            if is_dataset(here, name) and here[name].shape is not None:
                dataset_within(file, f"{prefix}/{name}")
    try:
        # A field in seconds is a number, not a date: xarray would decode its unit.
        with xr.open_dataset(
            path, engine="h5netcdf", group=prefix or None, decode_cf=False, phony_dims="access",
        ) as dataset:  # fmt: skip
            structure = {str(n): (tuple(str(d) for d in v.dims), dict(v.attrs)) for n, v in dataset.variables.items()}
            attrs = {str(key): value for key, value in dataset.attrs.items()}
    except ValueError as error:
        raise ValueError(f"'{path}' is no netCDF file that xarray reads: {' '.join(str(error).split())}.") from None
    except (OSError, KeyError, TypeError, AttributeError, RuntimeError, IndexError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"'{path}' is truncated, damaged or no netCDF file: {said}.") from None
    variables = {}
    for name, (dims, own) in structure.items():
        array = HDF5Array.of(path, f"{prefix}/{name}")
        if len(array.shape) == len(dims):
            variables[name] = Described(unpacked(array, own) if array.dtype.kind in "fiu" else array, dims, own)
    return variables, attrs


def _add_from_above(path: str, group: str, variables: dict[str, Described]) -> None:
    """Coordinates of axes that a group has from the groups that it lies in (CF conventions, section 2.7)."""
    while group:
        group = group.rpartition("/")[0]
        axes = {dim for one in variables.values() for dim in one.dims} - set(variables)
        if axes:
            above, _ = _version_4(path, group)
            variables |= {name: one for name, one in above.items() if name in axes and one.dims == (name,)}


def _version_3(path: str) -> tuple[dict[str, Described], dict[str, Any]]:
    with open(path, "rb") as file:
        if file.read(4) == b"CDF\x05":
            raise ValueError(f"'{path}' is netCDF with 64-bit data (CDF-5), which is not read; copy it to netCDF-4.")
    try:
        # scipy warns when a map is closed that an exception still holds.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            arrays, attrs = _places(path)
    except FileNotFoundError:
        raise
    except Exception as error:  # scipy raises whatever its parser stumbles over
        said = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ValueError(f"'{path}' is truncated, damaged or no netCDF file: {said}.") from None
    return {name: Described(unpacked(a, own), dims, own) for name, (a, dims, own) in arrays.items()}, attrs


def _places(path: str) -> tuple[dict[str, tuple[MappedArray, tuple[str, ...], dict[str, Any]]], dict[str, Any]]:
    """Where each variable of numbers lies in the file."""
    found = {}
    with netcdf_file(path, "r", mmap=True) as file:
        for name, variable in file.variables.items():
            data = variable.data
            if data.dtype.kind in "fiu":
                root = data
                while isinstance(root.base, np.ndarray):
                    root = root.base
                offset = _address(data) - _address(root)
                place = MappedArray(path, name, data.shape, data.dtype, data.strides, offset)
                found[name] = place, tuple(variable.dimensions), _plain(variable._attributes)
            del data, variable
        attrs = _plain(file._attributes)
    return found, attrs


def _address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def _plain(attrs: dict[str, Any]) -> dict[str, Any]:
    """Attributes that outlive the file, text as text."""
    return {name: text(value) if isinstance(value, bytes) else np.array(value) for name, value in attrs.items()}


def write(path: str | Path, dataset: xr.Dataset) -> Path:
    """Write a data set (`FieldData.to_xarray`) whole or not at all; returns the path."""
    with replacing_file(path) as partial:
        dataset.to_netcdf(partial, engine="h5netcdf")
    return Path(path)


def recognises(probe: Probe) -> bool:
    """Whether a file is netCDF: version 3, or HDF5 with its mark or with axes tied to coordinates."""
    return probe.kind == "netcdf3" or "_NCProperties" in probe.attrs or "scales" in probe.marks


NETCDF = Format(
    "netcdf", "netCDF 3 and 4", recognises, open_netcdf,
    told_by="its header, _NCProperties, or axes tied to coordinates", needs="boundary, unless physdiff wrote it",
    takes_fields=True,
)  # fmt: skip
