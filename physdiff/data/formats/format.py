"""What a file format is to physdiff: how to tell a file of it, and how to read one into a `Source`."""

from __future__ import annotations

import itertools
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from physdiff.data.containment import is_dataset, is_group
from physdiff.data.handles import open_hdf5
from physdiff.data.layout import Layout
from physdiff.data.source import Source

Kind = Literal["hdf5", "netcdf3", "npy", "npz", "torch", "matlab5", "zarr", "unknown"]

_MAGIC: tuple[tuple[bytes, Kind], ...] = (
    (b"\x89HDF\r\n\x1a\n", "hdf5"), (b"CDF\x01", "netcdf3"), (b"CDF\x02", "netcdf3"), (b"CDF\x05", "netcdf3"),
    (b"\x93NUMPY", "npy"), (b"MATLAB 5.0 MAT-file", "matlab5"),
    (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19", "torch"),  # torch.save of before 2020
)  # fmt: skip

_MARKS = {"MATLAB_class": "matlab", "DIMENSION_LIST": "scales"}
_LOOKED_AT = 64  # datasets that are looked at for marks


@dataclass(frozen=True)
class Probe:
    """A first look at a file: its kind by its first bytes, and the names and attributes at its top.

    Attributes:
        path: The file, or the folder of a zarr store.
        kind: What its bytes say; the name of a file says nothing.
        names: Top-level members of an HDF5 file, sorted; groups end in "/".
        attrs: Names of its top-level attributes.
        marks: What its top-level datasets are marked as: "matlab" by MATLAB's own attributes, "scales" by axes that are
            tied to coordinates, as netCDF does.
    """

    path: Path
    kind: Kind
    names: tuple[str, ...] = ()
    attrs: frozenset[str] = field(default_factory=frozenset)
    marks: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def of(cls, path: Path) -> Probe:
        """Look at a file.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is empty, or says that it is HDF5 and cannot be opened.
        """
        kind = kind_of(path)
        if kind != "hdf5":
            return cls(path, kind)
        with open_hdf5(path) as file:
            # A link to nothing or to another file is no member.
            names = [n + "/" * is_group(file, n) for n in sorted(file)]
            marks: set[str] = set()
            for name in itertools.islice((n for n in names if is_dataset(file, n)), _LOOKED_AT):
                found = set(file[name].attrs)
                marks |= {mark for attr, mark in _MARKS.items() if attr in found}
            return cls(path, kind, tuple(names), frozenset(file.attrs), frozenset(marks))

    def has(self, *names: str) -> bool:
        """Whether all of these are top-level members; a group's name ends in "/"."""
        return all(name in self.names for name in names)


@dataclass(frozen=True)
class Format:
    """A file format.

    Attributes:
        name: What options and messages call it.
        title: Its name for people.
        recognises: Whether a file is of it. No two formats may say so of the same file unless it truly is both.
        open: Reads what a file holds, without reading its fields.
        splits: Names of the parts (train, valid, test) that a file of it holds within itself; empty for none.
        told_by: How a file of it is told, for people.
        needs: What a layout must say of every file of it, for people.
        takes_fields: Whether it reads the datasets that `layout.fields` names.
        join: Which files its writer spreads one run over, as `layout.join` says it; None where each is a run.
        set_name: Regular expression of the names that the writer gives to these; what is called otherwise is a run.
    """

    name: str
    title: str
    recognises: Callable[[Probe], bool]
    open: Callable[[Path, Layout], Source]
    splits: Callable[[Path], tuple[str, ...]] = lambda path: ()
    told_by: str = ""
    needs: str = ""
    takes_fields: bool = False
    join: str | None = None
    set_name: str = ""


def kind_of(path: Path) -> Kind:
    """The kind of a file by its first bytes."""
    if path.is_dir():
        return (
            "zarr"
            if any((path / n).is_file() for n in ("zarr.json", ".zgroup", ".zarray", ".zmetadata"))
            else "unknown"
        )
    if not path.exists():
        raise FileNotFoundError(f"no file or folder '{path}'.")
    with path.open("rb") as file:
        head = file.read(512)
        if not head:
            raise ValueError(f"'{path}' is empty.")
        for magic, kind in _MAGIC:
            if head.startswith(magic):
                return kind
        for offset in (512, 1024, 2048, 4096):  # an HDF5 file may begin with a block of its user's, as MATLAB's do
            file.seek(offset)
            if file.read(8) == _MAGIC[0][0]:
                return "hdf5"
    if head.startswith(b"PK\x03\x04"):
        try:
            with zipfile.ZipFile(path) as archive:
                return "torch" if any(n.endswith("data.pkl") for n in archive.namelist()) else "npz"
        except zipfile.BadZipFile:
            raise ValueError(
                f"'{path}' is truncated or damaged: it begins as a zip archive and has no table."
            ) from None
    return "unknown"
