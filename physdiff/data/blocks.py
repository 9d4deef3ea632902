"""Blocks of frames of several variables, each stored array read once: what `FieldSet` is made of.

Components of a vector that lie side by side in one array come with one read. Values pass here from a file into the
package, so here is where they are looked at: a number that is not finite is refused by name, or is a cell that is not
observed; then cells are coarsened.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from physdiff.data.asked import Asked, squared
from physdiff.data.coarsening import block_mean, spectral
from physdiff.data.region import Region
from physdiff.data.source import TIME, TRAJECTORY, Source, Variable
from physdiff.data.stored import same_storage
from physdiff.data.view import View

KEPT = 32 * 2**20  # bytes of a field that all runs and frames share which are kept in memory
FEW = 4  # components; of so many, reading all of an array is cheaper than picking one from between the others


class Piece:
    """Variables that one read of an array gives.

    Args:
        view: The array; the axes of the components that differ are seen.
        dims: Axes of the grid.
        components: Axes along which the variables lie.
        variables: Which of the asked ones these are.
        picks: Number of each along all its component axes, counted with the last fastest.

    Attributes:
        has_time: Whether there is a value for each frame.
        is_shared: Whether all runs and frames have the same.
        is_as_stored: Whether it is one variable with its axes in stored order, so that frames can be read into place.
    """

    def __init__(
        self,
        view: View,
        dims: tuple[str, ...],
        components: tuple[str, ...],
        variables: tuple[int, ...],
        picks: tuple[int, ...],
    ) -> None:
        self.view, self.variables, self.picks = view, variables, picks
        self.has_time = TIME in view.sizes
        self.is_shared = not self.has_time and TRAJECTORY not in view.sizes
        self._dims, self._order = dims, (TIME, *components, *dims)
        self._count = int(np.prod([view.sizes[c] for c in components], dtype=np.int64))
        # Where every axis is there and none runs backwards, the key is filled in here: a tenth of the time of a view.
        self._is_plain = self.has_time and not view.reversed and set(dims) <= set(view.sizes)
        self._key: list[int | slice] = [view.fixed.get(dim, slice(None)) for dim in view.dims]
        self._place = {dim: i for i, dim in enumerate(view.dims)}
        left = [dim for dim in view.dims if dim not in view.fixed and dim != TRAJECTORY]
        axes = [left.index(dim) for dim in self._order if dim in left]
        self._axes = None if axes == sorted(axes) else axes
        self.is_as_stored = self._is_plain and self._axes is None and not components
        self._into = getattr(view.array, "read_into", None)
        self._windows = getattr(view.array, "read_windows", None)
        self._run, self._when = self._place.get(TRAJECTORY), self._place.get(TIME)
        self._asked: dict[tuple[int, int], Asked] = {}

    def read(self, run: int, when: slice, cells: Mapping[str, slice] | None) -> np.ndarray:
        """Stored values, shape (frames, components, *cells); one frame, or cell along an axis, where it is constant."""
        if not self._is_plain:
            return self._read_view(run, when, cells)
        values = self.view.array.read(self._part(run, when, cells))
        if self._axes is not None:
            values = values.transpose(self._axes)
        return values.reshape(values.shape[0], self._count, *values.shape[values.ndim - len(self._dims) :])

    def read_into(self, out: np.ndarray, run: int, when: slice, cells: Mapping[str, slice] | None) -> None:
        """Stored values where `is_as_stored`, put into an array of shape (frames, *cells)."""
        key = self._part(run, when, cells)
        if self._into is None or not self._into(key, out):
            out[...] = self.view.array.read(key)

    def read_windows(
        self, out: Sequence[np.ndarray], runs: Sequence[int], starts: Sequence[int], step: int,
        cells: Mapping[str, slice] | None,
    ) -> float:  # fmt: skip
        """Windows of values where `is_as_stored`, each put into an array of shape (frames, *cells); sum of squares."""
        if self._windows is None:
            for place, run, start in zip(out, runs, starts, strict=True):
                self.read_into(place, run, slice(start, start + (len(place) - 1) * step + 1, step), cells)
            return sum(map(squared, out))
        asked = self._asked.get((len(out[0]), step)) if cells is None else None
        if asked is None:
            assert self._when is not None
            asked = Asked(self._part(0, slice(0), cells), self._run, self._when, len(out[0]), step)
            if cells is None:
                self._asked[len(out[0]), step] = asked
        return self._windows(asked, runs, starts, out)

    def _part(self, run: int, when: slice, cells: Mapping[str, slice] | None) -> tuple[int | slice, ...]:
        key = self._key.copy()
        if self._run is not None:
            key[self._run] = run
        assert self._when is not None
        key[self._when] = when
        if cells is not None:
            for dim, chosen in cells.items():
                key[self._place[dim]] = chosen
        return tuple(key)

    def _read_view(self, run: int, when: slice, cells: Mapping[str, slice] | None) -> np.ndarray:
        where: dict[str, Any] = {TRAJECTORY: run, TIME: when, **(cells or {})}
        values = self.view.read(self._order, where)
        sizes = self.view.sizes
        shape, axis = [values.shape[0] if self.has_time else 1, self._count], len(values.shape)
        grid: list[int] = []
        for dim in reversed(self._dims):
            axis -= dim in sizes
            grid.append(values.shape[axis] if dim in sizes else 1)
        return values.reshape(*shape, *reversed(grid))


def pieces_of(source: Source, variables: Sequence[Variable]) -> tuple[Piece, ...]:
    """Variables of a file, as few reads as there are arrays."""
    pieces: list[Piece] = []
    left = list(range(len(variables)))
    while left:
        view = variables[left[0]].view
        together = [
            i
            for i in left
            if variables[i].view.dims == view.dims
            and variables[i].view.reversed == view.reversed
            and variables[i].view.fixed.keys() == view.fixed.keys()
            and same_storage([view.array, variables[i].view.array])
        ]
        left = [i for i in left if i not in together]
        sizes = view.stored_sizes
        inner = tuple(dim for dim in view.dims if dim in view.fixed)
        total = int(np.prod([sizes[dim] for dim in inner], dtype=np.int64))
        if inner and total <= max(FEW, 2 * len(together)) and not set(inner) & {TRAJECTORY, TIME, *source.grid.dims}:
            picks = tuple(
                int(np.ravel_multi_index([variables[i].view.fixed[d] for d in inner], [sizes[d] for d in inner]))
                for i in together
            )
            pieces.append(Piece(replace(view, fixed={}), source.grid.dims, inner, tuple(together), picks))
        else:
            pieces += [Piece(variables[i].view, source.grid.dims, (), (i,), (0,)) for i in together]
    return tuple(pieces)


@dataclass(frozen=True)
class Target:
    """Where frames of a block go.

    Attributes:
        values: Shape (n, variables, frames, *grid).
        first: Which frame of a window is its first.
    """

    values: np.ndarray
    first: int = 0


class BlockReader:
    """Frames of some variables of one file, on the part of the grid that is asked for.

    Args:
        source: The file.
        variables: What is read.
        region: The part of the grid.
        dtype: Type of the values.
        mask: "nan", or the variable that is not 0 where cells hold values; None if all must.
        masks: Whether values outside the mask become NaN; else they are only allowed to be.

    Attributes:
        frame_bytes: Size of a frame of all variables.
        is_direct: Whether frames can be read into place as they are stored.
    """

    def __init__(
        self,
        source: Source,
        variables: Sequence[Variable],
        region: Region,
        dtype: np.dtype,
        mask: str | Variable | None,
        masks: bool = True,
    ) -> None:
        self.source, self.variables, self.region, self.dtype = source, tuple(variables), region, dtype
        self.pieces = pieces_of(source, variables)
        self._allows_nan, self._masks = mask is not None, masks
        self._mask = pieces_of(source, [mask])[0] if isinstance(mask, Variable) else None
        self._kept: dict[int, np.ndarray] = {}
        # What a frame takes while it is worked on.
        self.frame_bytes = math.prod(region.fine.shape) * dtype.itemsize * max(1, len(self.variables))
        self.is_direct = (
            mask is None
            and not region.is_coarsened
            and all(p.is_as_stored and p.view.array.dtype in (np.float32, np.float64) for p in self.pieces)
        )

    def fill(
        self, targets: Sequence[Target], rows: Sequence[int], offsets: Sequence[int], run: int, when: slice, step: int,
        patch: int,
    ) -> None:  # fmt: skip
        """Read stored frames and put windows of them into their places.

        Args:
            targets: Where values go.
            rows: Row of `targets` for each window.
            offsets: Frame of the block with which each window begins.
            run: Trajectory in the file.
            when: Stored frames of the block.
            step: Frames of the block from one of a window to the next.
            patch: Number of the patch.
        """
        for number, piece in enumerate(self.pieces):
            block = self._block(number, piece, run, when, patch)
            changes = piece.has_time or (self._masks and self._mask is not None and self._mask.has_time)
            for target in targets:
                values, count = target.values, target.values.shape[2]
                for row, offset in zip(rows, offsets, strict=True):
                    if changes:
                        begin = offset + target.first * step
                        window = block[begin : begin + (count - 1) * step + 1 : step]
                    else:
                        window = block
                    for variable, pick in zip(piece.variables, piece.picks, strict=True):
                        values[row, variable] = window[:, pick]

    def read_windows(
        self, out: np.ndarray, rows: Sequence[int], runs: Sequence[int], starts: Sequence[int], step: int, patch: int
    ) -> bool:
        """Put windows into rows of an array of shape (n, variables, frames, *grid), where `is_direct`.

        Returns:
            Whether all values are finite for sure; else they must be looked at.
        """
        cells = None if self.region.is_whole else self.region.cells(patch)
        squares = 0.0
        with np.errstate(over="ignore", invalid="ignore"):
            for piece in self.pieces:
                places = [out[row, piece.variables[0]] for row in rows]
                squares += piece.read_windows(places, runs, starts, step, cells)
        return math.isfinite(squares)

    def read_window(self, out: np.ndarray, run: int, when: slice, patch: int) -> None:
        """Put frames into an array of shape (variables, frames, *grid), where `is_direct`; not looked at."""
        cells = None if self.region.is_whole else self.region.cells(patch)
        for piece in self.pieces:
            piece.read_into(out[piece.variables[0]], run, when, cells)

    def _block(self, number: int, piece: Piece, run: int, when: slice, patch: int) -> np.ndarray:
        """Values as samples hold them, shape (frames, components, *grid), or 1 where constant."""
        if number in self._kept:
            return self._kept[number]
        cells = None if self.region.is_whole else self.region.cells(patch)
        block = piece.read(run, when, cells)
        if block.dtype.kind == "f" and not is_finite(block):
            wrong = np.isinf(block) if self._allows_nan else ~np.isfinite(block)
            self._refuse_first(wrong, piece, block, run, when, patch)
        if self._mask is not None:
            seen = self._mask.read(run, when, cells)[:, list(self._mask.picks)]
            self._require_mask(seen)
            block = self._masked(piece, block, seen != 0, run, when, patch)
        if self.region.is_coarsened:
            block = np.broadcast_to(block, (*block.shape[:2], *self.region.fine.shape)).astype(self.dtype, copy=False)
            if self.region.coarsening == "mean":
                block = block_mean(block, self.region.factors)
            else:
                block = spectral(block, self.region.fine.boundary, self.region.factors)
        if piece.is_shared and self._mask is None and self.region.count == 1 and block.nbytes <= KEPT:
            self._kept[number] = block
        return block

    def _masked(
        self, piece: Piece, block: np.ndarray, seen: np.ndarray, run: int, when: slice, patch: int
    ) -> np.ndarray:
        if block.dtype.kind == "f":
            # What does not change must be there in the cells that are observed in any frame.
            ever = seen if len(seen) in (1, len(block)) else seen.any(axis=0, keepdims=True)
            self._refuse_first(np.isnan(block) & ever, piece, block, run, when, patch)
        return np.where(seen, block, np.nan).astype(self.dtype, copy=False) if self._masks else block

    def _require_mask(self, seen: np.ndarray) -> None:
        if seen.dtype.kind == "f" and not np.isfinite(seen).all():
            assert self._mask is not None
            raise ValueError(
                f"{self._mask.view.label} is the mask and holds values that are not finite; expected 0 where cells "
                "hold no value."
            )

    def _refuse_first(
        self, wrong: np.ndarray, piece: Piece, block: np.ndarray, run: int, when: slice, patch: int
    ) -> None:
        """Raise for the first of the wrong values, if there is one; its place is told as the file counts."""
        # Components that were only read along with others are not looked at.
        picked = wrong[:, list(piece.picks)]
        if not picked.any():
            return
        frame, place, *cell = (int(i) for i in np.argwhere(picked)[0])
        value = block[frame, piece.picks[place], *cell]
        if np.isinf(value):
            advice = "no option takes an infinite value"
        elif self._allows_nan:
            advice = "the mask says that it is observed; data.mask nan takes what is missing from the values"
        else:
            advice = "masked or missing values are read with data.mask nan"
        first = self.region.first_cell(patch)
        stored = when.start + frame * (when.step or 1)
        raise ValueError(
            f"{self.source.path}: field '{self.variables[piece.variables[place]].name}' holds {value} at trajectory "
            f"{run}, frame {stored}, cell {tuple(i + j for i, j in zip(cell, first, strict=True))}; {advice}."
        )


def is_finite(block: np.ndarray) -> bool:
    """Whether every value is; the sum of squares tells it in a third of the time, unless it is too large itself."""
    if block.dtype in (np.float32, np.float64):
        flat = block.reshape(-1)
        with np.errstate(over="ignore", invalid="ignore"):
            total = np.dot(flat, flat)
        if np.isfinite(total):
            return True
    return bool(np.isfinite(block).all())
