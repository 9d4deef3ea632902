"""Files that are valid and could be read wrongly without a word: each read by what it says, or refused by its name."""

from __future__ import annotations

import dataclasses
import datetime
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5netcdf
import h5py
import numpy as np
import pytest
import torch
import xarray as xr
from scipy.io import savemat

from physdiff.data.fieldset import FieldSet
from physdiff.data.formats import open_source, source_of
from physdiff.data.handles import close_all
from physdiff.data.layout import Layout
from physdiff.data.repack import repack
from physdiff.data.selection import Selection
from physdiff.data.source import Source

RNG = np.random.default_rng(6)
BOX: dict[str, Any] = {"boundary": "periodic", "extent": 1.0}
ORDER = ("trajectory", "time", "x", "y")


def opened(path: str | Path, mode: str = "r", **options: Any) -> Any:
    return h5py.File(path, mode, **options)  # type: ignore[arg-type]


def values(source: Source, name: str, order: tuple[str, ...]) -> np.ndarray:
    return {v.name: v.view for v in source.variables}[name].read(order)


def tie(file: Any, name: str, axes: dict[str, str]) -> None:
    """Tie coordinates to the axes of a dataset, and name the axes."""
    for axis, (label, scale) in zip(file[name].dims, axes.items(), strict=True):
        axis.label = label
        if not file[scale].is_scale:
            file[scale].make_scale(label)
        axis.attach_scale(file[scale])


def write_runs(path: Path, steps: tuple[float, float], times: tuple[float, float]) -> None:
    """Two runs, a group each, with coordinates of their own."""
    with opened(path, "w") as file:
        for run, step, time in zip(("r1", "r2"), steps, times, strict=True):
            file[f"{run}/u"], file[f"{run}/x"] = RNG.normal(size=(3, 8)), np.arange(8) * step
            file[f"{run}/t"] = np.arange(3) * time
            tie(file, f"{run}/u", {"time": f"{run}/t", "x": f"{run}/x"})


def test_times_that_runs_have_of_their_own(tmp_path: Path) -> None:
    write_runs(tmp_path / "a.h5", (1, 1), (1, 3))
    source = open_source(tmp_path / "a.h5", Layout(fields={"u": "/*/u"}, boundary="periodic"))
    assert source.times.tolist() == [[0, 1, 2], [0, 3, 6]]


def test_runs_and_fields_on_different_grids(tmp_path: Path) -> None:
    write_runs(tmp_path / "a.h5", (1, 3), (1, 1))
    with pytest.raises(ValueError, match=r"coordinates of 'x' differ between the datasets '/\*/u'; .* coordinates="):
        open_source(tmp_path / "a.h5", Layout(fields={"u": "/*/u"}, boundary="periodic"))
    two = Layout(fields={"u": "/r1/u", "v": "/r2/u"}, boundary="periodic")
    with pytest.raises(ValueError, match=r"coordinates of 'x' are others for field 'v' than for 'u'"):
        open_source(tmp_path / "a.h5", two)
    said = Layout.of(two, coordinates={"x": "/r2/x"})
    assert open_source(tmp_path / "a.h5", said).grid.extent == (24,)


def test_a_label_t_is_the_time_and_of_several_clocks_none_is_guessed(tmp_path: Path) -> None:
    """As Dedalus writes: axes by labels, several scales on that of time."""
    u = RNG.normal(size=(3, 8, 8))
    with opened(tmp_path / "a.h5", "w") as file:
        file["tasks/u"] = u
        file["scales/iteration"], file["scales/sim_time"] = np.arange(3) * 10, np.arange(3) * 0.5
        file["scales/wall_time"] = np.arange(3) * 7.0
        file["scales/x_hash"], file["scales/y_hash"] = np.arange(8) / 8, np.arange(8) / 4
        tie(file, "tasks/u", {"t": "scales/iteration", "x": "scales/x_hash", "y": "scales/y_hash"})
        for clock in ("wall_time", "sim_time"):
            file[f"scales/{clock}"].make_scale(clock)
            file["tasks/u"].dims[0].attach_scale(file[f"scales/{clock}"])
    source = open_source(tmp_path / "a.h5", Layout(fields={"u": "tasks/u"}, boundary="periodic"))
    assert source.times.tolist() == [[0, 0.5, 1]] and source.grid.dims == ("x", "y")
    assert source.grid.extent == pytest.approx((1, 2), rel=1e-12)
    np.testing.assert_array_equal(values(source, "u", ("time", "x", "y"))[None], u[None])
    close_all()
    with opened(tmp_path / "a.h5", "r+") as file:
        file["tasks/u"].dims[0].detach_scale(file["scales/sim_time"])
    with pytest.raises(ValueError, match=r"says nothing of the times of its 3 frames; pass time="):
        open_source(tmp_path / "a.h5", Layout(fields={"u": "tasks/u"}, boundary="periodic"))


