"""Fields that are in memory already, of xarray or of py-pde, in place of a path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import xarray as xr

from physdiff.data.formats.py_pde_objects import is_py_pde, source_of_py_pde
from physdiff.data.formats.xarray_objects import source_of as source_of_xarray
from physdiff.data.layout import Layout
from physdiff.data.source import Source

if TYPE_CHECKING:
    from typing_extensions import TypeIs


class PyPDEField(Protocol):
    """py-pde's ScalarField, VectorField, Tensor2Field or FieldCollection."""

    @property
    def attributes_serialized(self) -> dict[str, str]: ...


class PyPDEStorage(Protocol):
    """py-pde's MemoryStorage or FileStorage."""

    def start_writing(self, field: Any, info: Any = None) -> None: ...


InMemory = xr.Dataset | xr.DataArray | PyPDEField | PyPDEStorage | Sequence[PyPDEField] | Sequence[PyPDEStorage]


def is_in_memory(data: object) -> TypeIs[InMemory]:
    """Whether it holds fields itself, and is no path."""
    return isinstance(data, xr.Dataset | xr.DataArray) or is_py_pde(data)


def words_for(data: InMemory) -> str:
    """What messages call it."""
    return "xarray object" if isinstance(data, xr.Dataset | xr.DataArray) else "py-pde object"


def source_of(data: InMemory, layout: Layout | Mapping[str, Any] | None = None, name: str | None = None) -> Source:
    """Fields of an object in memory, as from a file.

    Args:
        data: Of xarray, a Dataset or DataArray: variables on named axes of one grid, dates as seconds since 1970, an
            array without a name the field `data`. Of py-pde, a field (one frame), a storage (one run), or several of
            these, each a run of its own.
        layout: What it does not tell, such as `{"boundary": "periodic"}`.
        name: What messages call it.

    Raises:
        ValueError: there is no field, an axis could be of two kinds, the grid is not told, or the object is neither
            xarray's nor py-pde's.
    """
    if isinstance(data, xr.Dataset | xr.DataArray):
        return source_of_xarray(data, layout, name)
    if not is_py_pde(data):
        raise ValueError(f"source_of takes an object of xarray or py-pde; got {type(data).__name__}.")
    return source_of_py_pde(data, Layout.of(layout), name or words_for(data))
