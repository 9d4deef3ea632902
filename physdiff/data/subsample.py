r"""A fixed number of values out of a stream of known length, for what needs values and not sums: quantiles, exponents.

The stream is cut into equal strata and one position is drawn in each, so that every stretch of the data is there. The
share of drawn values below the p-quantile of all has a standard error of at most √(p(1 − p)/m): 0.14% at the median
for m = 2¹⁷. A stream of at most m values is kept whole, and its quantiles are exact. What is drawn depends on the seed
and the two lengths alone.
"""

from __future__ import annotations

import math

import numpy as np

MOST = 2**17


class Subsample:
    """Values at drawn positions of a stream.

    Args:
        length: Length of the stream, per channel.
        channels: Streams of that length, drawn from at the same positions.
        most: Values that are kept of each, m.
    """

    def __init__(self, length: int, channels: int, most: int = MOST) -> None:
        self.positions = strata(length, most)
        self._parts: list[list[np.ndarray]] = [[] for _ in range(channels)]
        self._before = 0

    def add(self, values: np.ndarray, where: np.ndarray | None = None) -> None:
        """Take the next stretch of the streams in, shape (channels, numbers); `where` says which count."""
        first, last = np.searchsorted(self.positions, (self._before, self._before + values.shape[1]))
        here = self.positions[first:last] - self._before
        for c, part in enumerate(self._parts):
            drawn = values[c, here]
            part.append(drawn if where is None else drawn[where[c, here]])
        self._before += values.shape[1]

    def values(self, channel: int) -> np.ndarray:
        """What was drawn from one stream, sorted."""
        return np.sort(np.concatenate([*self._parts[channel], np.empty(0)]))


def rank_error(p: float, drawn: int, count: int) -> float:
    """Standard error of the share of all values that lies below the drawn p-quantile; 0 where all were drawn."""
    return 0.0 if drawn >= count else math.sqrt(p * (1 - p) / max(drawn, 1))


def strata(length: int, most: int) -> np.ndarray:
    """Positions in a stream, ascending: one drawn in each of `most` equal stretches; all where these are no more."""
    if length <= most:
        return np.arange(length)
    # i·length/m in whole numbers, since a float64 edge of a stratum is off by more than one beyond 2⁵³.
    whole, rest = divmod(length, most)
    i = np.arange(most + 1)
    edges = i * whole + i * rest // most
    # The draw of a Philox generator is the same on every machine.
    uniform = np.random.Generator(np.random.Philox(key=[length, most])).random(most)
    sizes = np.diff(edges)
    return edges[:-1] + np.minimum((uniform * sizes).astype(np.int64), sizes - 1)
