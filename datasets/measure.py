"""The numbers that the cards give: `python -m datasets.measure FOLDER` of a data set that a recipe has made.

One line for each field of the training split: moments of its values, the range of power over modes, how alike frames
are that follow each other, and its mean square frame by frame.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from physdiff.data import load_fields


def measure(folder: str | Path) -> str:
    """Lines for people about a data set.

    Args:
        folder: Data set in The Well's layout; its training split is held in memory.
    """
    data = load_fields(folder, split="train")
    runs = len(np.unique(data.trajectory))
    frames = len(data.values) // runs
    size = sum(f.stat().st_size for f in Path(folder).rglob("*.hdf5"))
    each = "frame" if frames == 1 else "frames"
    lines = [f"{runs} runs of {frames} {each} to train on, {data.grid.describe()}; {size / 1e6:.1f} MB in all"]
    for channel, name in enumerate(data.names):
        x = data.values[:, channel].astype(np.float64)
        centred = x - x.mean()
        moments = [(centred**power).mean() / x.std() ** power for power in (3, 4)]
        lines.append(
            f"{name}: mean {x.mean():.3g}, std {x.std():.3g}, skewness {moments[0]:.2f}, kurtosis {moments[1]:.2f}, "
            f"from {x.min():.3g} to {x.max():.3g}; strongest over weakest mode {_range_of_power(centred):.1e}"
        )
        if frames > 1:
            by_frame = centred.reshape(runs, frames, -1)
            pairs = (by_frame[:, 1:] * by_frame[:, :-1]).mean() / (centred**2).mean()
            squares = " ".join(f"{v:.3g}" for v in (x.reshape(runs, frames, -1) ** 2).mean((0, 2)))
            lines.append(f"{name}: correlation of neighbouring frames {pairs:.3f}, mean square by frame {squares}")
    return "\n".join(lines)


def _range_of_power(fields: np.ndarray) -> float:
    """Of the Fourier modes below Nyquist along each axis, without the mean; a wall's modes are mixed by it."""
    power = (np.abs(np.fft.fftn(fields, axes=tuple(range(1, fields.ndim)))) ** 2).mean(0)
    inside = np.ones(power.shape, dtype=bool)
    for axis, n in enumerate(power.shape):
        k = np.abs(np.fft.fftfreq(n, 1 / n)).reshape(-1, *[1] * (power.ndim - 1 - axis))
        inside &= 2 * k < n
    inside.flat[0] = False
    return float(power[inside].max() / power[inside].min())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m datasets.measure FOLDER")
    try:
        print(measure(sys.argv[1]))
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"measure: error: {error}")
