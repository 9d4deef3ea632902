"""What recipes ask of runs of a simulation: how many for each split, and when snapshots are taken."""

from __future__ import annotations

from physdiff.data.fields import SPLITS


def runs_by_split(train: int, valid: int, test: int, frames: int, duration: float, interval: float) -> dict[str, int]:
    """Number of runs of each split.

    Raises:
        ValueError: a number or a time is not positive.
    """
    runs: dict[str, int] = dict(zip(SPLITS, (train, valid, test), strict=True))
    if min(runs.values()) < 1 or frames < 1 or min(duration, interval) <= 0:
        raise ValueError(
            f"runs, frames and times must be positive; got {runs} runs, {frames} frames, {interval} s apart, from "
            f"{duration} s."
        )
    return runs
