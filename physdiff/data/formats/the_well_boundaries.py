"""Boundary conditions of The Well's schema: groups that say what stands where.

    /boundary_conditions/<any name>
        @associated_dims  the axes along which it stands; `mask` has one entry per cell along each of them
        @bc_type          WALL | OPEN | PERIODIC
        mask              true on cells at which the condition holds

A group on one axis is about its two ends. Files whose mask is false everywhere (the peer's own dummy file is one) mean
both. A group on all axes whose mask is true away from the faces is an obstacle within the box. OPEN is no boundary that
a basis of fields has, and a clamped wall has no code: `the_well_writer` says WALL and keeps the word beside the
coordinates, in `grid_boundary` (see `physdiff.data.axes`).
"""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np

from physdiff.data.containment import is_dataset
from physdiff.data.formats.members import few, groups_in
from physdiff.data.formats.the_well_parts import flag, members, numbers, texts
from physdiff.grid import Grid

_MOST_CELLS = 2**31  # of a mask, one byte each
_BOUNDARY_OF_CODE = {"PERIODIC": "periodic", "WALL": "neumann"}


def side_of_axis(file: h5py.File, dim: str, cells: int) -> str:
    """Boundary of one axis as the file's groups tell it.

    Raises:
        ValueError: it is none that a grid knows, or not that of both ends; the option that settles it is named.
    """
    lower: set[str] = set()
    upper: set[str] = set()
    for group in groups_in(members(file, "boundary_conditions")):
        dims, mask = _dims(group), _mask(group)
        if dim not in dims or _marks_the_inside(group):
            continue
        at_lower, at_upper = True, True
        if mask is not None and mask.shape[dims.index(dim)] == cells and mask.any():
            along = np.atleast_1d(mask.any(axis=tuple(i for i in range(mask.ndim) if i != dims.index(dim))))
            at_lower, at_upper = bool(along[0]), bool(along[-1])
        # What is periodic at one end is so at the other.
        both = _code(group) == "PERIODIC"
        lower |= {_code(group)} if at_lower or both else set()
        upper |= {_code(group)} if at_upper or both else set()
    if lower == upper and len(lower) == 1 and lower <= set(_BOUNDARY_OF_CODE):
        return _BOUNDARY_OF_CODE[lower.pop()]
    at_ends = [", ".join(sorted(codes)) or "none" for codes in (lower, upper)]
    found = at_ends[0] if lower == upper else f"{at_ends[0]} at its lower end and {at_ends[1]} at its upper"
    raise ValueError(
        f"{file.filename}: dimension '{dim}' has boundary condition {found}; physdiff knows PERIODIC and WALL: "
        "pass boundary= (--data.layout.boundary) 'periodic', 'neumann' or 'dirichlet' to say what stands for it."
    )


def obstacles(file: h5py.File, grid: Grid) -> np.ndarray | None:
    """Cells inside the box at which a wall stands, boolean, shape of the grid; None where there is no such mask.

    Only walls on all axes that neither vary between runs nor in time, and whose mask has the grid's shape: nothing else
    is a mask of the file's cells.
    """
    found = np.zeros(grid.shape, dtype=bool)
    for group in groups_in(members(file, "boundary_conditions")):
        dims, mask = _dims(group), _mask(group)
        if mask is None or sorted(dims) != sorted(grid.dims) or not _marks_the_inside(group):
            continue
        mask = mask.transpose([dims.index(dim) for dim in grid.dims])
        if not _varies(group) and _code(group) == "WALL" and mask.shape == grid.shape:
            found |= mask
    return found if found.any() else None


def _marks_the_inside(group: Any) -> bool:
    """Whether a condition on more than one axis holds away from the faces of the box, or moves."""
    axes, mask = len(_dims(group)), _mask(group)
    if axes < 2:
        return False
    return _varies(group) or (mask is not None and bool(mask[(slice(1, -1),) * axes].any()))


def _varies(group: Any) -> bool:
    return flag(group, "sample_varying", False) or flag(group, "time_varying", False)


def _code(group: Any) -> str:
    return ", ".join(texts(group.attrs.get("bc_type", "none"))).upper()


def _dims(group: Any) -> list[str]:
    return texts(group.attrs.get("associated_dims", []))


def _mask(group: Any) -> np.ndarray | None:
    if not is_dataset(group, "mask"):
        return None
    stored = numbers(group, "mask")
    return few(stored, _MOST_CELLS) != 0 if stored.ndim == len(_dims(group)) else None
