"""Fields and numbers by name, and whether the files of one data set agree on them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

import numpy as np

from physdiff.data.source import TIME, Source, Variable

# Before the names of what goes with the fields of a file that `FieldData.to_xarray` made.
BESIDE_FIELDS = ("given.", "observed.")


def choose(source: Source, names: Iterable[str] | None, besides: Iterable[str] = ()) -> tuple[Variable, ...]:
    """Variables by name, a vector's name for all its components.

    Args:
        source: A file.
        names: Their names, in this order; all that change in time or between runs when None, and if nothing does, all.
        besides: Names that are left out where `names` is None.

    Raises:
        ValueError: there is none of a name (the nearest is told), or one is named twice.
    """
    if names is None:
        left_out = set(besides)
        rest = [
            v for v in source.variables if not {v.name, v.parent} & left_out and not v.name.startswith(BESIDE_FIELDS)
        ]
        changing = tuple(v for v in rest if v.varies_in_time or v.varies_between_runs) or tuple(rest)
        if not changing:
            raise ValueError(
                f"{source.path}: every field ({', '.join(source.names)}) is part of the condition or the mask; "
                "name the fields to model with data.fields."
            )
        return changing
    chosen: list[Variable] = []
    for name in names:
        found = [v for v in source.variables if v.name == name] or [v for v in source.variables if v.parent == name]
        if not found:
            raise unknown_field(source.path, name, source.names)
        chosen += found
    once: set[str] = set()
    for variable in chosen:
        if variable.name in once:
            raise ValueError(f"{source.path}: field '{variable.name}' was asked for twice.")
        once.add(variable.name)
    return tuple(chosen)


def condition_parts(source: Source, names: Sequence[str]) -> tuple[tuple[Variable, ...], tuple[str, ...]]:
    """What a condition is made of: fields, and names of numbers.

    Raises:
        ValueError: a name is neither, or both.
    """
    fields, numbers = [], []
    for name in names:
        is_number = name == TIME or name in source.scalars
        is_field = any(name in (v.name, v.parent) for v in source.variables)
        if is_number and is_field:
            raise ValueError(
                f"{source.path}: '{name}' of data.condition is a field and a number; name the field otherwise with "
                "data.layout.fields."
            )
        if not is_number and not is_field:
            known = [*source.names, *source.scalars, TIME]
            raise ValueError(
                f"{source.path} has no field or number '{name}' for data.condition; it has the fields "
                f"{', '.join(source.names)} and the numbers {', '.join([*source.scalars, TIME])}.{_hint(name, known)}"
            )
        if name in numbers:
            raise ValueError(f"data.condition names '{name}' twice.")
        (numbers if is_number else fields).append(name)
    return choose(source, fields), tuple(numbers)


def require_numbers(source: Source, names: Sequence[str]) -> None:
    """Raise unless a file has numbers of these names, all finite, with one value per run, per frame or both."""
    for name in names:
        if name == TIME:
            continue
        if name not in source.scalars:
            raise ValueError(
                f"{source.path} has no number '{name}'; it has {', '.join(source.scalars) or 'none'}."
                f"{_hint(name, source.scalars)}"
            )
        values = np.asarray(source.scalars[name])
        if values.dtype.kind not in "fiub":
            raise ValueError(f"{source.path}: number '{name}' is {values.dtype}; expected real numbers.")
        finite = np.isfinite(values)
        if not finite.all():
            place = tuple(int(i) for i in np.argwhere(~finite)[0])
            words = " and ".join(f"{dim} {i}" for dim, i in zip(source.scalar_dims.get(name, ()), place, strict=False))
            raise ValueError(f"{source.path}: number '{name}' is {values[place]}{' at ' * bool(words)}{words}.")


def require_classes(source: Source, name: str) -> None:
    """Raise unless a number of a file can be a class: whole and at least 0."""
    require_numbers(source, [name])
    if name == TIME:
        raise ValueError("data.classes is 'time'; expected a whole number of the run.")
    values = np.ravel(source.scalars[name])
    wrong = values[(values != np.floor(values)) | (values < 0)]
    if len(wrong):
        raise ValueError(f"{source.path}: number '{name}' is {wrong[0]}; data.classes needs whole numbers, at least 0.")


def agree(first: Source, other: Source, names: Sequence[str]) -> None:
    """Raise unless two files have one grid, and the named fields in the same units."""
    by_name = [{v.name: v for v in s.variables} for s in (first, other)]
    for word, there, here in (
        ("grid", first.grid.describe(), other.grid.describe()),
        ("origin", rounded(first.grid.origin), rounded(other.grid.origin)),
        ("fields", list(names), [n for n in names if n in by_name[1]]),
    ):
        if here != there:
            raise ValueError(f"files disagree: {other.path} has {word} {here}, {first.path} has {there}.")
    for name in names:
        if by_name[0][name].units != by_name[1][name].units:
            raise ValueError(
                f"files disagree: '{name}' has the unit '{by_name[1][name].units}' in {other.path} and "
                f"'{by_name[0][name].units}' in {first.path}."
            )


def agree_on_time(first: Source, other: Source) -> None:
    """Raise unless two files count time from one moment, in one unit: where times are compared or told to a model."""
    for word in ("time_units", "time_calendar"):
        there, here = (source.attrs.get(word, "") for source in (first, other))
        if here != there:
            raise ValueError(
                f"files disagree: {other.path} has {word} '{here}', {first.path} has '{there}'; times are numbers as "
                "they are stored. Write the files with one unit of time."
            )


def rounded(numbers: Iterable[float]) -> tuple[float, ...]:
    """Lengths to six digits, as files compare them."""
    return tuple(float(f"{number:.6g}") for number in numbers)


def unknown_field(source: str, name: str, known: Iterable[str]) -> ValueError:
    """The error for a field that is not there: what is, and the nearest name."""
    known = list(known)
    return ValueError(f"{source} has no field '{name}'; it has {', '.join(known) or 'none'}.{_hint(name, known)}")


def _hint(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean '{near[0]}'?" if near else ""
