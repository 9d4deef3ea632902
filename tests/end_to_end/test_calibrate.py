"""`physdiff calibrate`: stored with the model, used by `physdiff sample`, gone when training writes the model anew."""

from __future__ import annotations

from pathlib import Path

import pytest
import xarray as xr
from conftest import Command  # pyright: ignore[reportMissingImports]

from physdiff import FieldModel

pytestmark = pytest.mark.xdist_group("command line")
QUICK = ("--pilots", "2", "--steps", "16", "--levels", "3")


def test_samples_stop_on_the_calibrated_grid(tiny: Path, command: Command) -> None:
    code, said, _ = command("calibrate", "run", *QUICK, "--limit", "5")
    assert code == 0 and "2 trajectories of 16 evaluations" in said and "2 validation fields at 3 noise levels" in said
    assert command("sample", "run", "--n", "2", "--steps", "3")[0] == 0
    with xr.open_dataset("run/samples.nc", engine="h5netcdf") as found:
        assert found.attrs["time_grid"] == "Calibrated"
        xr.testing.assert_equal(found.load(), FieldModel.load("run").sample(2, steps=3))
    assert command("sample", "run", "--n", "2", "--steps", "3", "--time-grid", "Karras")[0] == 0
    with xr.open_dataset("run/samples.nc", engine="h5netcdf") as found:
        assert found.attrs["time_grid"] == "Karras"
    assert command("calibrate", "run/model", *QUICK, "--limit", "0")[0] == 0
    assert FieldModel.load("run").calibrated_grid is not None


def test_training_writes_a_model_without(tiny: Path, command: Command) -> None:
    assert command("calibrate", "run", *QUICK, "--limit", "0")[0] == 0
    assert command("resume", "run")[0] == 0
    assert FieldModel.load("run").calibrated_grid is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--pilots", "0"), ("at least 1 pilot", "got 0")),
        (("--order", "7"), ("'order'", "got 7")),
        (("--limit", "-1"), ("limit", "got -1")),
        (("--data", "nowhere"), ("nowhere",)),
    ],
)
def test_what_is_refused_leaves_the_model(
    tiny: Path, command: Command, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    code, _, error = command("calibrate", "run", *options)
    assert code == 2 and all(word in error for word in words), error
    assert not (tiny / "run" / "model" / "calibration.safetensors").exists()