@pytest.mark.parametrize("word", ["t", "sample", "batch", "Time", "frame"])
def test_another_word_for_an_axis_of_ours_is_no_axis_of_the_grid(tmp_path: Path, word: str) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 6, 5)))
    with pytest.raises(ValueError, match=rf"names an axis '{word}'; write '(time|trajectory)' if it counts"):
        open_source(tmp_path / "a.npy", Layout(dims=[word, "y", "x"], **BOX))
    dataset = xr.Dataset({"u": (("a", "b"), np.zeros((4, 5)))})
    with pytest.raises(ValueError, match=rf"names an axis '{word}'"):
        source_of(dataset, {"dims": [word, "x"], **BOX})


def write_matlab(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with opened(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            file[name] = array.T
            file[name].attrs["MATLAB_class"] = np.bytes_("double")
        file["#refs#/a"] = np.zeros((3, 3))
    with path.open("r+b") as head:
        head.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(508) + b"\x00\x02IM")


@pytest.mark.parametrize("dims", [["x", "y"], ["trajectory", "x", "y"], ["x", "y", "trajectory"]])
def test_runs_of_a_matlab_file_are_stacked_before_its_axes(tmp_path: Path, dims: list[str]) -> None:
    """Three runs of 3x4 numbers: read in the wrong order, shapes alone would not tell."""
    u = RNG.normal(size=(3, 3, 4))
    arrays = {f"run{i}/u": u[i] for i in range(3)} | {f"run{i}/nu": np.array([[float(i)]]) for i in range(3)}
    write_matlab(tmp_path / "a.mat", {"title": np.zeros((1, 1)), **arrays})
    layout = Layout(fields={"u": "/*/u"}, dims=dims, scalars={"nu": "/*/nu"}, **BOX)
    source = open_source(tmp_path / "a.mat", layout)
    np.testing.assert_array_equal(values(source, "u", ("trajectory", "x", "y")), u)
    assert source.grid.dims == ("x", "y") and source.scalars["nu"].tolist() == [0, 1, 2]


def test_times_of_each_run_of_a_matlab_file(tmp_path: Path) -> None:
    u, t = RNG.normal(size=(3, 5, 3)), np.array([[0, 1, 2], [0, 2, 4], [0, 3, 5]])
    write_matlab(
        tmp_path / "a.mat",
        {f"run{i}/u": u[i] for i in range(3)} | {f"run{i}/t": t[i][None] for i in range(3)} | {"n": np.zeros((1, 1))},
    )
    source = open_source(tmp_path / "a.mat", Layout(fields={"u": "/*/u"}, dims=["x", "time"], time="/*/t", **BOX))
    assert source.times.tolist() == t.tolist()


@pytest.mark.parametrize("version", [5, 7])
def test_axes_of_one_entry_at_the_end_that_matlab_drops(tmp_path: Path, version: int) -> None:
    u = RNG.normal(size=(4, 5, 3))
    path = tmp_path / "a.mat"
    write_matlab(path, {"u": u}) if version == 7 else savemat(path, {"u": u})
    source = open_source(path, Layout(fields={"u": "u"}, dims=["x", "y", "time", "trajectory"], time=1.0, **BOX))
    assert source.trajectories == 1 and source.variables[0].varies_between_runs
    view = source.variables[0].view
    np.testing.assert_array_equal(view.read(ORDER), u.transpose(2, 0, 1)[None])
    np.testing.assert_array_equal(view.read(ORDER, {"trajectory": 0, "time": slice(1, 3), "x": 2}), u[2, :, 1:].T)
    with pytest.raises(ValueError, match="no 'component', or 'time' has one entry, which MATLAB does not store"):
        open_source(path, Layout(fields={"u": "u"}, dims=["x", "y", "component", "time"], **BOX))
    layout = Layout(fields={"u": "u"}, dims=["x", "y", "time", "trajectory"], time=1.0, **BOX)
    repack(path, tmp_path / f"b{path.suffix}", layout=layout, progress=False)
    again = open_source(tmp_path / "b.mat", layout if version == 7 else None)
    np.testing.assert_array_equal(values(again, "u", ORDER), u.transpose(2, 0, 1)[None])


def test_complex_numbers_of_matlab(tmp_path: Path) -> None:
    psi = RNG.normal(size=(4, 3)) + 1j * RNG.normal(size=(4, 3))
    records = np.zeros(psi.shape, dtype=[("real", "f8"), ("imag", "f8")])
    records["real"], records["imag"] = psi.real, psi.imag
    write_matlab(tmp_path / "a.mat", {"psi": records})
    source = open_source(tmp_path / "a.mat", Layout(fields={"psi": "psi"}, dims=["x", "y"], **BOX))
    np.testing.assert_array_equal(values(source, "psi_real", ("x", "y")), psi.real)
    np.testing.assert_array_equal(values(source, "psi_imag", ("x", "y")), psi.imag)
    with pytest.raises(ValueError) as caught:
        open_source(tmp_path / "a.mat")
    assert "#refs#" not in str(caught.value)


def test_a_repacked_matlab_file_is_one_for_matlab_too(tmp_path: Path) -> None:
    write_matlab(tmp_path / "a.mat", {"u": RNG.normal(size=(4, 5, 3))})
    layout = Layout(fields={"u": "u"}, dims=["x", "y", "time"], time=1.0, **BOX)
    repack(tmp_path / "a.mat", tmp_path / "b.mat", layout=layout, progress=False)
    assert (tmp_path / "b.mat").read_bytes()[:512] == (tmp_path / "a.mat").read_bytes()[:512]
    assert open_source(tmp_path / "b.mat", layout).schema == "matlab"


def test_coordinates_of_few_bits() -> None:
    dataset = xr.Dataset(
        {"u": (("y", "x"), RNG.normal(size=(7, 7)))},
        coords={"x": np.linspace(-30000, 30000, 7).astype("i2"), "y": np.linspace(120, -120, 7).astype("i1")},
    )
    grid = source_of(dataset, {"boundary": "periodic"}).grid
    assert grid.extent == pytest.approx((280, 70000)) and grid.origin == pytest.approx((-140, -35000))


def test_integers_whose_sign_an_attribute_gives_or_takes(tmp_path: Path) -> None:
    with opened(tmp_path / "a.nc", "w") as file:
        file["x"] = np.arange(8.0)
        file["x"].make_scale("x")
        for name, kind, unsigned, mark in (
            ("a", "u1", "false", None), ("b", "i1", "true", None), ("c", "u1", "true", None),
            ("d", "i1", "false", None), ("e", "u1", "false", np.uint8(253)), ("f", "i2", "true", np.int16(-3)),
        ):  # fmt: skip
            file[name] = np.array([-4, -3, -2, -1, 0, 1, 2, 3]).astype(kind)
            file[name].attrs["_Unsigned"] = unsigned
            if mark is not None:
                file[name].attrs["_FillValue"], file[name].attrs["scale_factor"] = mark, 0.5
            file[name].dims[0].attach_scale(file["x"])
    source = open_source(tmp_path / "a.nc", Layout(boundary="periodic"))
    with xr.open_dataset(tmp_path / "a.nc", engine="h5netcdf") as expected:
        for name in "abcdef":
            np.testing.assert_array_equal(values(source, name, ("x",)), expected[name].values, err_msg=name)


def test_a_scale_for_each_channel_is_not_that_of_the_first(tmp_path: Path) -> None:
    with opened(tmp_path / "a.h5", "w") as file:
        file["u"] = np.ones((2, 3, 8), "i2")
        file["u"].attrs["scale_factor"] = [1.0, 2.0, 3.0]
    layout = Layout(fields={"u": "u"}, dims=["trajectory", "component", "x"], **BOX)
    with pytest.raises(ValueError, match="has 3 different numbers as its attribute scale_factor; expected one"):
        open_source(tmp_path / "a.h5", layout)
    close_all()
    with opened(tmp_path / "a.h5", "r+") as file:
        file["u"].attrs["scale_factor"] = [2.0]
    assert values(open_source(tmp_path / "a.h5", layout), "u_1", ("trajectory", "x")).tolist() == [[2.0] * 8] * 2


def test_what_yaml_makes_of_numbers_and_names(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 3, 4, 5)))
    said = tmp_path / "a.yaml"

    def source(text: str) -> Source:
        said.write_text(f"dims: [trajectory, component, 1, x]\nboundary: periodic\n{text}\n")
        return open_source(tmp_path / "a.npy", Layout.of(said))

    found = source("extent: [1e-3, 2.5e3]\norigin: -1E2\ncomponents: [500, 850, 1000]")
    assert found.names == ("500", "850", "1000") and found.grid.dims == ("1", "x")
    assert found.grid.extent == (1e-3, 2500) and found.grid.origin == (-100, -100)
    with pytest.raises(ValueError, match="'components' names False; expected a name, in quotes"):
        source("extent: 1\ncomponents: [no, no2, o3]")
    said.write_text("dims: [trajectory, time, y, x]\nboundary: periodic\nextent: 1\ntime: 1e-3\n")
    assert open_source(tmp_path / "a.npy", Layout.of(said)).times[0].tolist() == [0, 1e-3, 2e-3]
    tuples = Layout.of({"dims": ORDER, "extent": (np.float32(1), 2), "boundary": ("periodic", "neumann"), "time": 1})
    grid = open_source(tmp_path / "a.npy", tuples).grid
    assert grid.extent == (1, 2) and grid.boundary == ("periodic", "neumann")


