"""The Well's layout: files as others publish them, our own round trip, and what is refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from physdiff.data import inspect, load_fields
from physdiff.data.formats.the_well_writer import write_stats, write_the_well
from physdiff.data.handles import close_all
from physdiff.grid import Grid

GRID = Grid((3, 4), extent=(1 / 3, 0.7), boundary=("neumann", "dirichlet"), units=("m", "km"), origin=(-0.1, 5))
N, T = 2, 5


def published(path: Path, edit: Callable[[h5py.File], object] = lambda file: None) -> Path:
    """A file with the quirks of published ones: bare strings, bytes, flags left out, float32 coordinates."""
    rng = np.random.default_rng(1)
    with h5py.File(path, "w") as file:
        file.attrs["n_trajectories"] = N
        file.attrs["grid_type"] = np.bytes_(b"cartesian")
        dims = file.create_group("dimensions")
        dims.attrs["spatial_dims"] = ["x", "y"]
        dims["time"] = np.linspace(0, 1, T, dtype=np.float32)
        for dim, cells in (("x", 3), ("y", 4)):
            dims[dim] = np.linspace(0, 1, cells, dtype=np.float32)
            dims[dim].attrs["sample_varying"] = False
        for dim, code in (("x", "periodic"), ("y", "Wall")):
            side = file.create_group(f"boundary_conditions/{dim}_side")
            side.attrs["associated_dims"] = dim if dim == "x" else [dim]
            side.attrs["bc_type"] = code if dim == "x" else np.bytes_(code.encode())
        for name, shape, sample, time, varying in (
            ("t0_fields/depth", (N, 3, 4), True, False, [True, True]),
            ("t0_fields/profile", (T, 4), False, True, [False, True]),
            ("t1_fields/velocity", (N, T, 3, 4, 2), True, True, [True, True]),
            ("t2_fields/stress", (N, T, 3, 4, 2, 2), True, True, [True, True]),
        ):
            field = file.create_dataset(name, data=rng.standard_normal(shape).astype(np.float32))
            field.attrs.update({"sample_varying": sample, "time_varying": time, "dim_varying": varying})
        file["t1_fields/velocity"].attrs["units"] = "m/s"
        edit(file)
    return path


def test_published_file_is_read_with_absent_axes_repeated(tmp_path: Path) -> None:
    path = published(tmp_path / "a.hdf5")
    data = load_fields(path)
    assert data.names == (
        "depth",
        "profile",
        "velocity_x",
        "velocity_y",
        *(f"stress_{c}" for c in ("xx", "xy", "yx", "yy")),
    )
    assert data.values.shape == (N * T, 8, 3, 4) and data.values.dtype == np.float32
    assert data.grid.boundary == ("periodic", "neumann")
    # Centres 0, ½, 1 are three cells of ½ that start at −¼.
    np.testing.assert_allclose(data.grid.extent, (3 / 2, 4 / 3), rtol=1e-7)
    np.testing.assert_allclose(data.grid.origin, (-1 / 4, -1 / 6), rtol=1e-6)
    assert data.trajectory.tolist() == [0] * T + [1] * T
    np.testing.assert_array_equal(data.time, np.tile(np.linspace(0, 1, T, dtype=np.float32), N))
    with h5py.File(path) as file:
        velocity, depth, profile, stress = (
            file[name][()]
            for name in ("t1_fields/velocity", "t0_fields/depth", "t0_fields/profile", "t2_fields/stress")
        )
    for n in range(N):
        for t in range(T):
            snapshot = data.values[n * T + t]
            np.testing.assert_array_equal(snapshot[0], depth[n])
            np.testing.assert_array_equal(snapshot[1], np.tile(profile[t], (3, 1)))
            np.testing.assert_array_equal(snapshot[3], velocity[n, t, :, :, 1])
            np.testing.assert_array_equal(snapshot[5], stress[n, t, :, :, 0, 1])


def test_names_choose_and_order_and_a_vector_stands_for_its_components(tmp_path: Path) -> None:
    path = published(tmp_path / "a.h5")
    data = load_fields(path, names=["velocity", "depth"])
    assert data.names == ("velocity_x", "velocity_y", "depth") and data.units == ("m/s", "m/s", "")
    np.testing.assert_array_equal(load_fields(path, names=["velocity_y"]).values, data.values[:, 1:2])


def test_missing_count_missing_flags_and_time_per_trajectory_are_understood(tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        del file.attrs["n_trajectories"], file["dimensions/time"], file["t0_fields"]
        file["dimensions/time"] = np.arange(N * T).reshape(N, T)
        file["t1_fields/velocity"].attrs.clear()

    data = load_fields(published(tmp_path / "a.hdf5", edit))
    assert data.time.tolist() == list(range(N * T)) and data.trajectory.max() == N - 1


def test_written_file_gives_back_every_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    fields = {name: rng.standard_normal((N, T, 3, 4)).astype(np.float32) for name in ("u", "p")}
    time = np.sort(rng.random((N, T)))
    path = tmp_path / "data" / "train" / "a.hdf5"
    for compression in (None, "gzip"):
        write_the_well(path, fields, GRID, units={"u": "m/s"}, time=time, compression=compression)
        data = load_fields(path, names=["u", "p"])
        assert data.grid == GRID and data.units == ("m/s", "")
        np.testing.assert_array_equal(data.values, np.stack([fields["u"], fields["p"]], 2).reshape(N * T, 2, 3, 4))
        np.testing.assert_array_equal(data.time, time.ravel())
        assert os.listdir(path.parent) == ["a.hdf5"]
    assert "(x, neumann, 0.333333 m) x 4 (y, dirichlet, 0.7 km)" in inspect(path)
    assert "float32, m/s, chunks (1, 1, 3, 4), gzip" in inspect(path)


def test_written_file_says_what_the_schema_asks_for(tmp_path: Path) -> None:
    path = tmp_path / "a.hdf5"
    parameters = {"viscosity": 0.5, "seed": np.arange(N)}
    write_the_well(path, {"u": np.zeros((N, T, 3, 4))}, GRID, parameters=parameters, attrs={"dataset_name": "d"})
    with h5py.File(path) as file:
        assert file.attrs["dataset_name"] == "d" and file.attrs["n_spatial_dims"] == 2
        assert file.attrs["viscosity"] == 0.5 and list(file.attrs["simulation_parameters"]) == ["viscosity"]
        assert list(file["scalars"].attrs["field_names"]) == ["viscosity", "seed"]
        assert file["scalars/seed"].attrs["sample_varying"] and not file["scalars/viscosity"].attrs["sample_varying"]
        assert [list(file[f"t{i}_fields"].attrs["field_names"]) for i in range(3)] == [["u"], [], []]
        assert file["dimensions/time"][()].tolist() == [0, 1, 2, 3, 4]
        side = file["boundary_conditions/y_wall"]
        assert side.attrs["bc_type"] == "WALL" and list(side.attrs["associated_dims"]) == ["y"]
        assert side["mask"][()].tolist() == [True, False, False, True]


def test_boundary_argument_replaces_the_files_own(tmp_path: Path) -> None:
    def open_side(file: h5py.File) -> None:
        file["boundary_conditions/x_side"].attrs["bc_type"] = "OPEN"

    path = published(tmp_path / "a.hdf5", open_side)
    with pytest.raises(ValueError, match=r"'x' has boundary condition OPEN; physdiff knows PERIODIC and WALL: pass bo"):
        load_fields(path)
    assert load_fields(path, boundary=["neumann", "dirichlet"]).grid.boundary == ("neumann", "dirichlet")
    assert "not loadable" in inspect(path) and "OPEN" in inspect(path)


def delete(name: str) -> Callable[[h5py.File], object]:
    return lambda file: file.__delitem__(name)


def replace(name: str, values: np.ndarray) -> Callable[[h5py.File], object]:
    def edit(file: h5py.File) -> None:
        attrs = dict(file[name].attrs)
        del file[name]
        file[name] = values
        file[name].attrs.update(attrs)

    return edit


def _attr(name: str, key: str, value: object) -> Callable[[h5py.File], object]:
    return lambda file: file[name].attrs.__setitem__(key, value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (delete("dimensions"), r"a\.hdf5 has no '/dimensions'; The Well's layout asks for it"),
        (delete("dimensions/y"), r"a\.hdf5 has no '/dimensions/y'"),
        (delete("dimensions/time"), r"a\.hdf5 has no '/dimensions/time'"),
        (delete("boundary_conditions/x_side"), "dimension 'x' has boundary condition none"),
        (
            lambda file: file["dimensions"].attrs.__delitem__("spatial_dims"),
            "has no attribute 'spatial_dims'",
        ),
        (
            replace("dimensions/y", np.array([0.0, 1.0, 2.0, 4.0])),
            "cells of dimension 'y' must be equally spaced and increasing; their spacing runs from 1 to 2",
        ),
        (
            _attr("dimensions", "spatial_dims", ["x", "time"]),
            r"has spatial_dims = \['x', 'time'\]; expected a name for",
        ),
        (_attr("dimensions", "spatial_dims", ["x", "x"]), r"has spatial_dims = \['x', 'x'\]; expected a name for each"),
        (_attr("dimensions/x", "time_varying", True), "dimension 'x' varies between samples or in time"),
        (_attr("/", "grid_type", "spherical"), "grid_type is 'spherical'; physdiff reads 'cartesian'"),
        (
            replace("t0_fields/depth", np.zeros((N, 3, 5))),
            r"'/t0_fields/depth' has shape \(2, 3, 5\); expected \(2, 3, 4\) for \(trajectory, x, y\)",
        ),
        (
            replace("t1_fields/velocity", np.zeros((N, T, 3, 4))),
            r"has shape \(2, 5, 3, 4\); expected \(2, 5, 3, 4, 2\) for \(trajectory, time, x, y, component\)",
        ),
        (
            _attr("t0_fields/depth", "dim_varying", [True]),
            "has 1 values of dim_varying; expected one per axis, 2",
        ),
        (
            replace("dimensions/time", np.zeros((3, T))),
            r"'time' has shape \(3, 5\); expected \(frames,\) or \(2, fra",
        ),
        (
            lambda file: file["t1_fields/velocity"].__setitem__((1, 2, 0, 3, 1), np.nan),
            r"'velocity_y' holds nan at trajectory 1, frame 2, cell \(0, 3\); masked or missing values",
        ),
        (
            lambda file: [file.__delitem__(f"t{i}_fields") for i in range(3)],
            "holds no field; expected datasets in t0_fields, t1_fields, t2_fields",
        ),
    ],
)
def test_what_is_refused_is_named(tmp_path: Path, edit: Callable[[h5py.File], object], message: str) -> None:
    path = published(tmp_path / "a.hdf5", edit)
    with pytest.raises(ValueError, match=message) as error:
        load_fields(path)
    assert "a.hdf5" in str(error.value) and "\n" not in str(error.value)
    # The tool that is run to find out what is wrong must not fail on the same file.
    assert "not loadable" in inspect(path) or "1 NaN" in inspect(path)


def test_unknown_field_and_truncated_file(tmp_path: Path) -> None:
    path = published(tmp_path / "a.hdf5")
    with pytest.raises(ValueError, match=r"has no field 'dept'; it has depth, .* Did you mean 'depth'"):
        load_fields(path, names=["dept"])
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(whole[:3000])
    for reader in (load_fields, inspect):
        with pytest.raises(ValueError, match=r"a\.hdf5' is truncated, damaged or no HDF5 file"):
            reader(path)


def test_inspect_counts_and_measures(tmp_path: Path) -> None:
    # Mean far above the spread: sums of squares would lose it.
    values = 1e8 + np.arange(24.0).reshape(N, 1, 3, 4)
    path = write_the_well(tmp_path / "a.hdf5", {"u": values}, GRID, time=np.zeros(1))
    # 6.92219 = √((24² − 1)/12), the spread of 0 to 23.
    assert "mean 1e+08, std 6.92219, 0 NaN, 0 infinite" in inspect(path)
    close_all()  # HDF5 does not write to a file that the same process reads
    with h5py.File(path, "a") as file:
        file["t0_fields/u"][1, 0, 2] = np.nan
    text = inspect(path)
    # The spread of 0 to 19.
    assert "std 5.76628, 4 NaN, 0 infinite" in text


@pytest.mark.parametrize(
    ("fields", "options", "message"),
    [
        ({}, {}, "no field to write"),
        (
            {"u": np.zeros((N, 3, 4))},
            {},
            r"'u' has shape \(2, 3, 4\); expected \(trajectories, frames, \*grid\)",
        ),
        ({"u": np.zeros((N, T, 3, 4)), "p": np.zeros((N, 1, 3, 4))}, {}, "field 'p' has shape"),
        (
            {"u": np.full((N, T, 3, 4), np.inf)},
            {},
            r"holds inf at \(trajectory, frame, \*cell\) \(0, 0, 0, 0\)",
        ),
        (
            {"u": np.zeros((N, T, 3, 4))},
            {"time": np.zeros(4)},
            r"time has shape \(4,\); expected \(5,\) or \(2, 5\)",
        ),
        (
            {"u": np.zeros((N, T, 3, 4))},
            {"units": {"v": "m"}},
            r"units are given for \['v'\]; the fields are \['u'\]",
        ),
        (
            {"u": np.zeros((N, T, 3, 4))},
            {"parameters": {"a": np.zeros(3)}},
            r"'a' has shape \(3,\); expected \(\) or",
        ),
    ],
)
def test_nothing_is_written_of_what_does_not_fit(tmp_path: Path, fields: dict, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_the_well(tmp_path / "a.hdf5", fields, GRID, **options)
    assert list(tmp_path.iterdir()) == []


def test_stats_are_of_the_training_split(tmp_path: Path) -> None:
    for split, scale in (("train", 1.0), ("test", 100.0)):
        # Runs 0, 1, 2 and 10, 11, 12: the change is 1 within runs, and the jump between them does not count.
        frames = scale * np.array([[0.0, 1, 2], [10, 11, 12]]).reshape(2, 3, 1, 1)
        write_the_well(tmp_path / "data" / split / "a.hdf5", {"u": np.tile(frames, (3, 4))}, GRID)
    stats = yaml.safe_load(write_stats(tmp_path).read_text())
    assert stats["mean"]["u"] == pytest.approx(6.0, rel=1e-14)
    assert stats["std"]["u"] == pytest.approx(np.sqrt((36 + 25 + 16) / 3), rel=1e-14)
    assert stats["rms"]["u"] == pytest.approx(np.sqrt((1 + 4 + 100 + 121 + 144) / 6), rel=1e-14)
    assert (stats["mean_delta"]["u"], stats["std_delta"]["u"], stats["rms_delta"]["u"]) == (1.0, 0.0, 1.0)
