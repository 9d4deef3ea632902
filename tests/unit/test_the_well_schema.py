"""The Well's layout: what a file may say or leave out of its numbers, sides and axes, and what settles it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from test_the_well import N, T, delete, published, replace

from physdiff.data import load_fields
from physdiff.data.formats import open_source
from physdiff.data.layout import Layout
from physdiff.data.source import TIME, TRAJECTORY


def test_opening_reads_no_field(tmp_path: Path) -> None:
    source = open_source(published(tmp_path / "a.hdf5"))
    views = {v.name: v.view for v in source.variables}
    assert views["profile"].sizes == {TIME: T, "y": 4} and views["depth"].sizes == {TRAJECTORY: N, "x": 3, "y": 4}
    assert views["stress_xy"].fixed == {"component": 0, "second component": 1}
    by_name = {v.name: v for v in source.variables}
    assert by_name["stress_xy"].parent == "stress" and by_name["stress_xy"].component == (0, 1)
    # One stored array for all components: a reader of both asks for it once.
    assert views["velocity_x"].array == views["velocity_y"].array


def test_constant_axis_may_have_one_entry(tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        values = file["t0_fields/profile"][()]
        replace("t0_fields/profile", values[:, None])(file)

    absent, single = published(tmp_path / "a.hdf5"), published(tmp_path / "b.hdf5", edit)
    one, other = (load_fields(path, ["profile"]).values for path in (absent, single))
    np.testing.assert_array_equal(one, other)
    assert np.ptp(one, axis=2).max() == 0 and np.ptp(one) > 1


@pytest.mark.parametrize("said", [True, False], ids=["flags said", "flags left out"])
def test_numbers_of_runs_of_every_shape(tmp_path: Path, said: bool) -> None:
    stored = {
        "gravity": (np.float64(9.81), (False, False), ()),
        "length": (np.array([2.0]), (False, False), ()),
        "seed": (np.array([3, 5]), (True, False), (TRAJECTORY,)),
        "forcing": (np.arange(5.0), (False, True), (TIME,)),
        "energy": (np.arange(10.0).reshape(N, T), (True, True), (TRAJECTORY, TIME)),
    }

    def edit(file: h5py.File) -> None:
        for name, (values, flags, _) in stored.items():
            dataset = file.create_dataset(f"scalars/{name}", data=values)
            if said:
                dataset.attrs.update(dict(zip(("sample_varying", "time_varying"), flags, strict=True)))
        file["scalars/solver"] = "spectral"
        file.attrs.update({"simulation_parameters": ["gravity", "viscosity"], "gravity": 0.0, "viscosity": 0.25})

    source = open_source(published(tmp_path / "a.hdf5", edit))
    assert sorted(source.scalars) == sorted([*stored, "viscosity"])
    for name, (values, _, dims) in stored.items():
        assert source.scalar_dims[name] == dims
        np.testing.assert_array_equal(source.scalars[name], values if dims else np.ravel(values)[0])
    assert source.scalars["viscosity"] == 0.25 and source.scalar_dims["viscosity"] == ()


def test_number_that_is_not_what_its_flags_say_is_refused(tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        file.create_dataset("scalars/seed", data=np.zeros(3)).attrs["sample_varying"] = True

    with pytest.raises(ValueError, match=r"'/scalars/seed' has shape \(3,\); expected \(2,\) for \(trajectory\)"):
        open_source(published(tmp_path / "a.hdf5", edit))


def _sides(**codes: dict[str, list[bool] | None]) -> Callable[[h5py.File], object]:
    """Boundary groups: per axis the masks of each code."""

    def edit(file: h5py.File) -> None:
        del file["boundary_conditions"]
        for dim, masks in codes.items():
            for code, mask in masks.items():
                group = file.create_group(f"boundary_conditions/{dim}_{code}")
                group.attrs.update({"associated_dims": [dim], "bc_type": code})
                if mask is not None:
                    group["mask"] = mask

    return edit


F, X = False, True


@pytest.mark.parametrize(
    ("y", "expected"),
    [
        ({"WALL": None}, "neumann"),
        ({"wall": [X, F, F, X]}, "neumann"),
        ({"WALL": [F, F, F, F]}, "neumann"),
        ({"PERIODIC": [X, F, F, F]}, "periodic"),
        ({"WALL": [X, F, F, F]}, "boundary condition WALL at its lower end and none at its upper"),
        (
            {"WALL": [X, F, F, F], "OPEN": [F, F, F, X]},
            "boundary condition WALL at its lower end and OPEN at its upper",
        ),
        ({"OPEN": [X, F, F, X]}, "boundary condition OPEN; physdiff knows"),
        ({"WALL": [X, F, F, X], "PERIODIC": None}, "boundary condition PERIODIC, WALL; physdiff knows"),
    ],
    ids=["no mask", "both ends", "mask of nothing", "periodic", "one end", "two kinds", "open", "contradiction"],
)
def test_boundary_of_each_end(tmp_path: Path, y: dict[str, list[bool] | None], expected: str) -> None:
    path = published(tmp_path / "a.hdf5", _sides(x={"PERIODIC": None}, y=y))
    if expected in ("neumann", "periodic"):
        assert open_source(path).grid.boundary == ("periodic", expected)
        return
    with pytest.raises(ValueError, match=f"dimension 'y' has {expected}.*pass boundary="):
        open_source(path)
    boundary = ["periodic", "dirichlet"]
    assert open_source(path, Layout(boundary=boundary)).grid.boundary == ("periodic", "dirichlet")


def test_wall_inside_the_box_is_a_mask_and_no_side(tmp_path: Path) -> None:
    wall = np.zeros((4, 3), dtype=bool)
    wall[2, 1] = True  # stored (y, x), as @associated_dims says

    def edit(file: h5py.File) -> None:
        group = file.create_group("boundary_conditions/obstacle")
        group.attrs.update({"associated_dims": ["y", "x"], "bc_type": "WALL"})
        group["mask"] = wall

    source = open_source(published(tmp_path / "a.hdf5", edit))
    assert source.grid.boundary == ("periodic", "neumann")
    assert source.observed is not None
    np.testing.assert_array_equal(source.observed.read(("x", "y")), ~wall.T)
    assert open_source(published(tmp_path / "b.hdf5")).observed is None


def test_layout_says_what_the_file_does_not(tmp_path: Path) -> None:
    path = published(tmp_path / "a.hdf5")
    layout = Layout(
        extent=[3.0, 8.0], origin=1.0, length_unit="m", time=0.5, pseudo=["stress", "velocity_x"], mask="depth",
    )  # fmt: skip
    source = open_source(path, layout)
    assert (source.grid.extent, source.grid.origin, source.grid.units) == ((3.0, 8.0), (1.0, 1.0), ("m", "m"))
    np.testing.assert_array_equal(source.times, np.tile(0.5 * np.arange(T), (N, 1)))
    assert {v.name for v in source.variables if v.pseudo} == {f"stress_{c}" for c in ("xx", "xy", "yx", "yy")} | {
        "velocity_x"
    }
    assert source.observed is not None and "depth" not in source.names
    named = open_source(path, Layout(vectors={"flow": ["velocity_x", "velocity_y"]}))
    assert [(v.parent, v.component) for v in named.variables if v.parent == "flow"] == [("flow", (0,)), ("flow", (1,))]
    for wrong, message in (
        (
            Layout(dims=["x"]),
            r"is read as the_well, which has no use for 'dims' \(--data.layout.dims\); it takes bound",
        ),
        (
            Layout(extent=[1.0]),
            r"axes x, y; extent= \(--data.layout.extent\) has 1 numbers, \[1.0\]: expected one, or 2",
        ),
        (Layout(pseudo=["pres"]), "has no field 'pres', which pseudo= "),
        (
            Layout(vectors={"v": ["depth"]}),
            "the vector 'v' has the components depth; expected one for each of the axes",
        ),
        (Layout(time="/nowhere"), "has no dataset '/nowhere', which time="),
    ):
        with pytest.raises(ValueError, match=message):
            open_source(path, wrong)


def test_axis_of_one_cell_asks_for_its_extent(tmp_path: Path) -> None:
    def edit(file: h5py.File) -> None:
        del file["t0_fields"], file["t1_fields"], file["t2_fields"]
        replace("dimensions/x", np.array([0.25]))(file)
        field = file.create_dataset("t0_fields/u", data=np.arange(N * T * 4.0).reshape(N, T, 1, 4))
        field.attrs["sample_varying"] = True

    path = published(tmp_path / "a.hdf5", edit)
    with pytest.raises(ValueError, match=r"'x' has one cell, .*pass extent= \(--data.layout.extent\)"):
        open_source(path)
    grid = open_source(path, Layout(extent=[0.5, 4.0])).grid
    assert grid.extent == (0.5, 4.0) and grid.origin == (0.0, -0.5)


@pytest.mark.parametrize("missing", ["dimensions", "t0_fields", "boundary_conditions"])
def test_file_of_which_half_is_missing_is_still_one_of_the_well(tmp_path: Path, missing: str) -> None:
    path = published(tmp_path / "a.hdf5", delete(missing))
    if missing == "t0_fields":
        assert open_source(path).names[0] == "velocity_x"
        return
    with pytest.raises(ValueError, match=r"'/dimensions'|has boundary condition none"):
        open_source(path)


def test_schema_that_is_forced_on_another_file_is_refused_by_what_it_lacks(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["u"] = np.zeros(3)
    with pytest.raises(ValueError, match=r"has no '/dimensions'; The Well's layout asks for it"):
        open_source(tmp_path / "a.hdf5", Layout(schema="the_well"))
