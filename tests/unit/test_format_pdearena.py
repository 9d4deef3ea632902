"""PDEArena's layouts, written with h5py as its generators do: values entry by entry, and what the files leave open."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from physdiff.data import load_fields
from physdiff.data.formats import FORMATS, find_format, open_source
from physdiff.data.layout import Layout
from physdiff.data.source import TRAJECTORY

N, T = 3, 4
Edit = Callable[[h5py.Group], object]


def values(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def navier_stokes(path: Path, edit: Edit = lambda group: None, modes: tuple[str, ...] = ("train",)) -> Path:
    """Coordinates with both ends of boxes of 32 and 16 among their entries, steps of L/(n − 1): as published."""
    with h5py.File(path, "w") as file:
        for split, mode in enumerate(modes):
            group = file.create_group(mode)
            for i, name in enumerate(("u", "vx", "vy")):
                group[name] = values(N, T, 5, 6, seed=10 * split + i)
            group["t"] = np.tile(np.linspace(0, 20, T), (N, 1))
            group["x"], group["y"] = np.tile(np.linspace(0, 32, 5), (N, 1)), np.tile(np.linspace(0, 16, 6), (N, 1))
            for name, number in (("dt", 5.0), ("dx", 8.0), ("dy", 3.2)):
                group[name] = np.full(N, number)
            group["buo_y"] = np.linspace(0.2, 0.5, N)
            edit(group)
    return path


def kuramoto_sivashinsky(path: Path, edit: Edit = lambda group: None, dx: float = 0.0) -> Path:
    with h5py.File(path, "w") as file:
        group = file.create_group("valid")
        group["pde_4-8"] = values(N, T, 8)
        group["dt"] = 0.2 + 0.01 * np.arange(N)
        group["dx"] = 0.25 + dx * np.arange(N)
        group["v"] = np.linspace(0.5, 1.5, N)
        edit(group)
    return path


def maxwell(path: Path, edit: Edit = lambda group: None) -> Path:
    with h5py.File(path, "w") as file:
        group = file.create_group("test")
        group["d_field"], group["h_field"] = values(N, T, 2, 3, 4, 3), values(N, T, 2, 3, 4, 3, seed=1)
        edit(group)
    return path


def test_navier_stokes(tmp_path: Path) -> None:
    path = navier_stokes(tmp_path / "NavierStokes2D_train_42_0.50000_3.h5")
    data = load_fields(path, ["u", "v"], boundary="neumann")
    assert data.names == ("u", "vx", "vy") and data.values.dtype == np.float64
    for c in range(3):
        np.testing.assert_array_equal(data.values[:, c], values(N, T, 5, 6, seed=c).reshape(N * T, 5, 6))
    # The solver's box is [0, 32] × [0, 16], whatever spacing the coordinates suggest.
    assert data.grid.extent == (32.0, 16.0) and data.grid.origin == (0.0, 0.0)
    # 4 entries from 0 to 20, of steps of 5: the frames are `dt` apart.
    np.testing.assert_array_equal(data.time, np.tile(5.0 * np.arange(T), N))
    source = open_source(path, Layout(boundary="neumann"))
    assert [(v.parent, v.component) for v in source.variables] == [("", ()), ("v", (0,)), ("v", (1,))]
    np.testing.assert_array_equal(source.scalars["buo_y"], np.linspace(0.2, 0.5, N))
    assert set(source.scalars) == {"dt", "dx", "dy", "buo_y"}
    assert set(source.scalar_dims.values()) == {(TRAJECTORY,)}


def test_said_extent_and_origin_win(tmp_path: Path) -> None:
    path = navier_stokes(tmp_path / "a.h5")
    grid = open_source(path, Layout(boundary="neumann", extent=1.0, origin=2.0)).grid
    assert grid.extent == (1.0, 1.0) and grid.origin == (2.0, 2.0)
    assert open_source(path, Layout(boundary="neumann", origin=[2.0, 0.0])).grid.extent == (32.0, 16.0)


def test_splits_of_one_file(tmp_path: Path) -> None:
    path = navier_stokes(tmp_path / "a.h5", modes=("train", "test"))
    assert find_format(path).name == "pdearena" and FORMATS["pdearena"].splits(path) == ("train", "test")
    with pytest.raises(ValueError, match=r"holds train, test; say which with group= \(--data.layout.group\)"):
        open_source(path, Layout(boundary="neumann"))
    with pytest.raises(ValueError, match=r"has no group 'tests'. Did you mean 'test'\?"):
        open_source(path, Layout(boundary="neumann", group="tests"))
    for split, mode in enumerate(("train", "test")):
        data = load_fields(path, ["vx"], layout=Layout(boundary="neumann", group=mode))
        np.testing.assert_array_equal(data.values[:, 0].reshape(N, T, 5, 6), values(N, T, 5, 6, seed=10 * split + 1))


def test_kuramoto_sivashinsky(tmp_path: Path) -> None:
    path = kuramoto_sivashinsky(tmp_path / "KS_valid.h5")
    data = load_fields(path, boundary="periodic")
    np.testing.assert_array_equal(data.values, values(N, T, 8).reshape(N * T, 1, 8))
    assert data.names == ("u",) and data.grid.extent == (2.0,)
    # Each run has a step of its own.
    np.testing.assert_allclose(data.time.reshape(N, T)[2], 0.22 * np.arange(T), rtol=1e-15)
    np.testing.assert_array_equal(open_source(path, Layout(boundary="periodic")).scalars["v"], [0.5, 1.0, 1.5])


def test_kuramoto_sivashinsky_on_boxes_that_differ(tmp_path: Path) -> None:
    path = kuramoto_sivashinsky(tmp_path / "a.h5", dx=0.01)
    with pytest.raises(ValueError, match=r"box differs between runs \(dx from 0.25 to 0.27\); pass extent="):
        open_source(path, Layout(boundary="periodic"))
    source = open_source(path, Layout(boundary="periodic", extent=1.0))
    assert source.grid.extent == (1.0,)
    np.testing.assert_allclose(source.scalars["dx"], [0.25, 0.26, 0.27])


def test_kuramoto_sivashinsky_of_several_resolutions(tmp_path: Path) -> None:
    path = kuramoto_sivashinsky(tmp_path / "a.h5", lambda g: g.create_dataset("pde_4-4", data=values(N, T, 4, seed=1)))
    layout = Layout(boundary="periodic", extent=1.0)
    with pytest.raises(ValueError, match=r"holds pde_4-4, pde_4-8; say which with group= .*such as 'valid/pde_4-4'"):
        open_source(path, layout)
    data = load_fields(path, layout=Layout(boundary="periodic", extent=1.0, group="valid/pde_4-4"))
    np.testing.assert_array_equal(data.values, values(N, T, 4, seed=1).reshape(N * T, 1, 4))


def test_kuramoto_sivashinsky_with_channels(tmp_path: Path) -> None:
    def edit(group: h5py.Group) -> None:
        del group["pde_4-8"]
        group["pde_4-8"] = values(N, T, 2, 8)

    data = load_fields(kuramoto_sivashinsky(tmp_path / "a.h5", edit), boundary="periodic")
    assert data.names == ("u_0", "u_1")
    np.testing.assert_array_equal(data.values, values(N, T, 2, 8).reshape(N * T, 2, 8))


def test_maxwell(tmp_path: Path) -> None:
    path = maxwell(tmp_path / "Maxwell3D_test_42.h5")
    layout = Layout(boundary="neumann", extent=1.6e-5, time=2.0)
    data = load_fields(path, layout=layout)
    assert data.names == tuple(f"{f}_field_{d}" for f in "dh" for d in "xyz")
    both = np.concatenate([values(N, T, 2, 3, 4, 3), values(N, T, 2, 3, 4, 3, seed=1)], -1)
    np.testing.assert_array_equal(data.values, np.moveaxis(both, -1, 2).reshape(N * T, 6, 2, 3, 4))
    assert data.time.tolist() == [0, 2, 4, 6] * N
    source = open_source(path, layout)
    assert [v.pseudo for v in source.variables] == [False] * 3 + [True] * 3
    for missing, option in (("extent", "no coordinates along 'x'; pass extent="), ("time", "4 frames; pass time=")):
        said = {"boundary": "neumann", "extent": 1.6e-5, "time": 2.0}
        del said[missing]
        with pytest.raises(ValueError, match=option):
            open_source(path, Layout.of(said))


def put(name: str, array: np.ndarray) -> Edit:
    def edit(group: h5py.Group) -> None:
        if name in group:
            del group[name]
        group[name] = array

    return edit


@pytest.mark.parametrize(
    ("write", "edit", "message"),
    [
        (navier_stokes, put("x", np.cumsum(np.ones((N, 5)), 0)), r"'/train/x' has the shape \(3, 5\); .*the same"),
        (navier_stokes, put("x", np.tile(np.arange(5.0) ** 2, (N, 1))), "cells of dimension 'x' must be equally"),
        (navier_stokes, put("vx", values(N, T, 5, 7)), r"'/train/vx' has the shape \(3, 4, 5, 7\); expected \(3, 4, 5"),
        (navier_stokes, put("u", values(N, T, 5)), r"'/train/u' has the shape \(3, 4, 5\); expected 4 axes"),
        (navier_stokes, put("t", np.zeros((N, T))), "the times do not increase; frame 1 of trajectory 0"),
        (navier_stokes, lambda g: g.__delitem__("t"), "has no '/train/t'; PDEArena's layout asks for it"),
        (kuramoto_sivashinsky, lambda g: g.__delitem__("dx"), "'/valid' has no 'dx'; pass extent="),
        (kuramoto_sivashinsky, lambda g: g.__delitem__("dt"), "says nothing of the times of its 4 frames; pass time="),
        (kuramoto_sivashinsky, put("pde_4-8", values(N, 8)), r"'/valid/pde_4-8' has the shape \(3, 8\)"),
        (maxwell, put("h_field", values(N, T, 2, 3, 4, 2)), r"'/test/h_field' has the shape \(3, 4, 2, 3, 4, 2\)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(tmp_path: Path, write: Callable, edit: Edit, message: str) -> None:
    layout = Layout(boundary="periodic", extent=1.0, time=1.0) if write is maxwell else Layout(boundary="periodic")
    with pytest.raises(ValueError, match=message) as error:
        open_source(write(tmp_path / "a.h5", edit), layout)
    assert "a.h5" in str(error.value) and "\n" not in str(error.value)


def test_boundary_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'x' has no boundary condition; pass boundary= .*PDEArena made Kuramoto"):
        open_source(navier_stokes(tmp_path / "a.h5"))
    assert find_format(maxwell(tmp_path / "b.h5")).name == "pdearena"
