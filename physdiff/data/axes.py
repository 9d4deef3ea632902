"""A grid on disk: one coordinate array per axis, with what the array cannot tell beside it as attributes.

Cell centres x_i = origin + (i + ½)·extent/n fix the spacing but neither the boundary nor, after rounding to
float32, the exact extent. So `axis_attrs` stores `grid_extent`, `grid_origin`, `grid_boundary` and `units`
with each array, and `grid_from_axes` gives the same grid back. Without these attributes the extent follows
from the spacing alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from physdiff.grid import Grid

# Coordinates are often stored as float32 or printed with few digits; a real stretch of the grid is far
# larger.
_SPACING_TOLERANCE = 1e-3


def axis_attrs(grid: Grid, axis: int) -> dict[str, Any]:
    """What the coordinate array of one axis does not tell, as plain attributes."""
    return {
        "units": grid.units[axis],
        "grid_extent": grid.extent[axis],
        "grid_origin": grid.origin[axis],
        "grid_boundary": grid.boundary[axis],
    }


def grid_from_axes(
    axes: Mapping[str, tuple[np.ndarray, Mapping[str, Any]]],
    boundary: str | Sequence[str] | None,
    source: str,
) -> Grid:
    """The grid whose cell centres are given.

    Args:
        axes: Per dim, in order: the cell centres, shape (n,), and their attributes (see `axis_attrs`).
        boundary: Boundary of every axis, or of each; None takes the attribute `grid_boundary`.
        source: What error messages call the data.

    Raises:
        ValueError: cells are not equally spaced, or an axis has no boundary, or its attributes contradict its
            array.
    """
    boxes = [_box(dim, _wide(np.asarray(centres)), attrs, source) for dim, (centres, attrs) in axes.items()]
    if boundary is None:
        boundary = []
        for dim, (_, attrs) in axes.items():
            if "grid_boundary" not in attrs:
                raise ValueError(
                    f"{source}: dimension '{dim}' has no boundary condition; "
                    "pass boundary= 'periodic', 'neumann' or 'dirichlet'."
                )
            boundary.append(text(attrs["grid_boundary"]))
    try:
        return Grid(
            shape=tuple(len(centres) for centres, _ in axes.values()),
            extent=[extent for _, extent in boxes],
            boundary=boundary,
            dims=tuple(axes),
            units=[text(attrs.get("units", "")) for _, attrs in axes.values()],
            origin=[origin for origin, _ in boxes],
        )
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def check_centres(dim: str, centres: np.ndarray, origin: float, extent: float, source: str) -> None:
    """Raise ValueError unless `centres` are the cell centres of the stated side of a box."""
    spacing = extent / len(centres)
    expected = origin + (np.arange(len(centres)) + 0.5) * spacing
    if np.abs(centres.astype(np.float64) - expected).max() > _tolerance(centres, spacing):
        raise ValueError(
            f"{source}: coordinates of dimension '{dim}' run from {centres[0]:.6g} to {centres[-1]:.6g}; "
            f"its origin {origin:.6g} and extent {extent:.6g} ask for {expected[0]:.6g} "
            f"to {expected[-1]:.6g}."
        )


def _box(dim: str, centres: np.ndarray, attrs: Mapping[str, Any], source: str) -> tuple[float, float]:
    if centres.ndim != 1 or centres.size == 0:
        raise ValueError(
            f"{source}: dimension '{dim}' has coordinates of shape {centres.shape}; expected one number per cell, (n,)."
        )
    if "grid_extent" in attrs and "grid_origin" in attrs:
        origin, extent = (_number(dim, name, attrs[name], source) for name in ("grid_origin", "grid_extent"))
        check_centres(dim, centres, origin, extent, source)
        return origin, extent
    if len(centres) == 1:
        raise ValueError(f"{source}: dimension '{dim}' has one cell, so its extent cannot be told from its coordinate.")
    steps = np.diff(centres.astype(np.float64))
    spacing = float(centres[-1] - centres[0]) / (len(centres) - 1)
    # Negated, so that a coordinate that is not a number fails too.
    if not (spacing > 0 and np.abs(steps - spacing).max() <= _tolerance(centres, spacing)):
        raise ValueError(
            f"{source}: cells of dimension '{dim}' must be equally spaced and increasing; "
            f"their spacing runs from {steps.min():.6g} to {steps.max():.6g}."
        )
    return float(centres[0]) - spacing / 2, spacing * len(centres)


def _wide(centres: np.ndarray) -> np.ndarray:
    """Whole numbers as float64: the difference of two of few bits may be none of their type."""
    return centres.astype(np.float64) if centres.dtype.kind in "iu" else centres


def _number(dim: str, name: str, value: Any, source: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not np.isfinite(number):
        raise ValueError(
            f"{source}: dimension '{dim}' has the attribute {name} = {text(value)!r}; expected a finite number."
        )
    return number


def _tolerance(centres: np.ndarray, spacing: float) -> float:
    rounding = np.finfo(centres.dtype).eps if centres.dtype.kind == "f" else 0.0
    return float(_SPACING_TOLERANCE * spacing + 4 * rounding * np.abs(centres).max())


def text(value: Any) -> str:
    """An attribute as one string, whether stored as str, bytes or an array of one of them."""
    if isinstance(value, bytes):
        return value.decode()
    return text(np.ravel(value)[0]) if isinstance(value, np.ndarray | list | tuple) else str(value)
