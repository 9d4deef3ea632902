"""What a file does not tell of itself, or is to be told otherwise: a few lines of YAML.

fields: {pressure: [/state/p, Pa], u: /state/u}
dims: [trajectory, time, x, y]
extent: [1.0, 2.0]
boundary: [periodic, neumann]
time: /t
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from physdiff.registry import nearest

Boundaries = str | list[str]


@dataclass(frozen=True)
class Layout:
    """How a file is to be read; every part that is not given is told by the file, or asked for.

    Attributes:
        schema: Name of the format, where a file could be read as more than one.
        fields: Where each field is, by the name it shall have: a dataset's path, `[path, unit]`, or `{path, unit,
            dims}` if its axes are not those of the others. With it any HDF5 file, netCDF, .npz, .pt, .mat or .zarr is
            read. In a path of an HDF5 file `*` stands for any name: `/*/data` stacks one dataset for each trajectory,
            `/frames/*` one for each frame where `dims` begins with `time`, `/run*/step_*/u` both.
        dims: Name of each axis of the fields, in stored order (MATLAB's order for its files): `trajectory`, `time`,
            `component` and the axes of the grid, of any other names.
        components: Name of each entry along `component`; numbers when not given.
        boundary: "periodic", "neumann" or "dirichlet" on every axis, or a list with one each.
        extent: Length of the box along each axis, one number or one each.
        origin: Coordinate of the box's lower face along each axis.
        length_unit: Unit of lengths.
        coordinates: Where the cell centres of an axis are, by the axis's name.
        time: Where the times of the frames are, or the time between two frames.
        scalars: Where numbers of the runs are (parameters of the equation), by the name they shall have: a dataset's
            path, or `group@attribute`; `{path, dims}` where trajectories and frames are equally many.
        static: Fields, of those in `fields`, whose axes are those of the grid alone.
        vectors: Fields that are components of a vector, by its name: by axis, {wind: {x: u, y: v}}, or a list in the
            order of the grid's axes.
        pseudo: Fields whose sign a reflection turns, such as vorticity in 2-D.
        mask: A field that is true, or not 0, where cells hold values.
        group: The part of a file that holds several, such as "train".
        join: Which files hold one run, one after the other in time: "number", those of a folder whose names differ in
            their last number alone; "folder", all of a folder; "never". Not given, each file is a run of its own,
            but for formats whose writers spread one over several.
    """

    schema: str | None = None
    fields: dict[str, Any] | None = None
    dims: list[str] | None = None
    components: list[str] | None = None
    boundary: Boundaries | None = None
    extent: float | list[float] | None = None
    origin: float | list[float] | None = None
    length_unit: str | None = None
    coordinates: dict[str, str] | None = None
    time: str | float | None = None
    scalars: dict[str, Any] | None = None
    static: list[str] | None = None
    vectors: dict[str, Any] | None = None
    pseudo: list[str] | None = None
    mask: str | None = None
    group: str | None = None
    join: str | None = None

    @classmethod
    def of(cls, given: Layout | Mapping[str, Any] | str | Path | None, **overrides: Any) -> Layout:
        """A layout from itself, from settings by name, or from a YAML file; `overrides` that are not None win.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not YAML, or has a setting that there is not.
        """
        if given is None:
            given = cls()
        if isinstance(given, (str, Path)):
            given = _read_yaml(Path(given))
        if not isinstance(given, Layout):
            given = cls.checked(given, "layout")
        said = {name: value for name, value in overrides.items() if value is not None}
        return dataclasses.replace(given, **said)

    @classmethod
    def checked(cls, given: Mapping[str, Any], source: str) -> Layout:
        """A layout from settings by name; `source` is what messages call them."""
        known = [f.name for f in dataclasses.fields(cls)]
        for name in given:
            if name not in known:
                raise ValueError(f"{source}: there is no setting '{name}'. {nearest(str(name), known)}")
        # h5py and numpy accept many things silently; a layout's types are checked where it is written.
        said = {name: _plain(value) for name, value in given.items()}
        for name, kinds, words in _KINDS:
            value = said.get(name)
            if name in ("extent", "origin", "time"):
                value = said[name] = _as_numbers(value)
            if value is None:
                continue
            if not isinstance(value, kinds) or isinstance(value, bool):
                raise ValueError(f"{source}: '{name}' is {given[name]!r}; expected {words}.")
            if name in ("dims", "components", "static", "pseudo"):
                said[name] = [_name(source, name, one) for one in value]
            elif isinstance(value, dict):
                said[name] = {_name(source, name, key): one for key, one in value.items()}
        return cls(**said)


_KINDS: tuple[tuple[str, Any, str], ...] = (
    ("fields", dict, "names with the paths of datasets"), ("dims", list, "a list of names"),
    ("components", list, "a list of names"),
    ("coordinates", dict, "axes with the paths of datasets"),
    ("scalars", dict, "names with the paths of datasets"),
    ("static", list, "a list of fields"), ("vectors", dict, "names with components by axis"),
    ("pseudo", list, "a list of fields"), ("boundary", (str, list), "a word, or one for each axis"),
    ("extent", (int, float, list), "a number, or one for each axis"), ("mask", str, "the name of a field"),
    ("origin", (int, float, list), "a number, or one for each axis"), ("schema", str, "the name of a format"),
    ("time", (str, int, float), "a path or a number"), ("group", str, "the name of a group"),
    ("length_unit", str, "a unit"), ("join", str, "'number', 'folder' or 'never'"),
)  # fmt: skip


def _plain(value: Any) -> Any:
    """Tuples as lists, and numpy's numbers and arrays as Python's."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _as_numbers(value: Any) -> Any:
    """Numbers such as 1e-3 and 1.0e3, which YAML takes for text because they lack a point, or a sign."""
    if isinstance(value, list):
        return [_as_numbers(one) for one in value]
    is_number = isinstance(value, str) and re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+", value)
    return float(value) if is_number else value


def _name(source: str, setting: str, value: Any) -> str:
    """A name; a number is one too. YAML reads no, yes, on and off as truth values, and `null` as nothing."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(
            f"{source}: '{setting}' names {value!r}; expected a name, in quotes where YAML takes it for something else."
        )
    return str(value)


def _read_yaml(path: Path) -> Layout:
    if not path.is_file():
        raise FileNotFoundError(f"there is no layout file '{path}'.")
    try:
        content = yaml.safe_load(path.read_text())
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold settings by name (fields, dims, boundary, ...).")
    return Layout.checked(content, str(path))
