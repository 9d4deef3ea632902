"""One-point statistics: how the values of single cells are distributed, whatever their neighbours do.

A field whose modes are independent Gaussians has Gaussian cells: skewness 0, kurtosis 3. Fronts, vortices and plumes
have not. Cells of one field depend on each other, so error bars come from leaving out whole fields (jackknife).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class OnePoint:
    """Distribution of the cell values of one channel.

    Attributes:
        edges: Edges of the bins, in the field's unit, shape (bins + 1,).
        density: Share of all cells per unit of value, shape (bins,); values outside the edges are in no bin.
        mean: Of all cells.
        standard_deviation: Of all cells, > 0.
        skewness: Third standardised moment; 0 for a Gaussian.
        kurtosis: Fourth standardised moment; 3 for a Gaussian.
        skewness_error: Jackknife standard error over fields; nan for a single field.
        kurtosis_error: Jackknife standard error over fields; nan for a single field.
    """

    edges: Array
    density: Array
    mean: float
    standard_deviation: float
    skewness: float
    kurtosis: float
    skewness_error: float
    kurtosis_error: float

    @property
    def centres(self) -> Array:
        """Middle of each bin, shape (bins,)."""
        return 0.5 * (self.edges[1:] + self.edges[:-1])


def common_edges(*sets: Array, bins: int = 48) -> Array:
    """Edges of equal bins that hold every value of all sets, shape (bins + 1,)."""
    low, high = min(float(x.min()) for x in sets), max(float(x.max()) for x in sets)
    return np.linspace(low, high, bins + 1)


def one_point(values: Array, edges: Array) -> OnePoint:
    """Histogram and moments of one channel.

    Args:
        values: Shape (n, *grid), one channel of n fields.
        edges: Increasing edges of the bins; see `common_edges`.

    Raises:
        ValueError: all values are equal, or one is not finite.
    """
    x = np.asarray(values, dtype=np.float64).reshape(len(values), -1)
    if not np.isfinite(x).all() or x.min() == x.max():
        raise ValueError(
            f"one-point statistics need finite values that differ; got {x.size} values "
            f"from {x.min():.6g} to {x.max():.6g}."
        )
    counts, _ = np.histogram(x, edges)
    centre = x.mean()
    # Raw moments about one fixed centre, per field: leaving a field out is then a subtraction.
    powers = np.stack([(x - centre) ** p for p in range(1, 5)]).mean(2)
    left_out = (powers.sum(1, keepdims=True) - powers) / max(len(x) - 1, 1)
    skewness, kurtosis = _standardised(powers.mean(1))
    skewness_error, kurtosis_error = (_jackknife(part) if len(x) > 1 else math.nan for part in _standardised(left_out))
    return OnePoint(
        edges=np.asarray(edges, dtype=np.float64),
        density=counts / (x.size * np.diff(edges)),
        mean=float(centre),
        standard_deviation=float(x.std()),
        skewness=float(skewness),
        kurtosis=float(kurtosis),
        skewness_error=skewness_error,
        kurtosis_error=kurtosis_error,
    )


def _standardised(moments: Array) -> tuple[Array, Array]:
    """Skewness and kurtosis from raw moments of order 1 to 4 (first axis)."""
    m1, m2, m3, m4 = moments
    variance = m2 - m1**2
    third = m3 - 3 * m1 * m2 + 2 * m1**3
    fourth = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
    return third / variance**1.5, fourth / variance**2


def _jackknife(left_out: Array) -> float:
    """Standard error of a statistic from its values with one field left out each."""
    n = len(left_out)
    return math.sqrt((n - 1) / n * float(np.square(left_out - left_out.mean()).sum()))
