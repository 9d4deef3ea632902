"""What one variable is like: moments, range, quantiles, change; and the sums of which it is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from physdiff.data.moments import Moments
from physdiff.data.streaming import BLOCK_BYTES, by_channel
from physdiff.data.subsample import Subsample, rank_error
from physdiff.data.windows import Places


@dataclass(frozen=True, eq=False)
class Summary:
    """What one variable is like, in its unit.

    Attributes:
        name: Name of the channel, field or number.
        units: Its unit.
        count: Values that were summed up.
        missing: Values of cells that are not observed.
        not_finite: NaN or infinite values of cells that are; they are in no sum.
        mean: Mean; NaN, as all that follows, where there is no value.
        std: Standard deviation, the sum divided by the count.
        rms: Root mean square.
        low: The least value.
        high: The greatest value.
        change_mean: Mean of the change from one sample of a run to the next, `window_stride` stored frames later; NaN
            where no run has two.
        change_std: Its standard deviation.
        drawn: Some of the values, sorted, which stand for all; see `physdiff.data.subsample`.
    """

    name: str
    units: str
    count: int
    missing: int
    not_finite: int
    mean: float
    std: float
    rms: float
    low: float
    high: float
    change_mean: float
    change_std: float
    drawn: np.ndarray = field(repr=False)

    def quantile(self, p: float) -> float:
        """The value that a share p of the values lies below, p ∈ [0, 1]; its rank is off by about `rank_error(p)`."""
        if not len(self.drawn) or p in (0.0, 1.0):
            return self.low if p < 1 else self.high
        return float(np.quantile(self.drawn, p))

    def rank_error(self, p: float) -> float:
        """Standard error of the share of values below `quantile(p)`; 0 where the quantile is exact."""
        return 0.0 if p in (0.0, 1.0) else rank_error(p, len(self.drawn), self.count)

    @property
    def is_constant(self) -> bool:
        """Whether there is one value only."""
        # Not std == 0: the mean of equal numbers is rounded, which leaves a tiny one.
        return self.low == self.high


class Summing:
    """Running sums of some variables whose samples come in blocks.

    Args:
        names: Name of each variable.
        units: Unit of each.
        length: Values of each that will come, observed or not.
    """

    def __init__(self, names: Sequence[str], units: Sequence[str], length: int) -> None:
        n = len(names)
        self.names, self.units = names, units
        self.moments, self.change = Moments((n,)), Moments((n,))
        self.drawn = Subsample(length if n else 0, n)
        self.missing, self.not_finite = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self._last: dict[int, tuple[np.ndarray, np.ndarray | None]] = {}  # by patch of the grid
        self._run: tuple[int, int] | None = None

    def add(self, values: np.ndarray, observed: np.ndarray | None = None, places: Places | None = None) -> None:
        """Take some samples in.

        Args:
            values: Shape (n, variables, ...).
            observed: Which of them are observed; all when not given.
            places: Where the samples lie, which tells which follow each other in a run; no change is summed up without.
        """
        values = values.astype(np.float64)
        finite = np.isfinite(values)
        seen = np.ones_like(finite) if observed is None else observed
        over = (0, *range(2, values.ndim))
        self.missing += np.count_nonzero(~seen, axis=over)
        self.not_finite += np.count_nonzero(seen & ~finite, axis=over)
        counted = None if bool(finite.all() and seen.all()) else seen & finite
        flat, where = by_channel(values), None if counted is None else by_channel(counted)
        self.moments.add(flat, where)
        self.drawn.add(flat, where)
        if places is not None:
            self._add_changes(values, counted, places)

    def _add_changes(self, values: np.ndarray, counted: np.ndarray | None, places: Places) -> None:
        changes, both = [], []
        runs = zip(places.source.tolist(), places.run.tolist(), places.patch.tolist(), strict=True)
        for i, (source, run, patch) in enumerate(runs):
            if (source, run) != self._run:
                self._run = source, run
                self._last.clear()
            mask = None if counted is None else counted[i]
            if patch in self._last:
                before, before_mask = self._last[patch]
                changes.append(values[i] - before)
                seen = np.ones(values[i].shape, bool) if mask is None else mask
                both.append(seen if before_mask is None else seen & before_mask)
            self._last[patch] = values[i], mask
        # Copies, so that one kept sample does not keep its whole block in memory.
        self._last = {key: (x.copy(), None if m is None else m.copy()) for key, (x, m) in self._last.items()}
        if changes:
            flat, where = by_channel(np.stack(changes)), by_channel(np.stack(both))
            self.change.add(flat, None if where.all() else where)

    def summaries(self) -> tuple[Summary, ...]:
        """What was found, per variable."""
        m, change = self.moments, self.change
        known = np.where(m.count > 0, 1.0, np.nan)
        return tuple(
            Summary(
                name, self.units[c], int(m.count[c]), int(self.missing[c]), int(self.not_finite[c]),
                float(m.mean[c] * known[c]), float(m.std[c]), float(m.rms[c]), float(m.low[c]), float(m.high[c]),
                float(change.mean[c]) if change.count[c] else float("nan"), float(change.std[c]),
                self.drawn.values(c),
            )
            for c, name in enumerate(self.names)
        )  # fmt: skip


def summarise(values: np.ndarray, names: Sequence[str]) -> tuple[Summary, ...]:
    """Summaries of an array in memory, shape (n, channels, *grid); the same bits as of a stream of its samples."""
    n, per_sample = len(values), values[:1].size
    summing = Summing(names, [""] * len(names), n * per_sample // len(names))
    step = max(1, BLOCK_BYTES // (8 * per_sample))
    for start in range(0, n, step):
        summing.add(values[start : start + step])
    return summing.summaries()
