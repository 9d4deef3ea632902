"""Range, mean and gaps of one field of one file, read piece by piece."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from physdiff.data.amplification import amplification
from physdiff.data.source import TIME, TRAJECTORY, Source, Variable
from physdiff.data.view import Where

BUDGET = 2 * 10**8  # bytes that are read of a field when not all of it is asked for
_PIECE = 2**25  # bytes that are held at once


@dataclass(frozen=True)
class ValueRange:
    """What the values of a field are like.

    Attributes:
        low: Smallest finite value; nan if there is none.
        high: Largest.
        mean: Of the finite ones.
        std: Likewise.
        count: Finite values.
        missing: NaN.
        infinite: Infinite ones.
        frames: Frames that were read.
        share: Of all frames.
    """

    low: float
    high: float
    mean: float
    std: float
    count: int
    missing: int
    infinite: int
    frames: int
    share: float


def value_range(source: Source, variable: Variable, budget: int | None = None) -> ValueRange:
    """Read a field, or frames spread evenly over it.

    Args:
        source: The file.
        variable: Which of its fields.
        budget: Bytes, as they must be unpacked, to read at most (a frame at least); None reads everything.
    """
    total = squares = 0.0
    count = missing = infinite = frames = 0
    low, high, shift = math.inf, -math.inf, None
    runs, of = _counts(source, variable)
    of *= runs
    for where in _pieces(source, variable, budget):
        x = variable.view.read((TRAJECTORY, TIME, *source.grid.dims), where).astype(np.float64, copy=False).ravel()
        frames += x.size // max(1, _frame_size(source, variable))
        finite = np.isfinite(x)
        if not finite.all():
            nan = int(np.isnan(x).sum())
            missing, infinite = missing + nan, infinite + x.size - int(finite.sum()) - nan
            x = x[finite]
        if x.size:
            # Sums of differences from the first value: sums of squares cancel where the mean is large.
            shift = float(x[0]) if shift is None else shift
            total, squares = total + float((x - shift).sum()), squares + float(((x - shift) ** 2).sum())
            count, low, high = count + x.size, min(low, float(x.min())), max(high, float(x.max()))
    if shift is None:
        return ValueRange(math.nan, math.nan, math.nan, math.nan, 0, missing, infinite, frames, frames / of)
    mean = total / count
    # The difference is ≥ 0 but for rounding, which a constant field would show.
    std = math.sqrt(max(squares / count - mean**2, 0.0))
    return ValueRange(low, high, shift + mean, std, count, missing, infinite, frames, frames / of)


def _frame_size(source: Source, variable: Variable) -> int:
    return math.prod(n for dim, n in variable.view.sizes.items() if dim not in (TRAJECTORY, TIME))


def _counts(source: Source, variable: Variable) -> tuple[int, int]:
    sizes = variable.view.sizes
    return sizes.get(TRAJECTORY, 1), sizes.get(TIME, 1)


def _chosen(source: Source, variable: Variable, budget: int | None) -> Iterator[tuple[int, range]]:
    """Runs, and the frames of each that are read."""
    runs, frames = _counts(source, variable)
    if budget is None:
        yield from ((run, range(frames)) for run in range(runs))
        return
    cost = amplification(variable.view)
    if cost.factor < 2:
        every = max(1, math.ceil(runs * frames * cost.frame / budget))
        yield from ((run, range((-run * frames) % every, frames, every)) for run in range(runs))
        return
    # Unpacking one frame unpacks its neighbours: the frames of a chunk are read together, or left out.
    together = dict(zip(variable.view.dims, variable.view.array.chunks or (), strict=True)).get(TIME, frames)
    units = -(-frames // together)
    for unit in range(0, runs * units, max(1, math.ceil(runs * units * cost.read / budget))):
        run, first = divmod(unit, units)
        yield run, range(first * together, min(frames, (first + 1) * together))


def _pieces(source: Source, variable: Variable, budget: int | None) -> Iterator[dict[str, Where]]:
    sizes = variable.view.sizes
    some = max(1, _PIECE // max(1, _frame_size(source, variable) * 8))
    for run, chosen in _chosen(source, variable, budget):
        for first in range(0, len(chosen), some):
            part = chosen[first : first + some]
            where: dict[str, Where] = {TIME: slice(part.start, part.stop, part.step)} if TIME in sizes else {}
            if TRAJECTORY in sizes:
                where[TRAJECTORY] = run
            yield where
