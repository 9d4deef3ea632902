"""PDEBench's layouts, written with h5py as published: values entry by entry, and what the files leave open."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from physdiff.data import load_fields
from physdiff.data.formats import find_format, open_source
from physdiff.data.layout import Layout
from physdiff.data.source import TIME, TRAJECTORY

N, T = 3, 4
SIZES = {"x": 5, "y": 6, "z": 2}
PERIODIC = Layout(boundary="periodic")


def values(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def centres(dim: str) -> np.ndarray:
    """Cell centres of [-1, 1], float32 as published."""
    n = SIZES[dim]
    return (-1 + 2 * (np.arange(n) + 0.5) / n).astype(np.float32)


def burgers(path: Path, edit: Callable[[h5py.File], object] = lambda file: None) -> Path:
    with h5py.File(path, "w") as file:
        file["tensor"] = values(N, T, SIZES["x"])
        file["x-coordinate"] = centres("x")
        file["t-coordinate"] = (0.1 * np.arange(T + 1)).astype(np.float32)
        file.attrs["Nu"] = 0.001
        edit(file)
    return path


def test_tensor_of_one_dimension(tmp_path: Path) -> None:
    path = burgers(tmp_path / "1D_Burgers_Sols_Nu0.001.hdf5")
    data = load_fields(path, boundary="periodic")
    assert data.names == ("tensor",) and data.values.dtype == np.float32
    np.testing.assert_array_equal(data.values, values(N, T, 5).reshape(N * T, 1, 5))
    # The file's last time is the end of the run, of which there is no frame.
    np.testing.assert_array_equal(data.time, np.tile((0.1 * np.arange(T)).astype(np.float32), N))
    np.testing.assert_allclose(data.grid.extent, 2, rtol=1e-6)
    np.testing.assert_allclose(data.grid.origin, -1, rtol=1e-6)
    source = open_source(path, PERIODIC)
    assert source.scalars == {"Nu": 0.001} and source.scalar_dims == {"Nu": ()}


@pytest.mark.parametrize("dims", ["x", "xy", "xyz"])
def test_compressible_flow(tmp_path: Path, dims: str) -> None:
    cells = [SIZES[d] for d in dims]
    names = ["density", "pressure", *(f"V{d}" for d in dims)]
    stored = {name: values(N, T, *cells, seed=i) for i, name in enumerate(names)}
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        for name, array in stored.items():
            file[name] = array
        for dim in dims:
            file[f"{dim}-coordinate"] = centres(dim)
        file["t-coordinate"] = np.arange(T + 1.0)
        file.attrs.update({"eta": 0.1, "zeta": 0.2, "M": 1.0})
    data = load_fields(path, names, boundary="neumann")
    for c, name in enumerate(names):
        np.testing.assert_array_equal(data.values[:, c], stored[name].reshape(N * T, *cells))
    source = open_source(path, PERIODIC)
    assert source.grid.shape == tuple(cells) and source.grid.dims == tuple(dims)
    assert {v.name: v.component for v in source.variables if v.parent == "V"} == {
        f"V{d}": (i,) for i, d in enumerate(dims)
    }
    assert load_fields(path, ["V"], boundary="periodic").names == tuple(f"V{d}" for d in dims)
    assert source.scalars == {"eta": 0.1, "zeta": 0.2, "M": 1.0}


def test_darcy_flow_is_a_solution_and_a_coefficient(tmp_path: Path) -> None:
    path = tmp_path / "2D_DarcyFlow_beta1.0_Train.hdf5"
    with h5py.File(path, "w") as file:
        file["tensor"], file["nu"] = values(N, 1, 5, 6), values(N, 5, 6, seed=1)
        file["x-coordinate"], file["y-coordinate"] = centres("x"), centres("y")
        file.attrs["beta"] = 1.0
    source = open_source(path, Layout(boundary="dirichlet"))
    assert {v.name: v.view.sizes for v in source.variables} == {
        "nu": {TRAJECTORY: N, "x": 5, "y": 6},
        "tensor": {TRAJECTORY: N, TIME: 1, "x": 5, "y": 6},
    }
    data = load_fields(path, ["nu", "tensor"], boundary="dirichlet")
    np.testing.assert_array_equal(data.values[:, 0], values(N, 5, 6, seed=1))
    np.testing.assert_array_equal(data.values[:, 1], values(N, 1, 5, 6)[:, 0])
    assert data.trajectory.tolist() == [0, 1, 2] and data.time.tolist() == [0, 0, 0]


def runs(
    path: Path, channels: int = 2, dims: str = "xy", edit: Callable[[h5py.File], object] = lambda file: None
) -> Path:
    with h5py.File(path, "w") as file:
        for n in range(N):
            data = values(T, *(SIZES[d] for d in dims), channels, seed=n)
            file.create_dataset(f"{n:04d}/data", data=data, compression="lzf")
            for dim in dims:
                file[f"{n:04d}/grid/{dim}"] = centres(dim)
            file[f"{n:04d}/grid/t"] = np.linspace(0, 5, T, dtype=np.float32)
            file[f"{n:04d}"].attrs["config"] = "sim: {seed: 1}"
        edit(file)
    return path


@pytest.mark.parametrize(("channels", "dims"), [(2, "xy"), (1, "x"), (1, "xy")], ids=["diff-react", "diff-sorp", "swe"])
def test_group_for_each_run(tmp_path: Path, channels: int, dims: str) -> None:
    path = runs(tmp_path / "2D_diff-react_NA_NA.h5", channels, dims)
    names = ["data"] if channels == 1 else ["data_0", "data_1"]
    data = load_fields(path, boundary="neumann")
    assert list(data.names) == names and data.grid.shape == tuple(SIZES[d] for d in dims)
    for n in range(N):
        expected = np.moveaxis(values(T, *data.grid.shape, channels, seed=n), -1, 1)
        np.testing.assert_array_equal(data.values[data.trajectory == n], expected)
    np.testing.assert_array_equal(data.time, np.tile(np.linspace(0, 5, T, dtype=np.float32), N))


def test_frames_that_are_stored_with_y_first(tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        for n in range(N):
            put(f"{n:04d}/data", values(T, 6, 5, 2, seed=n))(file)

    data = load_fields(runs(tmp_path / "a.h5", edit=edit), boundary="neumann")
    assert data.grid.shape == (5, 6)
    np.testing.assert_array_equal(data.values[T], np.transpose(values(T, 6, 5, 2, seed=1)[0], (2, 1, 0)))


def incompressible(path: Path, edit: Callable[[h5py.File], object] = lambda file: None) -> Path:
    with h5py.File(path, "w") as file:
        for i, (name, shape) in enumerate(
            {"velocity": (N, T, 5, 6, 2), "particles": (N, T, 5, 6, 1), "force": (N, 5, 6, 2)}.items()
        ):
            chunks = (1, 1, *shape[2:])
            file.create_dataset(name, data=values(*shape, seed=i), compression="lzf", shuffle=True, chunks=chunks)
        file["t"] = np.arange(N * T, dtype=np.float32).reshape(N, T)
        file.attrs.update({"config": "NU: 0.01", "latestIndex": T - 1})
        edit(file)
    return path


def test_incompressible_flow(tmp_path: Path) -> None:
    path = incompressible(tmp_path / "ns_incom_inhom_2d_512-0.h5")
    layout = Layout(extent=1.0, boundary="dirichlet")
    data = load_fields(path, ["velocity", "particles", "force_y"], layout=layout)
    assert data.names == ("velocity_x", "velocity_y", "particles", "force_y")
    velocity, particles, force = values(N, T, 5, 6, 2), values(N, T, 5, 6, 1, seed=1), values(N, 5, 6, 2, seed=2)
    for n in range(N):
        for t in range(T):
            sample = data.values[n * T + t]
            np.testing.assert_array_equal(sample[:2], np.moveaxis(velocity[n, t], -1, 0))
            np.testing.assert_array_equal(sample[2], particles[n, t, ..., 0])
            np.testing.assert_array_equal(sample[3], force[n, ..., 1])
    assert data.time.tolist() == list(range(N * T))
    source = open_source(path, layout)
    assert source.attrs["config"] == "NU: 0.01" and source.scalars == {}
    assert not next(v for v in source.variables if v.name == "force_x").varies_in_time


def test_boundary_and_box_are_asked_for(tmp_path: Path) -> None:
    path = burgers(tmp_path / "1D_CFD_periodic.hdf5")
    with pytest.raises(ValueError, match=r"'x' has no boundary condition; pass boundary= \(--data.layout.boundary\)"):
        open_source(path)
    with pytest.raises(ValueError, match=r"has no coordinates along 'x'; pass extent= \(--data.layout.extent\)"):
        open_source(incompressible(tmp_path / "ns.h5"), PERIODIC)


def test_axis_of_one_cell(tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        del file["tensor"], file["x-coordinate"]
        file["tensor"], file["x-coordinate"] = values(N, T, 1), np.array([0.5])

    path = burgers(tmp_path / "a.hdf5", edit)
    with pytest.raises(ValueError, match="'x' has one cell, so its extent cannot be told"):
        open_source(path, PERIODIC)
    grid = open_source(path, Layout(boundary="periodic", extent=1.0)).grid
    assert grid.shape == (1,) and grid.origin == (0.0,)


def put(name: str, array: np.ndarray) -> Callable[[h5py.File], object]:
    def edit(file: h5py.File) -> None:
        if name in file:
            del file[name]
        file[name] = array

    return edit


@pytest.mark.parametrize(
    ("write", "edit", "message"),
    [
        (burgers, put("x-coordinate", centres("x")[::-1]), "cells of dimension 'x' must be equally spaced and incr"),
        (burgers, put("x-coordinate", centres("x") ** 3), "cells of dimension 'x' must be equally spaced and increas"),
        (burgers, put("x-coordinate", centres("x")[1:]), r"'x' has 5 cells and coordinates of shape \(4,\); expec"),
        (burgers, put("x-coordinate", np.linspace(-1, 1, 6)), r"'x' has 5 cells and 6 coordinates, .* pass extent= \(--"
         r"data.layout.extent\) 2 and origin= \(--data.layout.origin\) -1 of this axis"),
        (burgers, put("x-coordinate", np.full(5, np.nan)), "dimension 'x' has the coordinate nan"),
        (burgers, put("t-coordinate", np.arange(T + 2.0)), r"times have the shape \(6,\); expected 4 frames, or 5 wi"),
        (burgers, put("t-coordinate", np.zeros(T)), "the times do not increase; frame 1 of trajectory 0 is at 0"),
        (burgers, put("tensor", values(N, T)), r"'/tensor' has the shape \(3, 4\); expected the axes trajectory, ti"),
        (burgers, put("tensor", np.array([b"a"])), r"'/tensor' holds text \(\|S1\); expected an array of real numbers"),
        (burgers, put("nu", values(N, 7)), r"'nu' has the shape \(3, 7\); expected \(3, 4, 5\) for \(trajectory, tim"),
        (burgers, lambda f: f.__delitem__("t-coordinate"), r"says nothing of the times of its 4 frames; pass time="),
        (runs, put("0001/data", values(T, 5, 7, 2)), r"runs differ in size, .*/0001/data is float32 of shape \(4, 5"),
        (runs, put("0002/grid/x", 2 * centres("x")), "'x' of run '0002' is not that of run '0000'; expected one grid"),
        (runs, lambda f: f.__delitem__("0001/data"), "has no '/0001/data'; PDEBench's layout asks for it"),
        (runs, put("0001/grid/t", np.arange(T + 1.0)), r"'t' of run '0001' has the shape \(5,\), that of '0000'"),
        (incompressible, put("particles", values(N, T, 5, 6, 3)), r"'particles' has the shape \(3, 4, 5, 6, 3\); exp"),
        (incompressible, put("velocity", values(N, T, 5, 6, 3)), "with a component along each of x, y"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(
    tmp_path: Path, write: Callable, edit: Callable[[h5py.File], object], message: str
) -> None:
    layout = Layout(boundary="periodic", extent=1.0) if write is incompressible else PERIODIC
    with pytest.raises(ValueError, match=message) as error:
        open_source(write(tmp_path / "a.hdf5", edit=edit), layout)
    assert "a.hdf5" in str(error.value) and "\n" not in str(error.value)


def test_time_between_frames_may_be_said(tmp_path: Path) -> None:
    path = burgers(tmp_path / "a.hdf5", lambda f: f.__delitem__("t-coordinate"))
    source = open_source(path, Layout(boundary="periodic", time=0.5))
    np.testing.assert_array_equal(source.times, np.tile([0, 0.5, 1, 1.5], (N, 1)))


def test_each_layout_is_told_from_the_others(tmp_path: Path) -> None:
    for i, write in enumerate((burgers, runs, incompressible)):
        assert find_format(write(tmp_path / f"{i}.h5")).name == "pdebench"


def test_edges_of_cells_are_read_by_whoever_says_so(tmp_path: Path) -> None:
    path = burgers(tmp_path / "a.hdf5")
    with h5py.File(path, "a") as file:
        put("x-coordinate", np.linspace(-1, 1, 6))(file)
    grid = open_source(path, Layout(boundary="periodic", extent=2.0, origin=-1.0)).grid
    np.testing.assert_allclose(grid.coordinate(0), [-0.8, -0.4, 0.0, 0.4, 0.8], atol=1e-15)
    with h5py.File(path, "a") as file:
        put("x-coordinate", np.linspace(-1, 1, 6) ** 3)(file)
    with pytest.raises(ValueError, match="must be equally spaced"):
        open_source(path, Layout(boundary="periodic", extent=2.0, origin=-1.0))
