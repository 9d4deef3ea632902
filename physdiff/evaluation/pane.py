"""Which two axes of a grid a picture shows, and which of them runs to the right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from physdiff.grid import Grid

_RIGHT = ("x", "lon", "longitude")
_UP = ("y", "lat", "latitude", "z")


@dataclass(frozen=True)
class Pane:
    """A cut through a grid of two or more axes, at the middle cell of every other axis.

    An axis called x or longitude runs to the right and one called y or latitude upwards, in whatever order they are
    stored: a map lies as maps do. Without such names the first axis runs to the right and the second upwards.

    Attributes:
        grid: What is cut.
        across: Index of the axis that runs to the right.
        up: Index of the axis that runs upwards.
    """

    grid: Grid
    across: int
    up: int

    @classmethod
    def of(cls, grid: Grid) -> Pane:
        """The cut that pictures of fields on `grid` show."""
        names = [dim.lower() for dim in grid.dims]
        across = next((names.index(name) for name in _RIGHT if name in names), None)
        up = next((names.index(name) for name in _UP if name in names and names.index(name) != across), None)
        if across is None:
            across = next(axis for axis in range(grid.ndim) if axis != up)
        if up is None:
            up = next(axis for axis in range(grid.ndim) if axis != across)
        return cls(grid, across, up)

    @property
    def size(self) -> tuple[float, float]:
        """Lengths of the box to the right and upwards."""
        return self.grid.extent[self.across], self.grid.extent[self.up]

    @property
    def cuts(self) -> list[tuple[str, int]]:
        """Name of each axis that is cut, and the number of the cell."""
        return [
            (dim, cells // 2)
            for axis, (dim, cells) in enumerate(zip(self.grid.dims, self.grid.shape, strict=True))
            if axis not in (self.across, self.up)
        ]

    def image(self, field: np.ndarray) -> np.ndarray:
        """What stands in the pane of a field of shape `grid.shape`: rows from below, columns from the left."""
        at = tuple(
            slice(None) if axis in (self.across, self.up) else cells // 2 for axis, cells in enumerate(self.grid.shape)
        )
        cut = np.asarray(field)[at]
        return cut if self.up < self.across else cut.T
