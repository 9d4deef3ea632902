"""What files mean: velocities along their axes, vorticities that turn, points on walls. Known flows in every format.

A flow u = (∂ψ/∂y, −∂ψ/∂x) of a stream function has no divergence and the vorticity −∇²ψ; both hold by differences along
the axes that a reader names only if components and axes belong together, and after every turn only if signs are right.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import xarray as xr

from physdiff.config import RunSettings
from physdiff.data.axis_ends import doubtful_ends
from physdiff.data.fieldset import FieldSet
from physdiff.data.flow_sense import doubtful_components
from physdiff.data.formats import open_source
from physdiff.data.formats.xarray_objects import source_of
from physdiff.data.globe import doubts_of_maps
from physdiff.data.inspect import inspect
from physdiff.data.layout import Layout
from physdiff.data.selection import Selection
from physdiff.data.settings import DataSettings
from physdiff.data.source import Source
from physdiff.data.symmetry import senses, sources, turns
from physdiff.data.turned_names import doubtful_signs
from physdiff.model import NetworkSettings
from physdiff.processes.heat import Heat
from physdiff.training.job import prepare
from physdiff.training.remarks import of_axes
from physdiff.training.settings import TrainSettings

N = 12
H = 2 * np.pi / N


def flow() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """u along x (first axis), v along y (second), and the vorticity, by central differences: (N, N) each."""
    psi = np.random.default_rng(1).standard_normal((N, N))
    u, v = across(psi, 1), -across(psi, 0)
    return u, v, across(v, 0) - across(u, 1)


def across(f: Any, axis: int) -> Any:
    back, on = (np.roll(f, s, axis) for s in (1, -1))
    return (on - back) / (2 * H)


X = (np.arange(N) + 0.5) * H
T = np.array([0.0, 1.0])


def stacked(f: np.ndarray) -> np.ndarray:
    return np.broadcast_to(f, (2, 2, *f.shape)).copy()


def pdebench_compressible(path: Path) -> Layout:
    u, v, w = flow()
    with h5py.File(path, "w") as file:
        file["density"], file["pressure"], file["Vx"], file["Vy"] = (stacked(f) for f in (u, v, u, v))
        file["x-coordinate"], file["y-coordinate"], file["t-coordinate"] = X, X, np.arange(3.0)
        file["omega"] = stacked(w)
    return Layout(boundary="periodic", pseudo=["omega"])


def pdebench_incompressible(path: Path) -> Layout:
    u, v, w = flow()
    with h5py.File(path, "w") as file:
        file["velocity"] = np.stack([stacked(u), stacked(v)], -1)
        file["particles"], file["omega"] = stacked(u)[..., None], stacked(w)[..., None]
        file["t"] = np.stack([T, T])
    return Layout(boundary="periodic", extent=2 * np.pi, pseudo=["omega"])


def the_well(path: Path) -> Layout:
    u, v, w = flow()
    with h5py.File(path, "w") as file:
        file.attrs["n_trajectories"] = 2
        file["dimensions/time"], file["dimensions/x"], file["dimensions/y"] = T, X, X
        file["dimensions"].attrs["spatial_dims"] = ["x", "y"]
        file["t0_fields/omega"] = stacked(w)
        file["t1_fields/velocity"] = np.stack([stacked(u), stacked(v)], -1)
    return Layout(boundary="periodic", pseudo=["omega"])


def matlab(path: Path) -> Layout:
    """Axes reversed, as v7.3 stores what MATLAB calls (x, y, time, run)."""
    u, v, w = flow()
    with h5py.File(path, "w") as file:
        for name, f in (("u", u), ("v", v), ("omega", w)):
            file[name] = stacked(f).transpose(0, 1, 3, 2)
            file[name].attrs["MATLAB_class"] = np.bytes_("double")
    dims = ["x", "y", "time", "trajectory"]
    return Layout(
        fields={name: name for name in ("u", "v", "omega")}, dims=dims, extent=2 * np.pi, boundary="periodic", time=1.0,
        vectors={"velocity": {"x": "u", "y": "v"}}, pseudo=["omega"],
    )  # fmt: skip


def netcdf(path: Path) -> Layout:
    """As maps are: latitude first and from north to south, u to the east, v to the north."""
    u, v, w = (f.T[::-1] for f in flow())
    data = xr.Dataset(
        {n: (("time", "lat", "lon"), np.stack([f, f])) for n, f in (("u", u), ("v", v), ("omega", w))},
        {"time": T, "lat": X[::-1].copy(), "lon": X},
    )
    data.to_netcdf(path)
    return Layout(
        fields={name: name for name in ("u", "v", "omega")}, boundary="periodic",
        vectors={"velocity": {"lon": "u", "lat": "v"}}, pseudo=["omega"],
    )  # fmt: skip


def py_pde(path: Path) -> Layout:
    u, v, w = flow()
    grid = {"class": "CartesianGrid", "shape": [N, N], "bounds": [[0, 2 * np.pi]] * 2, "periodic": [True, True]}
    fields = [
        {"class": json.dumps(kind), "label": json.dumps(name), "grid": json.dumps(grid)}
        for kind, name in (("VectorField", "velocity"), ("ScalarField", "omega"))
    ]
    with h5py.File(path, "w") as file:
        file["data"], file["times"] = np.stack([np.stack([u, v, w])] * 2), T
        whole = {"class": json.dumps("FieldCollection"), "fields": json.dumps(fields)}
        file.attrs["field_attributes"] = json.dumps(whole)
    return Layout(pseudo=["omega"])


@pytest.mark.parametrize(
    "write",
    [py_pde, pdebench_compressible, pdebench_incompressible, the_well, matlab, netcdf],
    ids=lambda f: f.__name__,
)
def test_a_flow_without_divergence_is_one_by_our_axes_and_stays_so_when_it_is_turned(
    tmp_path: Path, write: Callable[[Path], Layout]
) -> None:
    path = tmp_path / ("flow.nc" if write is netcdf else "flow.h5")
    layout = write(path)
    source = open_source(path, layout)
    vector = [v for v in source.variables if v.parent and v.component]
    spin = next(v for v in source.variables if v.name == "omega")
    fields = FieldSet([source], Selection(fields=(*(v.name for v in vector), spin.name)))
    x, grid = torch.as_tensor(fields.read([0]).values[0]), source.grid
    assert not any("fields" in line for line in doubtful_ends(source))
    channels = senses(fields.channels)
    every = turns(("flip", "rotate"), grid)
    assert len(every) == 8
    for turn in every:
        u, v, w = turn.of_fields(x[None], *sources(turn, channels))[0].numpy()
        along = {c.component[0]: f for c, f in zip(channels[:2], (u, v), strict=True)}
        assert np.abs(across(along[0], 0) + across(along[1], 1)).max() < 1e-5
        # Axes (latitude, longitude) are left-handed: the curl by their order is the spin to the other side.
        hand = -1 if write is netcdf else 1
        np.testing.assert_allclose(across(along[1], 0) - across(along[0], 1), hand * w, atol=1e-4)


def test_pdearena_marks_where_its_fields_stand(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        group = file.create_group("train")
        for name in ("u", "vx", "vy"):
            group[name] = np.random.default_rng(0).standard_normal((1, 3, 8, 8))
        group["t"] = [[18.0, 39.0, 60.0]]  # 42 in three entries of steps of 14, as its generator writes 56 of 84
        group["dt"], group["x"], group["y"] = [21.0], [np.linspace(0, 32, 8)], [np.linspace(0, 32, 8)]
    source = open_source(tmp_path / "a.h5", Layout(boundary="neumann"))
    np.testing.assert_array_equal(source.times, [[18.0, 39.0, 60.0]])  # dt says so too
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file.pop("train/dt")
        file["train/dt"] = [14.0]
    source = open_source(tmp_path / "a.h5", Layout(boundary="neumann"))
    np.testing.assert_array_equal(source.times, [[18.0, 32.0, 46.0]])
    told = doubtful_signs(source, source.variables, turns(("flip",), source.grid))
    assert len(told) == 1 and "different places of a cell" in told[0]
    assert doubtful_signs(source, source.variables[:1], turns(("flip",), source.grid)) == []


@pytest.mark.parametrize(("attrs", "turns_sign"), [({"Nu": 0.1}, True), ({"Nu": 0.1, "rho": 1.0}, False), ({}, False)])
def test_burgers_velocity_is_known(tmp_path: Path, attrs: dict[str, float], turns_sign: bool) -> None:
    with h5py.File(tmp_path / "b.hdf5", "w") as file:
        file["tensor"], file["x-coordinate"], file["t-coordinate"] = np.ones((2, 3, N), "f4"), X, np.arange(4.0)
        file.attrs.update(attrs)
    source = open_source(tmp_path / "b.hdf5", Layout(boundary="periodic"))
    assert source.variables[0].pseudo is turns_sign


def of(values: dict[str, np.ndarray], x: np.ndarray = X, boundary: str = "periodic", **said: Any) -> Source:
    data = xr.Dataset({n: (("time", "x", "y"), f) for n, f in values.items()}, {"time": T, "x": x, "y": X})
    return source_of(data, {"boundary": [boundary, "periodic"], **said}, "a.nc")


@pytest.mark.parametrize(
    ("names", "said", "words", "told"),
    [
        (["vorticity"], {}, "flip", "pseudo="),
        (["vorticity"], {}, "rotate", None),
        (["vorticity"], {"pseudo": ["vorticity"]}, "flip", None),
        (["vorticity_magnitude"], {}, "flip", None),
        (["omega_z"], {}, "flip", "pseudo="),
        (["vor"], {}, "flip", "pseudo="),
        (["vx", "vy"], {}, "rotate", "vectors="),
        (["vx", "vy"], {"vectors": {"v": ["vx", "vy"]}}, "rotate", None),
        (["flux", "density"], {}, "flip", None),
        (["u", "v"], {}, "flip", None),  # of Gray and Scott, for all that is known
        (["x", "y_0"], {}, "flip", None),
    ],
)
def test_names_of_fields_that_turn(names: list[str], said: dict[str, Any], words: str, told: str | None) -> None:
    values = {name: np.random.default_rng(i).standard_normal((2, N, N)) for i, name in enumerate(names)}
    source = of({f"{n}_" if n in ("x", "y") else n: f for n, f in values.items()}, **said)
    found = doubtful_signs(source, source.variables, turns((words,), source.grid))
    assert (told is None and not found) or (len(found) == 1 and told is not None and told in found[0])
    assert doubtful_signs(source, source.variables, turns((), source.grid)) == []


def test_winds_by_their_unit(tmp_path: Path) -> None:
    source = of({n: np.random.default_rng(i).standard_normal((2, N, N)) for i, n in enumerate("uv")})
    winds = [replace(v, units="m s-1") for v in source.variables]
    assert "'u' and 'v'" in doubtful_signs(source, winds, turns(("flip",), source.grid))[0]
    omega = replace(winds[0], name="omega", units="Pa s**-1")
    assert doubtful_signs(source, [omega], turns(("flip",), source.grid)) == []


@pytest.mark.parametrize("kind", ["float64", "float32"])
def test_a_point_that_comes_twice_on_a_periodic_axis_is_told(tmp_path: Path, kind: str) -> None:
    x = np.linspace(0, 2 * np.pi, N + 1)
    inner = np.random.default_rng(0).standard_normal((2, N, N))
    twice = np.concatenate([inner, inner[:, :1]], 1).astype(kind)
    source = of({"p": twice}, x)
    assert source.grid.extent[0] == pytest.approx(2 * np.pi * (N + 1) / N)
    assert list(doubtful_ends(source)) == ["x"] and "data.crop {x: [0, 12]}" in doubtful_ends(source)["x"]
    # What it advises has the length of the box.
    cut = FieldSet([source], Selection(crop={"x": (0, N)}, crop_boundary={"x": "periodic"}))
    assert cut.grid.extent[0] == pytest.approx(2 * np.pi) and cut.grid.boundary[0] == "periodic"
    assert of_axes(FieldSet([source], Selection())) and not of_axes(cut)
    # With another field that does not repeat, or an even one, nothing is known.
    other = {"p": twice, "q": np.random.default_rng(1).standard_normal(twice.shape)}
    centres = (np.arange(N + 1) + 0.5) * H
    assert doubtful_ends(of(other, centres)) == {}
    even = np.concatenate([inner[:, :6], inner[:, 5::-1]], 1)
    assert doubtful_ends(of({"p": even})) == {}


def test_values_on_clamped_walls_are_told() -> None:
    walls = np.random.default_rng(0).standard_normal((2, N, N))
    centred = walls.copy()
    walls[:, [0, -1]] = 0
    others = {"a": centred}
    assert "lie on the walls" in doubtful_ends(of({"u": walls, **others}, boundary="dirichlet"))["x"]
    assert doubtful_ends(of({"u": centred}, boundary="dirichlet")) == {}
    assert doubtful_ends(of({"u": walls}, boundary="neumann")) == {}
    first = walls.copy()
    first[1, 0] = 0.1
    assert doubtful_ends(of({"u": first}, boundary="dirichlet")) == {}


@pytest.mark.parametrize(
    ("x", "is_told"),
    [
        (np.linspace(0, 1, N), True), (np.linspace(-1, 1, N), True), (np.linspace(0, 2 * np.pi, N), True),
        (np.linspace(0, 1, 101), True), (np.linspace(-90, 90, 73), True),
        (np.linspace(0, 1, N, endpoint=False), False), ((np.arange(N) + 0.5) / N, False), (np.arange(21.0), False),
        (np.arange(144) * 2.5, False), (np.arange(N) * H, False), (np.arange(100, 400, 3.0), False),
    ],
    ids=itertools.count(),
)  # fmt: skip
@pytest.mark.parametrize("boundary", ["periodic", "neumann"])
def test_coordinates_with_both_ends_of_the_box_are_told(x: np.ndarray, is_told: bool, boundary: str) -> None:
    source = of({"p": np.random.default_rng(0).standard_normal((2, len(x), N))}, x, boundary)
    assert ("both ends" in doubtful_ends(source).get("x", "")) is is_told
    source = of({"p": np.ones((2, len(x), N))}, x, boundary, extent=[float(x[-1] - x[0]), None])
    assert doubtful_ends(source) == {}


def test_gaps_and_infinities_at_the_ends_say_nothing() -> None:
    f = np.random.default_rng(0).standard_normal((2, N, N))
    for value in (np.nan, np.inf):
        f[:, [0, -1]] = value
        for boundary in ("periodic", "dirichlet"):
            assert doubtful_ends(of({"p": f}, boundary=boundary)) == {}


def test_inspect_tells_it(tmp_path: Path) -> None:
    inner = np.random.default_rng(0).standard_normal((2, N, N))
    data = xr.Dataset(
        {"p": (("time", "x", "y"), np.concatenate([inner, inner[:, :1]], 1))},
        {"time": T, "x": np.linspace(0, 2 * np.pi, N + 1), "y": X},
    )
    data.to_netcdf(tmp_path / "a.nc")
    assert "repeats the first" in inspect(tmp_path / "a.nc", Layout(boundary="periodic"))


@pytest.mark.parametrize(
    ("lat", "lon", "boundary", "told"),
    [
        (np.linspace(-88.75, 88.75, 72), np.arange(144) * 2.5, ["neumann", "periodic"], ["as wide"]),
        (np.linspace(-88.75, 88.75, 72), np.arange(144) * 2.5, ["periodic", "neumann"],
         ["meets its north end", "as wide", "all around"]),
        (np.linspace(40, 50, 11), np.linspace(0, 10, 6), ["neumann", "neumann"], []),
        (np.linspace(0.0, 3000.0, 7), np.linspace(0, 5, 6), ["periodic", "neumann"], []),  # no degrees
    ],
    ids=["globe", "wrong", "region", "metres"],
)  # fmt: skip
def test_maps_of_the_globe(lat: np.ndarray, lon: np.ndarray, boundary: list[str], told: list[str]) -> None:
    data = xr.Dataset({"T": (("lat", "lon"), np.ones((len(lat), len(lon))))}, {"lat": lat, "lon": lon})
    found = doubts_of_maps(source_of(data, {"boundary": boundary}).grid)
    assert len(found) == len(told) and all(a in b for a, b in zip(told, found, strict=True))


def test_training_tells_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = np.random.default_rng(0).standard_normal((8, 2, N, N))
    data = xr.Dataset(
        {"vorticity": (("trajectory", "time", "x", "y"), np.concatenate([inner, inner[:, :, :1]], 2))},
        {"time": T, "x": np.linspace(0, 2 * np.pi, N + 1), "y": X},
    )
    data.to_netcdf(tmp_path / "a.nc")
    shares: dict[str, int | float] = {"train": 0.5, "valid": 0.25, "test": 0.25}
    told = DataSettings(
        path=str(tmp_path / "a.nc"), layout={"boundary": "periodic"}, symmetries=["flip"], splits=shares
    )
    small = NetworkSettings(width=4, multipliers=(1,))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    remarks = prepare(Heat, RunSettings(told, TrainSettings(steps=1, batch_size=2), small)).remarks
    assert [sum(word in line for line in remarks) for word in ("repeats the first", "pseudo=")] == [1, 1]


def swirl(d: int) -> list[np.ndarray]:
    """A smooth flow without divergence in d dimensions, two frames."""
    at = np.meshgrid(*[(np.arange(24) + 0.5) * 2 * np.pi / 24] * d, indexing="ij")
    x, y = at[:2]
    t = np.array([0.0, 1.0]).reshape(2, *[1] * d)
    u, v = np.sin(x + t) * np.cos(y) + np.cos(2 * y), -np.cos(x + t) * np.sin(y) + np.sin(x)
    if d == 2:
        return [u, v]
    return [np.sin(at[2]) * u, np.sin(at[2]) * v, np.sin(y) + 0 * u]


@pytest.mark.parametrize("d", [2, 3])
def test_a_flow_that_was_described_wrongly_is_told(d: int) -> None:
    dims, x = "xyz"[:d], (np.arange(24) + 0.5) * 2 * np.pi / 24

    def told(parts: list[np.ndarray]) -> list[str]:
        data = xr.Dataset(
            {f"a{i}": (("time", *dims), f) for i, f in enumerate(parts)}, {"time": T, **dict.fromkeys(dims, x)}
        )
        vectors = {"V": {dim: f"a{i}" for i, dim in enumerate(dims)}}
        source = source_of(data, {"boundary": "periodic", "vectors": vectors})
        return doubtful_components(source, source.variables)

    flow = swirl(d)
    assert told(flow) == []
    assert "a1 along x, a0 along y" in told([flow[1], flow[0], *flow[2:]])[0]
    assert "a0 along x, -a1 along y" in told([flow[0], -flow[1], *flow[2:]])[0]
    # Rows that run downwards.
    assert "a0 along x, -a1 along y" in told([f[:, :, ::-1] for f in flow])[0]
    # A gradient, noise, and a flow along one axis are none of this.
    bump = np.exp(np.cos(x)[:, None] + np.sin(2 * x)).reshape(24, 24, *[1] * (d - 2)) * np.ones((24,) * d)
    assert told([np.stack([f, f]) for f in np.gradient(bump)]) == []
    assert told([np.random.default_rng(i).standard_normal((2, *(24,) * d)) for i in range(d)]) == []
    assert told([np.stack([bump, bump]), *[np.zeros((2, *bump.shape))] * (d - 1)]) == []
