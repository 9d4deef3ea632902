"""Whether components of a vector belong to the axes that they are said to lie along: what an incompressible flow tells.

Such a flow has no divergence, and neither has a magnetic field. If one has it as it was described, and would have none
with two components exchanged, or with one against its axis, as where rows of an image run downwards, the description
is most likely wrong. Of other vectors nothing can be told.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from physdiff.data.amplification import amplification
from physdiff.data.source import TIME, TRAJECTORY, Source, Variable
from physdiff.grid import Grid

_FRAMES = 2
_FEWEST = 6  # cells along each axis
_MOST_CELLS, _MOST_READ = 2**22, 2**28
_LARGE, _SMALL = 0.5, 0.1  # divergence against the root of the sum of squares of its terms
_PRESENT = 0.25  # of such a root against the one that was described


def doubtful_components(source: Source, fields: Sequence[Variable]) -> list[str]:
    """A sentence for each vector that would be free of divergence if it were described otherwise.

    Args:
        source: The file; a frame of its first run and one of its last are read.
        fields: Components among others.
    """
    grid, found = source.grid, []
    if grid.ndim not in (2, 3) or min(grid.shape) < _FEWEST or math.prod(grid.shape) > _MOST_CELLS:
        return []
    for vector in dict.fromkeys(v.parent for v in fields if len(v.component) == 1):
        parts = {v.component[0]: v for v in fields if v.parent == vector}
        if set(parts) != set(range(grid.ndim)):
            continue
        said = [_better(slopes) for slopes in _slopes(source, [parts[a] for a in range(grid.ndim)])]
        if said and said[0] is not None and all(one == said[0] for one in said):
            order, signs = said[0]
            along = ", ".join(
                f"{'-' * (sign < 0)}{parts[part].name} along {dim}"
                for dim, part, sign in zip(grid.dims, order, signs, strict=True)
            )
            found.append(
                f"'{vector}' has a divergence by its components and axes, and would have none with {along}: see that "
                "dims=, vectors= and the direction of the axes (--data.layout.dims, .vectors, .coordinates) are right, "
                "for flips and rotations go by them"
            )
    return found


def _better(slopes: np.ndarray) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Which component should lie along each axis, and with which sign; None where the description stands.

    Args:
        slopes: Of component i along axis j, shape (d, d, cells).
    """
    d = len(slopes)
    axes = tuple(range(d))
    size = np.sqrt((slopes**2).mean(-1))
    whole = math.sqrt((np.diag(size) ** 2).sum())
    if not 0 < whole < math.inf or _divergence(slopes, axes, (1,) * d) < _LARGE * whole:
        return None
    # Exchanged and turned as well, a field without curl has no divergence: that is not tried.
    other = [(axes, signs) for signs in itertools.product((1, -1), repeat=d) if 0 < sum(s < 0 for s in signs) <= d / 2]
    other = other[: len(other) // 2] if d == 2 else other
    other += [(order, (1,) * d) for order in itertools.permutations(axes) if order != axes]
    for order, signs in other:
        terms = math.sqrt(sum(size[part, axis] ** 2 for axis, part in enumerate(order)))
        # Terms that are all but zero have a sum that is, as those of a flow along one axis.
        if terms > _PRESENT * whole and _divergence(slopes, order, signs) < _SMALL * terms:
            return order, signs
    return None


def _divergence(slopes: np.ndarray, order: Sequence[int], signs: Sequence[int]) -> float:
    terms = [sign * slopes[part, axis] for axis, (part, sign) in enumerate(zip(order, signs, strict=True))]
    return float(np.sqrt((np.sum(terms, axis=0) ** 2).mean()))


def _slopes(source: Source, parts: Sequence[Variable]) -> Iterator[np.ndarray]:
    """Slopes of each component along each axis inside the box, of frames without gaps."""
    grid = source.grid
    inside = tuple(slice(1, -1) for _ in grid.dims)
    for share in range(_FRAMES):
        frames = []
        for part in parts:
            sizes = part.view.sizes
            if not set(grid.dims) <= set(sizes) or amplification(part.view).read > _MOST_READ:
                return
            at = {dim: (sizes[dim] - 1) * share for dim in (TRAJECTORY, TIME) if dim in sizes}
            frames.append(part.view.read(grid.dims, at).astype(np.float64))
        if all(np.isfinite(f).all() for f in frames):
            along = [[_slope(f, grid, axis)[inside] for axis in range(grid.ndim)] for f in frames]
            yield np.array(along).reshape(len(parts), grid.ndim, -1)


def _slope(f: np.ndarray, grid: Grid, axis: int) -> np.ndarray:
    """Derivative along an axis: by modes where it is periodic, as coarse flows of spectral solvers ask for."""
    if grid.boundary[axis] != "periodic":
        return np.gradient(f, grid.spacing[axis], axis=axis)
    n = grid.shape[axis]
    waves = 2j * np.pi * np.fft.rfftfreq(n, grid.spacing[axis])
    waves[-1] *= n % 2  # the wave of two cells has no slope at their centres
    shape = [1] * f.ndim
    shape[axis] = len(waves)
    return np.fft.irfft(np.fft.rfft(f, axis=axis) * waves.reshape(shape), n, axis)