def test_numbers_as_people_store_them(tmp_path: Path) -> None:
    with opened(tmp_path / "a.h5", "w") as file:
        file["u"], file["nu"] = RNG.normal(size=(4, 3, 8)), np.arange(4.0)[:, None]
        file["dt"], file["one"], file["s"], file["when"] = 0.1, [0.1], RNG.normal(size=(4, 8)), np.arange(4.0)
        file["runs/a/u"], file["runs/b/u"] = RNG.normal(size=(2, 2, 8))
        file["runs/a/dt"], file["runs/b/dt"] = 0.1, 0.3
    layout = Layout(fields={"u": "u"}, dims=["trajectory", "time", "x"], scalars={"nu": "nu"}, **BOX)
    for name in ("dt", "one"):
        source = open_source(tmp_path / "a.h5", Layout.of(layout, time=name))
        np.testing.assert_allclose(source.times, [[0, 0.1, 0.2]] * 4, rtol=1e-15)
    assert source.scalars["nu"].tolist() == [0, 1, 2, 3]
    snapshots = Layout(fields={"s": "s"}, dims=["trajectory", "x"], time="when", **BOX)
    assert open_source(tmp_path / "a.h5", snapshots).times.tolist() == [[0], [1], [2], [3]]
    # As many runs as frames: the time between frames of each, not the times of two frames.
    runs = Layout(fields={"u": "/runs/*/u"}, dims=["time", "x"], time="/runs/*/dt", **BOX)
    assert open_source(tmp_path / "a.h5", runs).times.tolist() == [[0, 0.1], [0, 0.3]]
    torch.save({"u": torch.zeros(2, 3, 8), "dt": 0.5, "nu": [1.0, 2.0]}, tmp_path / "a.pt")
    source = open_source(tmp_path / "a.pt", Layout.of(layout, time="dt"))
    assert source.times[1].tolist() == [0, 0.5, 1] and source.scalars["nu"].tolist() == [1, 2]


