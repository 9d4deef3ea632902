"""Data sets by their path: opened, so that samples are read when asked for, or loaded whole.

Every file format becomes one `FieldSet` or `FieldData`; everything later (normalisation, training, likelihood) sees
only these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from physdiff.data.field_data import FieldData, concatenate
from physdiff.data.fieldset import FieldSet
from physdiff.data.formats import source_of
from physdiff.data.formats.format import kind_of
from physdiff.data.formats.in_memory import InMemory, is_in_memory, words_for
from physdiff.data.handles import close_all
from physdiff.data.layout import Layout
from physdiff.data.selection import Selection
from physdiff.data.splits import (
    SPLITS,
    Paths,
    Split,
    files_of,
    open_splits,
    split_files,
    stored_parts,
)
from physdiff.disk import readable

__all__ = ["SPLITS", "FieldData", "FieldSet", "concatenate", "load", "load_fields", "open_fields", "split_files"]


def load_fields(
    path: Paths | Mapping[str, Paths] | InMemory,
    names: Sequence[str] | None = None,
    split: str | None = None,
    boundary: str | Sequence[str] | None = None,
    *,
    selection: Selection | None = None,
    layout: Layout | Mapping[str, Any] | str | Path | None = None,
    splits: Split | Mapping[str, Any] | None = None,
) -> FieldData:
    """Samples of files, or of one part of a data set, in memory.

    Args:
        path: A file of any format that `physdiff data formats` lists, several files, a pattern, a folder
            `<path>/data/{train,valid,test}/*`, files for each part by its name, or an object of
            xarray or py-pde (`source_of`).
        names: Fields to read, in this order; all that change in time or between runs when not given. A vector's name
            stands for its components.
        split: "train", "valid" or "test", where the data set is divided.
        boundary: Boundary of every axis, or of each, in place of the one in the file.
        selection: What a sample is, if not one frame; `names` stand for its fields.
        layout: What the file does not tell; `boundary` stands for its own.
        splits: Shares by which files that are not divided are, by trajectory.

    Raises:
        FileNotFoundError: nothing is at `path`.
        ValueError: a file cannot be read, lacks a field or dimension, holds a value that is not finite, or
            its grid is not a regular box or not that of the other files.
    """
    return load(open_fields(path, names, split, boundary, selection=selection, layout=layout, splits=splits))


def open_fields(
    path: Paths | Mapping[str, Paths] | InMemory,
    names: Sequence[str] | None = None,
    split: str | None = None,
    boundary: str | Sequence[str] | None = None,
    *,
    selection: Selection | None = None,
    layout: Layout | Mapping[str, Any] | str | Path | None = None,
    splits: Split | Mapping[str, Any] | None = None,
) -> FieldSet:
    """The same as `load_fields`, with nothing read but the headers of the files."""
    selection = selection or Selection()
    if names is not None:
        selection = replace(selection, fields=tuple(names))
    said = boundary if boundary is None or isinstance(boundary, str) else list(boundary)
    layout = Layout.of(layout, boundary=said)
    called = words_for(path) if is_in_memory(path) else path
    if splits is not None:
        if split is None:
            raise ValueError(f"data.splits divides '{called}'; which part is wanted, {', '.join(SPLITS)}?")
        return _part(open_splits(path, selection=selection, layout=layout, split=splits), split, called)
    if is_in_memory(path):
        if split is not None:
            raise ValueError(f"this {called} has no split '{split}'; divide it with splits, or leave split out.")
        return FieldSet([source_of(path, layout, words_for(path))], selection)
    if isinstance(path, str | Path) and _is_divided(Path(path), split):
        return FieldSet.open(split_files(Path(path), split), selection, layout, name=str(path))
    parts = stored_parts(path, layout)
    if parts is not None:
        if split is None:
            raise ValueError(f"'{path}' is divided into {', '.join(parts)}; say which with split.")
        files, own, name = _part(parts, split, path)
        return FieldSet.open(files, selection, own, name)
    files = files_of(path) if not isinstance(path, Mapping) else []
    if split is not None:
        raise ValueError(
            f"'{path}' is one file and has no split '{split}'; give its folder, divide it with data.splits, or leave "
            "split out."
            if len(files) == 1
            else f"'{path}' are files without a split '{split}'; divide them with data.splits, or leave split out."
        )
    return FieldSet.open(files, selection, layout, name=str(path) if len(files) > 1 else "")


def load(fields: FieldSet) -> FieldData:
    """All samples of a set, in memory.

    Raises:
        ValueError: a value is not finite, or there is no room for so many.
    """
    rows = np.arange(len(fields))
    try:
        samples = fields.read(rows)
    except MemoryError as error:
        size = len(rows) * len(fields.names) * fields.grid.size * fields.dtype.itemsize
        raise ValueError(
            f"{fields.source}: {len(rows)} samples have {readable(size)}, more than there is memory for; open_fields "
            "reads them as they are asked for, and so does training with --data.loader stream."
        ) from error
    finally:
        close_all()  # nothing more is read, and a file that is open for reading cannot be written to
    return FieldData(
        values=samples.values,
        grid=fields.grid,
        names=fields.names,
        units=fields.units,
        trajectory=fields.trajectories(rows),
        time=fields.times(rows),
        source=fields.source,
        given=samples.given,
        given_names=fields.given_names,
        given_units=fields.given_units,
        scalars=samples.scalars,
        scalar_names=fields.scalar_names,
        classes=samples.classes,
        class_name=fields.selection.classes,
        observed=samples.observed,
    )


def _is_divided(path: Path, split: str | None) -> bool:
    """Whether a path is a folder in The Well's layout, or is asked for as if it were."""
    if not path.is_dir() or kind_of(path) == "zarr":
        return False
    return (path / "data").is_dir() or split is not None


def _part(parts: Mapping[str, Any], split: str, path: Any) -> Any:
    if split not in parts:
        raise ValueError(f"'{path}' has no split '{split}'; it has {', '.join(parts)}.")
    return parts[split]
