"""What speaks against an axis being one of cells: points on both ends of the box, seen in coordinates and in values.

Values sit at cell centres here. Many codes keep points from 0 to L with both ends among them. Along a periodic axis the
last point is then the first again, and between walls the first and the last lie on the walls. No file says so, but its
numbers may.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from physdiff.data.amplification import amplification
from physdiff.data.source import TIME, TRAJECTORY, Source, Variable

_FRAMES = 6  # of a field that are looked at, spread over the runs
_FEWEST = 6  # cells of an axis of which anything is said
_SAME = 1e-6  # of the largest value: what two copies of a number may differ by
_OTHER = 1e-3  # what tells two numbers apart
_MOST_READ = 2**28  # bytes that one frame may cost to unpack


def doubtful_ends(source: Source, fields: Sequence[Variable] | None = None) -> dict[str, str]:
    """Of each axis whose points seem to lie on both ends of the box, what is wrong with that and what to do about it.

    Args:
        source: The file.
        fields: Whose values are looked at, in a few frames; all where not given.
    """
    grid, found = source.grid, {}
    for axis, dim in enumerate(grid.dims):
        n, h, boundary = grid.shape[axis], grid.spacing[axis], grid.boundary[axis]
        if n < _FEWEST:
            continue
        low, high = (grid.origin[axis] + i * h for i in (0.5, n - 0.5))
        ends = [_ends(source, v, dim, n) for v in fields or source.variables] if boundary != "neumann" else []
        seen = [one for one in ends if one.is_telling]
        if boundary == "periodic" and seen and all(one.repeats for one in seen):
            found[dim] = (
                f"the last cell along '{dim}', which is periodic, repeats the first, so that one point counts twice: "
                f"leave it out by data.crop {{{dim}: [0, {n - 1}]}} and data.crop_boundary {{{dim}: periodic}}"
            )
        elif boundary == "dirichlet" and any(one.vanishes for one in seen):
            found[dim] = (
                f"the first and last cells along '{dim}', which is clamped, are 0: these points lie on the walls, "
                "which here stand half a cell beyond the last values; bring the fields to cell centres"
            )
        elif _begins_box(low, high) and h != 1 and _digits(high - low) < _digits(n * h):
            found[dim] = (
                f"the coordinates along '{dim}' run from {low:.6g} to {high:.6g}, as those of points on both ends of a "
                f"box; taken for cell centres they make it {n * h:.6g} long: what it is can be said by extent= "
                "(--data.layout.extent)"
            )
    return found


@dataclass(frozen=True)
class _Ends:
    """What a field's values at the two ends of an axis are like.

    Attributes:
        is_telling: Whether they say anything.
        repeats: Whether the last are the first again.
        vanishes: Whether both are 0, and their neighbours are not.
    """

    is_telling: bool
    repeats: bool
    vanishes: bool


def _ends(source: Source, variable: Variable, dim: str, n: int) -> _Ends:
    repeats, vanishes = [], []
    for first, second, before, last in _planes(source, variable, dim, n):
        scale = max(_largest(second), _largest(before))
        # What is even about the middle has equal ends, but also equal neighbours of them.
        if not 0 < scale < math.inf or _largest(second - before) < _OTHER * scale:
            continue
        with np.errstate(invalid="ignore"):  # infinities
            repeats.append(_largest(first - last) <= _SAME * scale)
        vanishes.append(max(_largest(first), _largest(last)) <= _SAME * scale)
    return _Ends(bool(repeats), all(repeats), all(vanishes))


def _planes(source: Source, variable: Variable, dim: str, n: int) -> Iterator[tuple[np.ndarray, ...]]:
    """The two first and the two last planes of cells across an axis, float64, in a few frames."""
    sizes = variable.view.sizes
    # A word or a flag has no neighbours to differ from; what does not vary along the axis has no ends.
    if variable.view.array.dtype.kind not in "fi" or dim not in sizes or amplification(variable.view).read > _MOST_READ:
        return
    runs, frames = sizes.get(TRAJECTORY, 1), sizes.get(TIME, 1)
    order = [dim, *(other for other in source.grid.dims if other in sizes and other != dim)]
    for place in np.unique(np.linspace(0, runs * frames - 1, _FRAMES).astype(int)):
        run, frame = divmod(int(place), frames)
        at = {name: i for name, i in ((TRAJECTORY, run), (TIME, frame)) if name in sizes}
        low, high = (variable.view.read(order, {**at, dim: part}) for part in (slice(0, 2), slice(n - 2, n)))
        yield tuple(x.astype(np.float64) for x in (*low, *high))


def _largest(x: np.ndarray) -> float:
    """Largest amount; not a number where one is missing, so that nothing is found."""
    return float(np.abs(x).max(initial=0.0))


def _begins_box(low: float, high: float) -> bool:
    """Whether a box is likely to begin or end at these: at 0, or as far on both sides of it."""
    return min(abs(low), abs(high), abs(low + high)) <= 1e-6 * (high - low)


def _digits(length: float) -> int:
    """Digits in which a length was chosen, at most 5; one where it is a few twelfths of π."""
    twelfths = length / math.pi * 12
    if round(twelfths) and abs(twelfths - round(twelfths)) <= 1e-6 * twelfths <= 1e-4:
        return 1
    return next((d for d in range(1, 5) if abs(length - float(f"{length:.{d - 1}e}")) <= 1e-6 * length), 5)
