"""One file per schema. `FORMATS` lists them; `open_source` finds the one that a file is of."""

from __future__ import annotations

import textwrap
from pathlib import Path

from physdiff.data.damage import named
from physdiff.data.formats.arrays import NPY, NPZ, TORCH
from physdiff.data.formats.by_layout import suggestion
from physdiff.data.formats.dedalus import DEDALUS
from physdiff.data.formats.format import Format, Probe
from physdiff.data.formats.in_memory import source_of
from physdiff.data.formats.mapped import MAPPED, HDF5Store
from physdiff.data.formats.matlab import MATLAB
from physdiff.data.formats.netcdf import NETCDF
from physdiff.data.formats.pdearena import PDEARENA
from physdiff.data.formats.pdebench import PDEBENCH
from physdiff.data.formats.py_pde import PY_PDE
from physdiff.data.formats.the_well import THE_WELL
from physdiff.data.formats.zarr_store import ZARR
from physdiff.data.layout import Layout
from physdiff.data.source import Source
from physdiff.registry import nearest, spelled

__all__ = ["FORMATS", "Format", "find_format", "formats_table", "open_source", "source_of"]

FORMATS: dict[str, Format] = {
    f.name: f for f in (THE_WELL, PDEBENCH, PDEARENA, PY_PDE, DEDALUS, NETCDF, ZARR, MATLAB, NPY, NPZ, TORCH, MAPPED)
}

# What people expect of a file by its name; only for messages about files that are nothing of the kind.
_BY_SUFFIX = {
    ".h5": "HDF5", ".hdf5": "HDF5", ".nc": "netCDF", ".nc4": "netCDF", ".mat": "MATLAB", ".npy": ".npy", ".npz": ".npz",
    ".pt": "torch", ".pth": "torch", ".zarr": "zarr",
}  # fmt: skip


def find_format(path: str | Path, layout: Layout | None = None) -> Format:
    """The format of a file, by its content.

    Raises:
        FileNotFoundError: there is no file.
        ValueError: it is of no known format, or could be of several.
    """
    path, layout = Path(path), layout or Layout()
    with named(path):
        probe = Probe.of(path)
    if layout.schema is not None:
        schema = spelled(layout.schema, FORMATS)
        if schema not in FORMATS:
            raise ValueError(f"'{path}': unknown schema '{layout.schema}'. {nearest(layout.schema, FORMATS)}")
        return FORMATS[schema]
    found = [f for f in FORMATS.values() if f.recognises(probe)]
    if layout.fields is not None:
        # Whoever names datasets wants these; how numbers and axes are stored is still the file's affair.
        found = [f for f in found if f.takes_fields] or [MAPPED] * (probe.kind == "hdf5")
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(f.name for f in found)
        raise ValueError(f"'{path}' could be read as {names}; say which with schema= (--data.layout.schema).")
    if probe.kind == "hdf5":
        raise ValueError(
            f"'{path}' is an HDF5 file of no format that physdiff knows by itself; {suggestion(HDF5Store(str(path)))}"
        )
    if path.suffix in _BY_SUFFIX:
        raise ValueError(f"'{path}' is truncated or no {_BY_SUFFIX[path.suffix]} file: it does not begin as one.")
    kind = "is a folder without a zarr store" if path.is_dir() else f"ends in '{path.suffix}'"
    raise ValueError(f"'{path}' {kind}; physdiff reads {', '.join(_BY_SUFFIX)}, told by their content.")


def open_source(path: str | Path, layout: Layout | None = None) -> Source:
    """What a file holds; its fields are not read.

    Raises:
        FileNotFoundError: there is no file.
        ValueError: it is of no known format, is damaged, or does not tell something that must be known.
    """
    path, layout = Path(path), layout or Layout()
    with named(path):
        return find_format(path, layout).open(path, layout)


def formats_table() -> str:
    """The formats that are read: name and what it is, and below how a file of it is told and what a layout must say."""
    lines = []
    for one in FORMATS.values():
        lines.append(f"{one.name:10} {one.title}")
        for words, said in (("told by", one.told_by), ("a layout says", one.needs)):
            lines += textwrap.wrap(said, 100, initial_indent=f"  {words + ':':15}", subsequent_indent=" " * 17)
    return "\n".join(lines)