def test_coordinates_for_each_cell(tmp_path: Path) -> None:
    """As meshgrid makes them; on a square they tell whether the axes are named as they are stored."""
    x, y = np.arange(6.0), np.arange(6.0) * 2
    by_y, by_x = np.meshgrid(y, x, indexing="ij")
    np.savez(tmp_path / "a.npz", u=RNG.normal(size=(2, 6, 6)), X=by_x, Y=by_y)
    said: dict[str, Any] = {"fields": {"u": "u"}, "coordinates": {"x": "X", "y": "Y"}, "boundary": "periodic"}
    assert open_source(tmp_path / "a.npz", Layout(dims=["trajectory", "y", "x"], **said)).grid.extent == (12, 6)
    with pytest.raises(ValueError, match=r"do not change along 'x' alone: the axes are named in another order"):
        open_source(tmp_path / "a.npz", Layout(dims=["trajectory", "x", "y"], **said))


def test_variables_along_another_axis_than_the_one_they_are_named_for() -> None:
    dataset = xr.Dataset(
        {"u": (("time", "run", "y", "x"), RNG.normal(size=(4, 4, 4, 4)))},
        coords={"xs": (("x",), np.arange(4.0) * 2), "ys": (("y",), np.arange(4.0)), "time": np.arange(4.0)},
    )
    dataset["nu"] = (("time", "run"), np.arange(16.0).reshape(4, 4))
    dataset["rate"] = (("run",), np.arange(4.0))
    said: dict[str, Any] = {"boundary": "periodic", "coordinates": {"x": "xs", "y": "ys"}}
    source = source_of(dataset, {**said, "scalars": {"mine": "nu", "rate": "rate"}})
    np.testing.assert_array_equal(source.scalars["mine"], np.arange(16.0).reshape(4, 4).T)
    assert source.scalar_dims["mine"] == ("trajectory", "time") and source.scalar_dims["rate"] == ("trajectory",)
    with pytest.raises(ValueError, match=r"'xs' lies along the axis 'x'; coordinates= .* names it for y"):
        source_of(dataset, {**said, "coordinates": {"x": "ys", "y": "xs"}})
    with pytest.raises(ValueError, match=r"'xs' lies along the axis 'x'; time= .* names it for"):
        source_of(dataset, {**said, "time": "xs"})


