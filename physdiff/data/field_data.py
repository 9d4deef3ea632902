"""Samples in memory, with the grid, names and units that give the numbers a meaning.

What training, likelihoods and scoring see of data that was loaded whole; `FieldSet` is the same read when asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from physdiff.data.agreement import rounded, unknown_field
from physdiff.data.samples import Samples
from physdiff.grid import Grid


@dataclass(frozen=True, eq=False)
class FieldData:
    """Samples of named variables on one grid, in physical units, and what they are conditioned on.

    Attributes:
        values: Shape (n, channels, *grid), float32 or float64 as stored, finite; NaN where not observed.
        grid: Where the values live.
        names: Name of each channel.
        units: Unit of each channel, `""` if dimensionless or unknown.
        trajectory: Which simulation run a sample comes from, shape (n,), integer, unique across files.
        time: Time of each sample in its run, shape (n,), float64.
        source: File or folder the samples come from.
        given: Fields of the condition, shape (n, fields, *grid), finite, or NaN under a mask; None without.
        given_names: Name of each field of the condition.
        given_units: Unit of each field of the condition.
        scalars: Numbers of the condition, shape (n, numbers), float64, finite; None without.
        scalar_names: Name of each number.
        classes: Class of each sample, shape (n,), int64, at least 0; None without.
        class_name: Name of the number that is the class; None without.
        observed: Which cells hold values, shape as values, bool; None where all do.

    Raises:
        ValueError: the parts do not fit each other, or a value is not finite.
    """

    values: np.ndarray
    grid: Grid
    names: tuple[str, ...]
    units: tuple[str, ...]
    trajectory: np.ndarray
    time: np.ndarray
    source: str
    given: np.ndarray | None = None
    given_names: tuple[str, ...] = ()
    given_units: tuple[str, ...] = ()
    scalars: np.ndarray | None = None
    scalar_names: tuple[str, ...] = ()
    classes: np.ndarray | None = None
    class_name: str | None = None
    observed: np.ndarray | None = None

    def __post_init__(self) -> None:
        n = len(self.values)
        expected = (n, len(self.names), *self.grid.shape)
        if self.values.shape != expected:
            raise ValueError(
                f"{self.source}: values have shape {self.values.shape}; {n} snapshots of "
                f"{len(self.names)} fields on a grid of {self.grid.shape} cells have shape {expected}."
            )
        if self.values.dtype not in (np.float32, np.float64):
            raise ValueError(f"{self.source}: values are {self.values.dtype}; expected float32 or float64.")
        for names, units in ((self.names, self.units), (self.given_names, self.given_units)):
            if len(set(names)) != len(names) or len(units) != len(names):
                raise ValueError(
                    f"{self.source}: names must differ and each have one unit; got {names}, units {units}."
                )
        for word, array in (("trajectory", self.trajectory), ("time", self.time), ("classes", self.classes)):
            if array is not None and array.shape != (n,):
                raise ValueError(f"{self.source}: '{word}' has shape {array.shape}; expected one per snapshot, ({n},).")
        for word, array, shape in (
            ("given", self.given, (n, len(self.given_names), *self.grid.shape)),
            ("scalars", self.scalars, (n, len(self.scalar_names))),
            ("observed", self.observed, expected),
        ):
            if array is not None and array.shape != shape:
                raise ValueError(f"{self.source}: '{word}' has shape {array.shape}; expected {shape}.")
        if (self.given is None) != (not self.given_names) or (self.scalars is None) != (not self.scalar_names):
            raise ValueError(f"{self.source}: fields and numbers of a condition come with their names, or not at all.")
        if self.classes is not None and (self.classes.dtype != np.int64 or self.classes.min(initial=0) < 0):
            raise ValueError(f"{self.source}: classes are {self.classes.dtype}; expected int64, at least 0.")
        if self.observed is not None and self.observed.dtype != np.bool_:
            raise ValueError(f"{self.source}: 'observed' is {self.observed.dtype}; expected true or false.")
        self._check_finite()

    def _check_finite(self) -> None:
        finite = np.isfinite(self.values)
        if not finite.all():
            wrong = ~finite if self.observed is None else (~finite & self.observed) | np.isinf(self.values)
            self._refuse_first(wrong, self.values, self.names)
        if self.given is not None:
            wrong = ~np.isfinite(self.given) if self.observed is None else np.isinf(self.given)
            self._refuse_first(wrong, self.given, self.given_names)
        if self.scalars is not None and not np.isfinite(self.scalars).all():
            sample, number = (int(i) for i in np.argwhere(~np.isfinite(self.scalars))[0])
            raise ValueError(
                f"{self.source}: number '{self.scalar_names[number]}' of snapshot {sample} is "
                f"{self.scalars[sample, number]}; expected a finite one."
            )

    def _refuse_first(self, wrong: np.ndarray, values: np.ndarray, names: Sequence[str]) -> None:
        if not wrong.any():
            return
        sample, channel, *cell = (int(i) for i in np.argwhere(wrong)[0])
        trajectory = self.trajectory[sample]
        frame = int((self.trajectory[:sample] == trajectory).sum())
        value = values[sample, channel, *cell]
        advice = "expected a finite value"
        if np.isnan(value) and self.observed is None:
            advice = "masked or missing values are read with data.mask nan"
        raise ValueError(
            f"{self.source}: field '{names[channel]}' holds {value} at trajectory {trajectory}, frame {frame}, cell "
            f"{tuple(cell)}; {advice}."
        )

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.values)

    @property
    def samples(self) -> Samples:
        """The values and conditions alone."""
        return Samples(self.values, self.given, self.scalars, self.classes, self.observed)

    @property
    def is_conditioned(self) -> bool:
        """Whether the samples come with fields, numbers or classes that they are conditioned on."""
        return any(part is not None for part in (self.given, self.scalars, self.classes))

    def select(self, names: Sequence[str]) -> FieldData:
        """Some of the channels, in the order of `names`; the condition stays.

        Raises:
            ValueError: there is no field of a name.
        """
        for name in names:
            if name not in self.names:
                raise unknown_field(self.source, name, self.names)
        index = [self.names.index(name) for name in names]
        observed = None if self.observed is None else self.observed[:, index]
        return replace(
            self,
            values=self.values[:, index],
            names=tuple(names),
            units=tuple(self.units[i] for i in index),
            observed=observed,
        )

    def as_trained(self, names: Sequence[str], units: Sequence[str], grid: Grid) -> FieldData:
        """The channels of a model in its order.

        Args:
            names: The model's channels.
            units: Their units; data without a unit is taken to be in them.
            grid: The model's.

        Raises:
            ValueError: a channel is missing, or units or the grid are others.
        """
        data = self if self.names == tuple(names) else self.select(names)
        if any(theirs not in ("", ours) for theirs, ours in zip(data.units, units, strict=True)):
            raise ValueError(
                f"{data.source}: the fields {', '.join(data.names)} have the units {data.units}; the model was "
                f"trained on {tuple(units)}."
            )
        if not data.grid.matches(grid):
            raise ValueError(
                f"{data.source} is on the grid {data.grid.describe()}; the model was trained on {grid.describe()}."
            )
        return data

    def rows(self, rows: slice | np.ndarray) -> FieldData:
        """Some of the samples, with all that belongs to them."""
        parts = {name: getattr(self, name) for name in PER_SAMPLE}
        return replace(self, **{name: part[rows] for name, part in parts.items() if part is not None})

    def first(self, n: int) -> FieldData:
        """The first n samples."""
        return self.rows(slice(n))

    def to_xarray(self) -> xr.Dataset:
        """One variable per channel on dims ("sample", *grid.dims), with coordinates, units and boundaries.

        Further parts carry the attribute `role`: fields of the condition ("condition", named `given.NAME`), its numbers
        ("condition", coordinates `number.NAME`), the class ("class", `class.NAME`), and `observed.NAME` ("observed").
        """
        # Only here: field_arrays makes this class, and this is for the reader who looks for the way there.
        from physdiff.data.field_arrays import to_xarray

        return to_xarray(self)

    @classmethod
    def from_xarray(
        cls,
        ds: xr.Dataset,
        grid: Grid | None = None,
        names: Sequence[str] | None = None,
        boundary: str | Sequence[str] | None = None,
        source: str | None = None,
    ) -> FieldData:
        """Samples in a data set as `to_xarray` makes it.

        Args:
            ds: Variables on "sample" and the axes of one grid, in any order of dims. `trajectory` and `time`
                are optional coordinates on "sample"; without them each sample is a run of its own, at time 0.
            grid: The grid, when the data set does not tell; its coordinates must agree.
            names: Variables to take, in this order; every one that has a spatial dim when not given.
            boundary: Boundary of every axis, or of each, when neither `grid` nor the data set tells.
            source: What error messages call the data set.

        Raises:
            ValueError: a variable, dim or boundary is missing, the cells are not equally spaced, or a value
                is not finite.
        """
        from physdiff.data.field_arrays import from_xarray

        return from_xarray(ds, grid, names, boundary, source)


# Parts with one entry for each sample.
PER_SAMPLE = ("values", "trajectory", "time", "given", "scalars", "classes", "observed")


def concatenate(parts: Iterable[FieldData], source: str) -> FieldData:
    """The samples of several files as one, with trajectories renumbered to stay unique.

    Raises:
        ValueError: the files differ in grid, names, units or what the samples are conditioned on.
    """
    parts = list(parts)
    first, offset, trajectories = parts[0], 0, []
    for part in parts:
        for word, here, there in (
            ("grid", part.grid.describe(), first.grid.describe()),
            ("origin", rounded(part.grid.origin), rounded(first.grid.origin)),
            ("fields", part.names, first.names),
            ("units", part.units, first.units),
            ("the condition", _condition(part), _condition(first)),
        ):
            if here != there:
                raise ValueError(f"files disagree: {part.source} has {word} {here}, {first.source} has {there}.")
        trajectories.append(part.trajectory + offset)
        offset += int(part.trajectory.max(initial=-1)) + 1
    joined: dict[str, Any] = {"trajectory": np.concatenate(trajectories), "source": source}
    for name in PER_SAMPLE:
        if name == "observed" and any(part.observed is not None for part in parts):
            seen = [np.ones(p.values.shape, dtype=bool) if p.observed is None else p.observed for p in parts]
            joined[name] = np.concatenate(seen)
        elif name != "trajectory" and getattr(first, name) is not None:
            joined[name] = np.concatenate([getattr(part, name) for part in parts])
    return replace(first, **joined)


def _condition(data: FieldData) -> tuple[tuple[str, ...], ...]:
    classes = () if data.classes is None else (data.class_name or "class",)
    return data.given_names, data.given_units, data.scalar_names, classes
