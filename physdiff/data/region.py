"""Which part of the stored grid a sample is on: a crop, one of several patches, fewer and larger cells."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from physdiff.data.coarsening import coarse_shape
from physdiff.data.selection import Coarsening, Selection
from physdiff.grid import Grid
from physdiff.registry import nearest


@dataclass(frozen=True)
class Region:
    """A part of a grid.

    Attributes:
        grid: Where a sample lives: of a patch, after coarsening. Of several patches it is the box of the first.
        fine: The same before coarsening.
        patches: Patches along each axis.
        corner: First stored cell of the first patch, along each axis.
        stride: Cells from one patch to the next, along each axis.
        factors: Cells along each axis that become one.
        coarsening: How.
        is_whole: Whether it is all of the stored grid.
    """

    grid: Grid
    fine: Grid
    patches: tuple[int, ...]
    corner: tuple[int, ...]
    stride: tuple[int, ...]
    factors: tuple[int, ...]
    coarsening: Coarsening
    is_whole: bool

    @classmethod
    def of(cls, grid: Grid, selection: Selection, source: str) -> Region:
        """The part of a grid that a selection asks for; `source` is what messages call the data.

        Raises:
            ValueError: there is no such axis or cell, a patch or a coarse cell does not fit, or the boundary of an axis
                that is cut was not said.
        """
        crop = selection.crop or {}
        for dim, (_, last) in crop.items():
            if dim not in grid.dims:
                raise ValueError(f"{source}: data.crop names the axis '{dim}'. {nearest(dim, grid.dims)}")
            n = grid.shape[grid.dims.index(dim)]
            if last > n:
                raise ValueError(f"{source}: data.crop of '{dim}' ends at {last}; the axis has {n} cells.")
        first = tuple(crop.get(dim, (0, 0))[0] for dim in grid.dims)
        cropped = tuple(
            crop[dim][1] - crop[dim][0] if dim in crop else n for dim, n in zip(grid.dims, grid.shape, strict=True)
        )
        patch = _per_axis("patch", selection.patch or cropped, grid, source)
        stride = _per_axis("patch_stride", selection.patch_stride or patch, grid, source)
        for dim, size, n in zip(grid.dims, patch, cropped, strict=True):
            if size > n:
                raise ValueError(f"{source}: data.patch has {size} cells along '{dim}'; there are {n}.")
        coarsen = selection.coarsen
        factors = _per_axis("coarsen", (coarsen,) * grid.ndim if isinstance(coarsen, int) else coarsen, grid, source)
        sides = zip(patch, grid.shape, grid.spacing, grid.extent, strict=True)
        fine = Grid(
            patch,
            # The extent itself where nothing is cut: it is to read back exactly.
            [extent if size == n else size * h for size, n, h, extent in sides],
            _boundaries(grid, patch, selection.crop_boundary, source),
            grid.dims,
            grid.units,
            [o + i * h for o, i, h in zip(grid.origin, first, grid.spacing, strict=True)],
        )
        return cls(
            fine.resized(coarse_shape(patch, factors, grid.dims)),
            fine,
            tuple((n - size) // step + 1 for n, size, step in zip(cropped, patch, stride, strict=True)),
            first,
            stride,
            factors,
            selection.coarsening,
            patch == grid.shape and max(factors) == 1,
        )

    @property
    def count(self) -> int:
        """Number of patches."""
        return math.prod(self.patches)

    @property
    def is_coarsened(self) -> bool:
        """Whether cells become one."""
        return max(self.factors) > 1

    def first_cell(self, patch: int) -> tuple[int, ...]:
        """First stored cell of a patch along each axis; patches are counted with the last axis fastest."""
        places = []
        for n, corner, stride in reversed(list(zip(self.patches, self.corner, self.stride, strict=True))):
            patch, place = divmod(patch, n)
            places.append(corner + place * stride)
        return tuple(reversed(places))

    def cells(self, patch: int) -> dict[str, slice]:
        """Stored cells of a patch, by axis."""
        first = self.first_cell(patch)
        return {dim: slice(i, i + n) for dim, i, n in zip(self.fine.dims, first, self.fine.shape, strict=True)}


def _per_axis(name: str, given: tuple[int, ...], grid: Grid, source: str) -> tuple[int, ...]:
    if len(given) != grid.ndim:
        raise ValueError(
            f"{source}: data.{name} has {len(given)} numbers; expected one for each axis of the grid, "
            f"{', '.join(grid.dims)}."
        )
    return tuple(given)


def _boundaries(
    grid: Grid, patch: tuple[int, ...], said: str | Mapping[str, str] | None, source: str
) -> tuple[str, ...]:
    """Boundary of each axis; where one is cut, what was said of it."""
    cut = [dim for dim, size, n in zip(grid.dims, patch, grid.shape, strict=True) if size != n]
    words = {} if said is None else dict.fromkeys(cut, said) if isinstance(said, str) else dict(said)
    for dim in words:
        if dim not in cut:
            raise ValueError(
                f"{source}: data.crop_boundary names '{dim}', which is not cut; cut are {', '.join(cut) or 'none'}."
            )
    found = []
    for dim, boundary in zip(grid.dims, grid.boundary, strict=True):
        if dim in cut and dim not in words and boundary != "neumann":
            what = "is periodic, and a part of it is not" if boundary == "periodic" else "ends at clamped walls"
            also = " or data.layout.boundary" * (boundary == "periodic")
            raise ValueError(
                f"{source}: the axis '{dim}' {what}, so the boundary of the part that is cut from it must be said: "
                f"data.crop_boundary{also}, such as 'neumann' for sides without a rule."
            )
        found.append(words.get(dim, boundary))
    return tuple(found)
