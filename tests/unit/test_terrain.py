"""Terrain patches against the file they are cut from, and the registry of recipes."""

from __future__ import annotations

import inspect
import math
from pathlib import Path

import h5py
import numpy as np
import pytest
from matplotlib.cbook import get_sample_data

from datasets import recipe, recipes
from datasets.terrain import elevation, make
from physdiff.data import load_fields


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("terrain") / "set", progress=False)


def corners(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    with h5py.File(folder / "data" / split / "terrain.hdf5") as file:
        return file["scalars/column"][()], file["scalars/row_from_south"][()]


def test_axes_point_east_and_north_in_metres() -> None:
    values, (east, north) = elevation()
    with np.load(str(get_sample_data("jacksboro_fault_dem.npz", asfileobj=False))) as file:
        np.testing.assert_array_equal(values[:, -1], file["elevation"][0])
        np.testing.assert_array_equal(values[0, ::-1], file["elevation"][:, 0])
        assert float(file["ymin"]) > float(file["ymax"])  # the file's words; rows run southwards
    # WGS 84: one arc-minute of latitude at 36.6° is 1849.5 m, of longitude 1491.6 m; the sphere is within 0.4
    # %.
    assert north == pytest.approx(1849.5 / 20, rel=4e-3)
    assert east == pytest.approx(1491.6 / 20, rel=4e-3)


@pytest.mark.parametrize(("split", "patches"), [("train", 27 * 40), ("valid", 40), ("test", 9 * 40)])
def test_patches_are_pieces_of_the_map(folder: Path, split: str, patches: int) -> None:
    data = load_fields(folder, split=split)
    assert data.values.shape == (patches, 1, 32, 32) and data.values.dtype == np.float32
    field, (east, north) = elevation()
    for patch, column, row in zip(data.values[:, 0], *corners(folder, split), strict=True):
        np.testing.assert_array_equal(patch, field[column : column + 32, row : row + 32])
    assert data.grid.boundary == ("neumann", "neumann") and data.grid.units == ("m", "m")
    assert data.grid.spacing == pytest.approx((east, north), rel=1e-14)
    assert data.names == ("elevation",) and data.units == ("m",)
    assert data.trajectory.tolist() == list(range(patches))


def test_no_column_is_in_two_splits_and_test_keeps_its_distance(folder: Path) -> None:
    first = {split: corners(folder, split)[0] for split in ("train", "valid", "test")}
    assert first["train"].max() + 32 <= 240 == first["valid"].min()
    assert first["valid"].max() + 32 == 272 and first["test"].min() == 304
    assert first["test"].max() + 32 <= 403


def test_stride_sets_the_overlap(tmp_path: Path) -> None:
    make(tmp_path / "set", progress=False, stride=32)
    column, row = corners(tmp_path / "set", "train")
    assert len(column) == 7 * 10 and set(column % 32) == {0} and set(row % 32) == {0}


def test_settings_out_of_range_and_occupied_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cells must be 2 to 32 and stride at least 1; got 33 and 8"):
        make(tmp_path / "set", cells=33)
    with pytest.raises(ValueError, match="got 32 and 0"):
        make(tmp_path / "set", stride=0)
    with pytest.raises(ValueError, match="exists already"):
        make(folder, progress=False)
    before = load_fields(folder, split="test").values
    make(folder, progress=False, overwrite=True)
    np.testing.assert_array_equal(load_fields(folder, split="test").values, before)


def test_every_recipe_has_a_card_and_a_line() -> None:
    found = recipes()
    assert {"terrain", "turbulence"} <= set(found)
    for name, entry in found.items():
        assert entry.name == name and entry.summary and "\n" not in entry.summary
        card = entry.card.read_text()
        assert card.startswith(f"# {name}\n") and "## Limits" in card
    assert inspect.unwrap(recipe("terrain").make) is make
    with pytest.raises(ValueError, match=r"no recipe 'turbulance'; there are .* Did you mean 'turbulence'\?"):
        recipe("turbulance")


def test_patches_are_not_gaussian_noise(folder: Path) -> None:
    """Neighbouring cells differ far less than the field varies: the axes were not scrambled."""
    values = load_fields(folder, split="train").values[:, 0].astype(np.float64)
    spread = values.std()
    for axis in (1, 2):
        step = np.diff(values, axis=axis).std()
        assert step < 0.2 * spread
        assert math.isfinite(step) and step > 1
