r"""Count, mean, spread and range of numbers that come in blocks, without a second look at any of them.

The moments of two parts join exactly (Chan, Golub and LeVeque, 1983, eq. 2.1),

    δ = m_b − m_a,    m = m_a + δ n_b/n,    S = S_a + S_b + δ² n_a n_b/n,

so that neither a large mean nor a long file costs digits: sums of squares, which cancel, are never formed. Means are
kept as distances from that of the first block, since between two means of 1e8 ± 1 only eight digits of δ would be left.
Blocks are joined in the order in which they come; the same blocks in the same order give the same bits.
"""

from __future__ import annotations

import numpy as np


class Moments:
    """Moments of blocks of numbers, one set per entry.

    Args:
        shape: Shape of the entries that are kept apart: (channels,), or (channels, *grid) for one set per mode.

    Attributes:
        count: Numbers that were taken in, shape as asked, int64.
        squares: Sum of their squared deviations from the mean, float64.
        low: The least, inf where there is none.
        high: The greatest, −inf where there is none.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.count = np.zeros(shape, np.int64)
        self._pivot, self._offset = np.zeros(shape), np.zeros(shape)
        self.squares = np.zeros(shape)
        self.low = np.full(shape, np.inf)
        self.high = np.full(shape, -np.inf)

    def add(self, values: np.ndarray, where: np.ndarray | None = None) -> None:
        """Take a block in.

        Args:
            values: Shape (*shape, numbers), float64, or (*shape, 0).
            where: Which of them count, boolean, shape as values; all when not given.
        """
        # Of numbers beyond 1e154 the squares are infinite, which the spread then tells.
        with np.errstate(over="ignore", invalid="ignore"):
            self._add(values, where)

    def _add(self, values: np.ndarray, where: np.ndarray | None) -> None:
        count = np.full(self.count.shape, values.shape[-1]) if where is None else np.count_nonzero(where, axis=-1)
        counted = np.maximum(count, 1)
        if where is not None:
            values = np.where(where, values, 0.0)
        self._pivot = np.where((self.count == 0) & (count > 0), values.sum(-1) / counted, self._pivot)
        shifted = values - self._pivot[..., None]
        if where is not None:
            shifted = np.where(where, shifted, 0.0)
        offset = shifted.sum(-1) / counted
        deviation = shifted - offset[..., None]
        if where is not None:
            deviation = np.where(where, deviation, 0.0)
        # What rounding left of the offset is the mean of the deviations (Chan et al., eq. 1.7).
        rest = deviation.sum(-1) / counted
        squares = np.square(deviation).sum(-1) - counted * rest**2
        if values.shape[-1]:
            least, most = (values, values) if where is None else (np.where(where, values, s) for s in (np.inf, -np.inf))
            np.minimum(self.low, least.min(-1), out=self.low)
            np.maximum(self.high, most.max(-1), out=self.high)
        self._join(count, offset + rest, np.maximum(squares, 0.0))  # equal numbers leave a rounding, maybe below 0

    def _join(self, count: np.ndarray, offset: np.ndarray, squares: np.ndarray) -> None:
        total = self.count + count
        share = count / np.maximum(total, 1)
        shift = np.where(count > 0, offset - self._offset, 0.0)
        self.squares += squares * (count > 0) + shift**2 * (self.count * share)
        self._offset = self._offset + shift * share
        self.count = total

    @property
    def mean(self) -> np.ndarray:
        """Mean, float64; 0 where there is no number."""
        return self._pivot + self._offset

    @property
    def variance(self) -> np.ndarray:
        """Mean squared deviation from the mean, the sum divided by the count; NaN where there is no number."""
        return np.where(self.count > 0, self.squares / np.maximum(self.count, 1), np.nan)

    @property
    def std(self) -> np.ndarray:
        """Standard deviation, the sum divided by the count; NaN where there is no number."""
        return np.sqrt(self.variance)

    @property
    def rms(self) -> np.ndarray:
        """Root mean square; NaN where there is no number."""
        with np.errstate(over="ignore"):
            return np.sqrt(self.variance + self.mean**2)