def test_coordinates_that_a_group_has_from_above(tmp_path: Path) -> None:
    u = RNG.normal(size=(3, 8))
    with h5netcdf.File(tmp_path / "a.nc", "w") as file:
        file.dimensions = {"x": 8, "time": 3}
        for name, numbers in (("x", np.arange(8) * 0.5), ("time", np.arange(3) * 2.0)):
            file.create_variable(name, (name,), float)[:] = numbers
        file.create_group("a/b").create_variable("u", ("time", "x"), float)[:] = u
    source = open_source(tmp_path / "a.nc", Layout(boundary="periodic", group="a/b"))
    assert source.grid.extent == (4,) and source.times.tolist() == [[0, 2, 4]] and source.names == ("u",)
    np.testing.assert_array_equal(values(source, "u", ("time", "x")), u)


def test_a_variable_on_fewer_axes_is_told_of() -> None:
    dataset = xr.Dataset(
        {"zos": (("y", "x"), np.zeros((4, 5))), "thetao": (("z", "y", "x"), np.zeros((3, 4, 5)))},
        coords={d: np.arange(float(n)) for d, n in (("z", 3), ("y", 4), ("x", 5))},
    )
    source = source_of(dataset, {"boundary": "periodic"})
    assert source.names == ("thetao",) and str(source.attrs["not read"]).startswith("zos, on fewer axes; fields=")


@dataclass(frozen=True)
class Date:
    """Stands for a date of cftime: what numpy cannot hold, with its calendar; here years of 360 days."""

    year: int
    month: int
    day: int
    hour: int = 0
    minute: int = 0
    second: int = 0
    microsecond: int = 0
    calendar = "360_day"

    def replace(self, **parts: int) -> Date:
        return dataclasses.replace(self, **parts)

    def __sub__(self, other: Date) -> datetime.timedelta:
        days = 360 * (self.year - other.year) + 30 * (self.month - other.month) + self.day - other.day
        return datetime.timedelta(days, hours=self.hour - other.hour)


