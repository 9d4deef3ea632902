"""What recipes ask of runs of a simulation: how many for each split, and when snapshots are taken."""

from __future__ import annotations

import math

from physdiff.data.fields import SPLITS

_MOST_RADIANS = 1e8  # float64 knows such an angle to 1e-8, below the rounding of what is stored


def runs_by_split(train: int, valid: int, test: int, frames: int, duration: float, interval: float) -> dict[str, int]:
    """Number of runs of each split.

    Raises:
        ValueError: a number or a time is not positive, or a time is not finite.
    """
    runs: dict[str, int] = dict(zip(SPLITS, (train, valid, test), strict=True))
    if min(runs.values()) < 1 or frames < 1 or min(duration, interval) <= 0:
        raise ValueError(
            f"runs, frames and times must be positive; got {runs} runs, {frames} frames, {interval} s apart, from "
            f"{duration} s."
        )
    if not math.isfinite(duration + interval * frames):
        raise ValueError(f"times must be finite; got {frames} frames, {interval} s apart, from {duration} s.")
    return runs


def check_angle(frequency: float, last: float) -> None:
    """Raise unless the phase of the fastest wave, in 1/s, is known until the last frame, in s."""
    if not frequency * last <= _MOST_RADIANS:
        raise ValueError(
            f"waves would turn by {frequency * last:.4g} radians until the last frame; float64 knows their phase to "
            f"{_MOST_RADIANS:.0e}, so take slower waves or earlier frames."
        )
