"""xarray objects in memory, or opened lazily by xarray, as a `Source`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from physdiff.data.decoded import SecondsArray
from physdiff.data.formats.conventions import read_by_conventions
from physdiff.data.formats.described import Described
from physdiff.data.layout import Layout
from physdiff.data.source import Source
from physdiff.data.stored import Key, MemoryArray, StoredArray

_UNITS = "seconds since 1970-01-01"


@dataclass(frozen=True, eq=False)
class VariableArray:
    """A variable of xarray, whose values may still be in a file.

    Attributes:
        variable: The variable; pickling it takes its values along if they are in memory.
        name: Its name.
    """

    variable: xr.Variable
    name: str

    @property
    def dtype(self) -> np.dtype:
        return self.variable.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.variable.shape

    @property
    def chunks(self) -> None:
        return None

    @property
    def label(self) -> str:
        return self.name

    def read(self, key: Key) -> np.ndarray:
        return np.asarray(self.variable[key].values)


def source_of(
    data: xr.Dataset | xr.DataArray, layout: Layout | Mapping[str, Any] | None = None, name: str | None = None
) -> Source:
    """Fields in an xarray object, as from a netCDF file; dates become seconds since 1970.

    Args:
        data: Variables on named axes, of one grid; an array without a name is the field `data`.
        layout: What it does not tell, such as `{"boundary": "periodic"}`.
        name: What messages call it.

    Raises:
        ValueError: there is no field, an axis could be of two kinds, or the grid is not told.
    """
    if isinstance(data, xr.DataArray):
        data = data.to_dataset(name=data.name or "data")
    name = name or str(data.attrs.get("source", "dataset"))
    variables: dict[str, Described] = {}
    for key, variable in data.variables.items():
        # An index is not picklable as a lazily read array is; its values are few.
        array: StoredArray = VariableArray(variable.to_base_variable(), str(key))
        attrs = {str(k): v for k, v in variable.attrs.items()}
        if variable.dtype.kind in "Mm":
            array = SecondsArray(array)
            attrs["units"] = array.units
        elif variable.dtype.kind == "O" and key in data.coords and _are_dates(variable.values):
            attrs |= {"units": _UNITS, "calendar": np.ravel(variable.values)[0].calendar}
            array = MemoryArray(_seconds(variable.values), str(key))
        variables[str(key)] = Described(array, tuple(str(d) for d in variable.dims), attrs)
    attrs = {str(key): value for key, value in data.attrs.items()}
    found = read_by_conventions(name, "xarray", variables, attrs, Layout.of(layout))
    return replace(found, is_in_memory=True)


def _are_dates(values: np.ndarray) -> bool:
    """Whether objects are dates of a calendar, as cftime makes them for those that numpy has not."""
    return values.size > 0 and all(hasattr(one, "calendar") and hasattr(one, "replace") for one in np.ravel(values))


def _seconds(dates: np.ndarray) -> np.ndarray:
    """Seconds since 1970 in the dates' own calendar."""
    flat = np.ravel(dates)
    start = flat[0].replace(year=1970, month=1, day=1, hour=0, minute=0, second=0, microsecond=0)
    return np.array([(one - start).total_seconds() for one in flat]).reshape(dates.shape)