@pytest.mark.parametrize(
    ("dim", "labels", "names"),
    [("time", [0.0, 1], ["u"]), ("analysed", [0.0, 1], ["u"]), ("level", [7.0, 9], ["u_7", "u_9"]),
     ("substance", ["A", "B"], ["u_A", "u_B"])],
)  # fmt: skip
def test_a_field_without_an_axis_of_time_or_levels_is_one_however_this_axis_is_known(
    dim: str, labels: list[Any], names: list[str]
) -> None:
    attrs = {"units": "days since 2000-01-01"} if labels[0] == 0 else {}
    u, land = np.arange(24.0).reshape(2, 3, 4), np.arange(12.0).reshape(3, 4)
    data = xr.Dataset(
        {"u": ((dim, "y", "x"), u), "land": (("y", "x"), land)},
        {dim: ((dim,), labels, attrs), "y": np.arange(3.0), "x": np.arange(4.0)},
    )
    source = source_of(data, {"boundary": "neumann"})
    assert list(source.names) == [*names, "land"]
    np.testing.assert_array_equal(source.variables[-1].view.read(("y", "x")), land)


def test_dates_of_other_calendars() -> None:
    dates = np.array([Date(1960, 2, 29), Date(1970, 1, 30)], dtype=object)
    dataset = xr.Dataset({"u": (("time", "x"), np.zeros((2, 4)))}, {"time": dates, "x": np.arange(4.0)})
    source = source_of(dataset, {"boundary": "periodic"})
    assert source.times.tolist() == [[(-3600 + 30 + 28) * 86400.0, 29 * 86400.0]]
    assert source.attrs["time_calendar"] == "360_day" and source.attrs["time_units"] == "seconds since 1970-01-01"


def test_files_that_count_time_from_different_moments(tmp_path: Path) -> None:
    sources = []
    for year in (2000, 2001):
        dataset = xr.Dataset(
            {"u": (("time", "x"), RNG.normal(size=(2, 4)))},
            {"x": np.arange(4.0), "time": (("time",), [0.0, 1], {"units": f"days since {year}-01-01"})},
        )
        sources.append(source_of(dataset, {"boundary": "periodic"}, f"{year}"))
    assert len(FieldSet(sources, Selection(), "all")) == 4
    with pytest.raises(ValueError, match="2001 has time_units 'days since 2001-01-01', 2000 has 'days since 2000"):
        FieldSet(sources, Selection(condition=("time",)), "all")


def write_well(path: Path, time: list[float], **attrs: float) -> None:
    with opened(path, "w") as file:
        file.attrs["n_trajectories"] = 1
        file["dimensions/x"], file["dimensions/time"] = np.arange(4.0), time
        file["dimensions"].attrs["spatial_dims"] = ["x"]
        file["t0_fields/u"] = np.ones((1, len(time), 4), "i2")
        file["t0_fields/u"].attrs.update(attrs)


def test_files_of_a_schema_that_its_readers_would_take_amiss(tmp_path: Path) -> None:
    said = Layout(boundary="periodic")
    write_well(tmp_path / "a.h5", [2.0, 1.0, 1.0])
    with pytest.raises(ValueError, match=r"times do not increase; frame 1 of trajectory 0 is at 1\. .* time= "):
        open_source(tmp_path / "a.h5", said)
    assert open_source(tmp_path / "a.h5", Layout.of(said, time=0.5)).times.tolist() == [[0, 0.5, 1]]
    write_well(tmp_path / "b.h5", [0.0, 1.0], scale_factor=0.5)
    with pytest.raises(ValueError, match=r"/u' has the attribute scale_factor, .* by fields="):
        open_source(tmp_path / "b.h5", said)
    layout = Layout(fields={"u": "/t0_fields/u"}, dims=["trajectory", "time", "x"], time="/dimensions/time", **BOX)
    assert values(open_source(tmp_path / "b.h5", layout), "u", ("trajectory", "time", "x"))[0, 0, 0] == 0.5


def test_a_store_in_a_zip_archive_says_so(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zarr.zip", "w") as archive:
        archive.writestr("zarr.json", "{}")
    with pytest.raises(ValueError, match="is a zarr store in one zip archive; unpack it"):
        open_source(tmp_path / "a.zarr.zip")
