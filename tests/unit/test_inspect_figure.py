"""The figure of `physdiff data inspect`: true proportions, no empty panels, bars that start below one cell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes

from physdiff.data.formats import open_source
from physdiff.data.formats.the_well_writer import write_the_well
from physdiff.evaluation.inspect_figure import inspect_figure
from physdiff.grid import Grid


def panels(folder: Path, grid: Grid, runs: int, frames: int) -> list[Axes]:
    """Axes of the figure of one field, without the colour bar."""
    values = np.random.default_rng(0).normal(size=(runs, frames, *grid.shape)).astype(np.float32)
    write_the_well(folder / "a.hdf5", {"u": values}, grid, time=np.arange(frames) / 2)
    return inspect_figure(open_source(folder / "a.hdf5")).axes[:4]


def titles(axes: list[Axes]) -> list[str]:
    return [one.get_title() for one in axes[:3] if one.axison]


@pytest.mark.parametrize(
    ("runs", "frames", "expected"),
    [
        (5, 1, ["trajectory 0, t = 0", "trajectory 1, t = 0", "trajectory 2, t = 0"]),
        (5, 2, ["trajectory 0, t = 0", "trajectory 0, t = 0.5", "trajectory 1, t = 0"]),
        (5, 9, ["trajectory 0, t = 0", "trajectory 0, t = 2", "trajectory 0, t = 4"]),
        (1, 2, ["trajectory 0, t = 0", "trajectory 0, t = 0.5"]),
    ],
)
def test_frames_of_other_trajectories_fill_the_row(tmp_path: Path, runs: int, frames: int, expected: list[str]) -> None:
    assert titles(panels(tmp_path, Grid((6, 4), (3.0, 2.0), "periodic"), runs, frames)) == expected


def test_a_box_has_its_proportions(tmp_path: Path) -> None:
    near, far = (tmp_path / name for name in ("near", "far"))
    assert panels(near, Grid((6, 4), (3.0, 2.0), "periodic"), 2, 2)[0].get_aspect() == 1
    assert panels(far, Grid((6, 4), (300.0, 2.0), "periodic"), 2, 2)[0].get_aspect() == "auto"


def test_slices_axes_and_counts_are_told(tmp_path: Path) -> None:
    axes = panels(tmp_path, Grid((6, 4, 8), 1.0, "periodic", units="m"), 1, 1)
    assert titles(axes) == ["trajectory 0, t = 0, z = cell 4"]
    assert (axes[0].get_xlabel(), axes[0].get_ylabel()) == ("x  [m]", "y  [m]")
    assert axes[3].get_ylim()[0] < 1
