"""Where a field lives: what every domain tells (`Domain`), and the regular box of cells (`Grid`).

On a grid each axis has a boundary condition. Values sit at cell centres, x_i = origin + (i + ½)·spacing, on every axis
and under every boundary, so that one array serves periodic, insulated and clamped sides alike and a refined grid covers
the same box.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Protocol, Self, TypeVar, get_args

import numpy as np

Boundary = Literal["periodic", "neumann", "dirichlet"]


class Domain(Protocol):
    """What processes, laws of data and solvers ask of the place where fields live: a grid, a graph, a sphere.

    Cells need not be equal. A field that is handed to a basis carries the square root of each cell's share of volume,
    x = √(v/v̄)·f; then sums over cells are integrals, and independent cells are white noise in space. On a grid v = v̄
    and x is the field itself.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the values of one field."""
        ...

    @property
    def ndim(self) -> int:
        """Number of axes of the values."""
        ...

    @property
    def size(self) -> int:
        """Number of cells."""
        ...

    @property
    def dimension(self) -> float:
        """d of the space: a field of smoothness ν has the spectrum (κ² + λ)^−(ν + d/2)."""
        ...

    @property
    def extent(self) -> tuple[float, ...]:
        """Lengths, one per axis; they set default correlation lengths."""
        ...

    @property
    def cell_volume(self) -> float:
        """v̄: mean volume of a cell."""
        ...

    @property
    def boundary(self) -> tuple[str, ...]:
        """A word per axis; "periodic" where a wave can travel, and the basis has a derivative."""
        ...

    @property
    def dims(self) -> tuple[str, ...]:
        """Name of each axis."""
        ...

    def resized(self, shape: tuple[int, ...]) -> Self:
        """The same kind of place with another number of cells."""
        ...

    def describe(self) -> str:
        """One line for people."""
        ...


@dataclass(frozen=True)
class Grid:
    """A box of cells.

    Attributes:
        shape: Cells along each axis, at least one each.
        extent: Length of the box along each axis, in `units`.
        boundary: Per axis `"periodic"`, `"neumann"` (insulated wall: zero normal derivative) or
            `"dirichlet"` (clamped wall: zero value). One word stands for all axes.
        dims: Name of each axis; `("x", "y", "z")[:ndim]` when not given.
        units: Unit of length of each axis, `""` if dimensionless. One word stands for all axes.
        origin: Coordinate of the lower face of the box along each axis.

    Raises:
        ValueError: a length, count or boundary does not make a box.
    """

    shape: tuple[int, ...]
    extent: tuple[float, ...]
    boundary: tuple[Boundary, ...]
    dims: tuple[str, ...]
    units: tuple[str, ...]
    origin: tuple[float, ...]

    def __init__(
        self,
        shape: Sequence[int] | int,
        extent: Sequence[float] | float = 1.0,
        boundary: Sequence[str] | str = "periodic",
        dims: Sequence[str] | None = None,
        units: Sequence[str] | str = "",
        origin: Sequence[float] | float = 0.0,
    ) -> None:
        shape = (shape,) if isinstance(shape, int) else tuple(int(n) for n in shape)
        if not shape or min(shape) < 1:
            raise ValueError(f"a grid needs at least one cell along every axis; got shape {shape}.")
        d = len(shape)
        if dims is None:
            dims = ("x", "y", "z")[:d] if d <= 3 else tuple(f"x{i}" for i in range(d))

        def per_axis(name: str, value: Any, scalar: type | tuple[type, ...]) -> tuple[Any, ...]:
            values = (value,) * d if isinstance(value, scalar) else tuple(value)
            if len(values) != d:
                raise ValueError(f"grid of {d} axes was given {len(values)} values of '{name}': {values}.")
            return values

        extent = tuple(float(e) for e in per_axis("extent", extent, (int, float)))
        if not all(math.isfinite(e) and e > 0 for e in extent):
            raise ValueError(f"grid extents must be positive and finite; got {extent}.")
        boundary = per_axis("boundary", boundary, str)
        for word in boundary:
            if word not in get_args(Boundary):
                raise ValueError(f"unknown boundary '{word}'; a grid axis is one of {', '.join(get_args(Boundary))}.")
        dims = per_axis("dims", dims, ())
        if len(set(dims)) != d:
            raise ValueError(f"grid dims must differ from each other; got {dims}.")
        for name, value in (
            ("shape", shape), ("extent", extent), ("boundary", boundary), ("dims", tuple(dims)),
            ("units", per_axis("units", units, str)),
            ("origin", tuple(float(o) for o in per_axis("origin", origin, (int, float)))),
        ):  # fmt: skip
            object.__setattr__(self, name, value)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of cells."""
        return math.prod(self.shape)

    @property
    def dimension(self) -> float:
        """Dimension of the space, one per axis."""
        return self.ndim

    @property
    def spacing(self) -> tuple[float, ...]:
        """Cell width along each axis, in `units`."""
        return tuple(e / n for e, n in zip(self.extent, self.shape, strict=True))

    @property
    def volume(self) -> float:
        """Volume of the box, in `units` to the power `ndim`."""
        return math.prod(self.extent)

    @property
    def cell_volume(self) -> float:
        """Volume of one cell."""
        return self.volume / self.size

    def coordinate(self, axis: int) -> np.ndarray:
        """Cell centres along one axis, shape (n,), float64."""
        return self.origin[axis] + (np.arange(self.shape[axis]) + 0.5) * self.spacing[axis]

    def coordinates(self) -> dict[str, np.ndarray]:
        """Cell centres along every axis, by dim name."""
        return {dim: self.coordinate(axis) for axis, dim in enumerate(self.dims)}

    def refined(self, factor: int) -> Grid:
        """The same box with `factor` times as many cells along each axis."""
        return self.resized(tuple(n * factor for n in self.shape))

    def resized(self, shape: tuple[int, ...]) -> Grid:
        """The same box cut into another number of cells."""
        return replace(self, shape=shape)

    def matches(self, other: Grid) -> bool:
        """Whether both are the same grid; lengths may differ by the rounding of a file's coordinates (1 in 10⁶)."""
        same = all(getattr(self, name) == getattr(other, name) for name in ("shape", "boundary", "dims", "units"))
        lengths = zip((*self.extent, *self.origin), (*other.extent, *other.origin), strict=False)
        scale = max(self.extent)
        return same and all(abs(a - b) <= 1e-6 * scale for a, b in lengths)

    def to_dict(self) -> dict[str, Any]:
        """Plain values from which `Grid(**values)` makes this grid again."""
        return {name: list(value) for name, value in asdict(self).items()}

    def describe(self) -> str:
        """One line for people: `32 (x, periodic, 6.28 m) x 32 (y, periodic, 6.28 m)`."""
        axes = zip(self.shape, self.dims, self.boundary, self.extent, self.units, strict=True)
        return " x ".join(f"{n} ({dim}, {b}, {e:.6g}{' ' + u if u else ''})" for n, dim, b, e, u in axes)


D = TypeVar("D", bound=Domain)


def replace_shape(grid: D, shape: tuple[int, ...]) -> D:
    """The same kind of place with another number of cells."""
    return grid.resized(shape)
