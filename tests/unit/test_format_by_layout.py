"""Files that are only arrays (.npy, .npz, .pt, .mat, any HDF5), read as a layout says, entry by entry."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from scipy.io import savemat

from physdiff.data.formats import find_format, open_source
from physdiff.data.handles import close_all
from physdiff.data.layout import Layout
from physdiff.data.source import Source

RNG = np.random.default_rng(1)
U = RNG.standard_normal((3, 4, 5, 6)).astype(np.float32)  # trajectory, time, x, y
P = RNG.standard_normal((3, 4, 5, 6)) + 10
X, TIMES, NU = np.arange(5) * 0.2 + 0.1, np.array([0.0, 0.5, 1.5, 1.75]), np.array([1e-2, 1e-3, 1e-4])
CONTENT = {"u": U, "p": P, "x": X, "t": TIMES, "nu": NU}
ORDER = ("trajectory", "time", "x", "y")
LAYOUT = {
    "fields": {"u": ["u", "m/s"], "pressure": ["p", "Pa"]}, "dims": list(ORDER), "extent": [1.0, 3.0],
    "boundary": ["periodic", "neumann"], "time": "t", "scalars": {"nu": "nu"},
}  # fmt: skip


def write_mat73(path: Path, content: dict[str, np.ndarray]) -> None:
    """As MATLAB does: HDF5 after 512 bytes of its own, axes reversed, classes in attributes, vectors as 1xn."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, values in content.items():
            values = values.reshape(1, -1) if values.ndim < 2 else values
            dataset = file.create_dataset(name, data=values.T)
            dataset.attrs["MATLAB_class"] = np.bytes_("single" if values.dtype == np.float32 else "double")
        text = file.create_dataset("title", data=np.frombuffer(b"a\0b\0", dtype=np.uint16).reshape(2, 1))
        text.attrs["MATLAB_class"] = np.bytes_("char")
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(508) + b"\x00\x02IM")


def write_hdf5(path: Path, content: dict[str, np.ndarray], **options: Any) -> None:
    with h5py.File(path, "w") as file:
        for name, values in content.items():
            file.create_dataset(name, data=values, **(options if values.ndim else {}))


def big_endian_fortran(path: Path, content: dict[str, np.ndarray]) -> None:
    np.savez(path, **{n: np.asfortranarray(v.astype(v.dtype.newbyteorder(">"))) for n, v in content.items()})


def old_torch(path: Path, content: dict[str, np.ndarray]) -> None:
    tensors = {n: torch.from_numpy(v) for n, v in content.items()}
    torch.save(tensors, path, _use_new_zipfile_serialization=False)


WRITERS: dict[str, Callable[[Path, dict[str, np.ndarray]], Any]] = {
    "npz": lambda path, content: np.savez(path, **content),
    "npz packed": lambda path, content: np.savez_compressed(path, **content),
    "npz big": big_endian_fortran,
    "torch": lambda path, content: torch.save({n: torch.from_numpy(v) for n, v in content.items()}, path),
    "torch old": old_torch,
    "matlab 5": lambda path, content: savemat(path, {**content, "title": "text"}),
    "matlab 5 packed": lambda path, content: savemat(path, content, do_compression=True),
    "matlab 7.3": write_mat73,
    "hdf5": write_hdf5,
    "hdf5 packed": lambda path, content: write_hdf5(path, content, compression="gzip", chunks=True),
}
SUFFIX = {"npz": ".npz", "torch": ".pt", "matlab": ".mat", "hdf5": ".h5"}


def written(folder: Path, kind: str, content: dict[str, np.ndarray] = CONTENT) -> Path:
    path = folder / f"file{SUFFIX[kind.split()[0]]}"
    WRITERS[kind](path, content)
    return path


def values(source: Source, name: str, order: tuple[str, ...] = ORDER) -> np.ndarray:
    """A whole field; also from a copy that went through pickle, which must be the same."""
    view = next(v.view for v in source.variables if v.name == name)
    again = next(v.view for v in pickle.loads(pickle.dumps(source)).variables if v.name == name)
    found = view.read(order)
    np.testing.assert_array_equal(again.read(order), found)
    assert view.array.dtype.newbyteorder("=") == found.dtype.newbyteorder("=")
    return found


@pytest.mark.parametrize("kind", WRITERS)
def test_every_entry_is_as_written(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path, kind)
    source = open_source(path, Layout.of(LAYOUT))
    assert source.schema == kind.split()[0] and source.names == ("u", "pressure")
    assert [v.units for v in source.variables] == ["m/s", "Pa"]
    found = values(source, "u"), values(source, "pressure")
    assert [f.dtype for f in found] == [np.float32, np.float64]
    np.testing.assert_array_equal(found[0], U)
    np.testing.assert_array_equal(found[1], P)
    part = source.variables[1].view.read(("y", "time"), {"trajectory": 2, "x": 3, "time": slice(1, 4, 2)})
    np.testing.assert_array_equal(part, P[2, 1:4:2, 3].T)
    np.testing.assert_array_equal(source.times, np.broadcast_to(TIMES, (3, 4)))
    np.testing.assert_array_equal(source.scalars["nu"], NU)
    assert source.scalar_dims["nu"] == ("trajectory",)
    assert (source.grid.shape, source.grid.extent, source.grid.boundary) == (
        (5, 6),
        (1.0, 3.0),
        ("periodic", "neumann"),
    )
    assert find_format(path, Layout.of(LAYOUT)).name == kind.split()[0]


def test_a_lone_npy_is_mapped_and_its_components_named(tmp_path: Path) -> None:
    array = RNG.standard_normal((3, 4, 2, 5)).astype(np.float32)  # as APEBench: (N, T, C, x)
    np.save(tmp_path / "a.npy", array)
    layout = Layout(dims=["trajectory", "time", "component", "x"], extent=2.0, boundary="periodic", time=0.1)
    source = open_source(tmp_path / "a.npy", layout)
    assert source.names == ("data_0", "data_1")
    for c in range(2):
        np.testing.assert_array_equal(
            values(source, f"data_{c}", ("x", "trajectory", "time")), array[:, :, c].transpose(2, 0, 1)
        )
    np.testing.assert_allclose(source.times[1], [0, 0.1, 0.2, 0.3], rtol=1e-15)
    named = open_source(tmp_path / "a.npy", Layout.of(layout, components=["rho", "v"]))
    assert named.names == ("rho", "v")
    with pytest.raises(ValueError, match=r"has 2 components; components= \(--data.layout.components\) names 3"):
        open_source(tmp_path / "a.npy", Layout.of(layout, components=["a", "b", "c"]))
    with pytest.raises(
        ValueError,
        match=r"(?s)does not tell what its axes are; it holds.*data: \(3, 4, 2, 5\) float32.*dims: \[<axis of 3>",
    ):
        open_source(tmp_path / "a.npy")


def test_components_vectors_pseudo_static_and_mask(tmp_path: Path) -> None:
    velocity = RNG.standard_normal((3, 4, 5, 6, 2))
    land = np.ones((5, 6))
    land[2, 3], land[0, 0] = 0, np.nan
    write_hdf5(tmp_path / "a.h5", {"velocity": velocity, "w": U, "depth": P[0, 0], "wet": land, "k": P[:, 0]})
    layout = Layout.of(
        {
            "fields": {"v": "velocity", "w": "w", "depth": ["depth", "m"], "wet": "wet",
                       "k": {"path": "k", "dims": ["trajectory", "x", "y"], "unit": "W"}},
            "dims": [*ORDER, "component"], "static": ["depth", "wet"], "vectors": {"velocity": ["v_0", "v_1"]},
            "pseudo": ["w"], "mask": "wet", "extent": 1.0, "boundary": "periodic", "time": 1.0,
        }
    )  # fmt: skip
    source = open_source(tmp_path / "a.h5", layout)
    assert source.names == ("v_0", "v_1", "w", "depth", "k")
    by_name = {v.name: v for v in source.variables}
    assert [(by_name[n].parent, by_name[n].component) for n in ("v_0", "v_1")] == [
        ("velocity", (0,)),
        ("velocity", (1,)),
    ]
    assert by_name["w"].pseudo and not by_name["v_0"].pseudo
    assert (by_name["depth"].units, by_name["depth"].varies_in_time, by_name["k"].varies_between_runs) == (
        "m",
        False,
        True,
    )
    np.testing.assert_array_equal(values(source, "v_1"), velocity[..., 1])
    np.testing.assert_array_equal(values(source, "depth", ("x", "y")), P[0, 0])
    np.testing.assert_array_equal(values(source, "k", ("trajectory", "x", "y")), P[:, 0])
    assert source.observed is not None
    observed = source.observed.read(("x", "y"))
    assert observed.dtype == bool and np.argwhere(~observed).tolist() == [[0, 0], [2, 3]]


def test_groups_are_trajectories_in_natural_order(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for i in (0, 1, 2, 10):
            group = file.create_group(f"run{i}")
            group["data"], group["grid/x"], group["t"] = np.full((2, 5), float(i)), X, np.array([0.0, 1 + i])
            group.attrs["nu"] = i / 2
        file.create_group("settings")["seed"] = 3
    layout = Layout.of(
        {"fields": {"u": "/*/data"}, "dims": ["time", "x"], "coordinates": {"x": "/*/grid/x"}, "time": "/*/t",
         "scalars": {"nu": "/run*@nu", "seed": "/settings/seed"}, "boundary": "periodic"}
    )  # fmt: skip
    source = open_source(tmp_path / "a.h5", layout)
    found = values(source, "u", ("trajectory", "time", "x"))
    assert found.shape == (4, 2, 5) and found[:, 0, 0].tolist() == [0, 1, 2, 10]
    assert source.times[:, 1].tolist() == [1, 2, 3, 11]
    assert source.scalars["nu"].tolist() == [0, 0.5, 1, 5] and source.scalars["seed"] == 3
    assert source.grid.extent[0] == pytest.approx(1.0, rel=1e-14) and source.grid.origin[0] == pytest.approx(
        0, abs=1e-15
    )
    close_all()
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["run2/grid/x"][:] += 1
    with pytest.raises(ValueError, match="differ between trajectories; a data set has one grid"):
        open_source(tmp_path / "a.h5", layout)
    close_all()
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        del file["run2/data"]
        file["run2/data"] = np.zeros((3, 5))
    with pytest.raises(ValueError, match=r"one array is to be made of them"):
        open_source(tmp_path / "a.h5", layout)


def test_dimension_scales_name_and_place_the_axes(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["deep/u"], file["x"], file["time"] = P[0], X[::-1], TIMES
        file["deep/y"] = np.arange(6) * 2.0
        for axis, name in enumerate(("time", "x", "deep/y")):
            file[name].make_scale()
            file["deep/u"].dims[axis].attach_scale(file[name])
    source = open_source(tmp_path / "a.h5", Layout(schema="hdf5", fields={"u": "/deep/u"}, boundary="neumann"))
    assert source.grid.dims == ("x", "y") and source.grid.extent == pytest.approx((1.0, 12.0), rel=1e-12)
    np.testing.assert_array_equal(source.times, TIMES[None])
    # x was stored from high to low.
    np.testing.assert_array_equal(values(source, "u", ("time", "x", "y")), P[0][:, ::-1])
    np.testing.assert_array_equal(source.variables[0].view.read(("time",), {"x": 1, "y": 4}), P[0][:, 3, 4])


def test_complex_numbers_become_two_fields(tmp_path: Path) -> None:
    psi = (U + 1j * P).astype(np.complex64)
    for name, write in (("a.npy", np.save), ("a.h5", lambda path, v: write_hdf5(path, {"psi": v}))):
        write(tmp_path / name, psi)
        fields = {"psi": "data" if name == "a.npy" else "psi"}
        source = open_source(tmp_path / name, Layout.of({**LAYOUT, "fields": fields, "time": 1.0, "scalars": None}))
        assert source.names == ("psi_real", "psi_imag")
        assert values(source, "psi_imag").dtype == np.float32
        np.testing.assert_array_equal(values(source, "psi_real"), psi.real)
        np.testing.assert_array_equal(values(source, "psi_imag"), psi.imag)


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "no dims": ({"dims": None}, r"shape \(3, 4, 5, 6\), and the file does not tell what its axes are; pass dims="),
    "few dims": ({"dims": ["trajectory", "x"]}, r"\(3, 4, 5, 6\); its axes were named trajectory, x: expected 4"),
    "no extent": ({"extent": None}, r"no coordinates along 'x'; pass extent= \(--data.layout.extent\)"),
    "no length": ({"extent": [1.0, -2.0]}, r"extent= \(--data.layout.extent\) holds -2\.0; expected a length above 0"),
    "no components": ({"components": ["a"]}, r"components= \(--data.layout.components\) names a, and no field has an"),
    "no boundary": ({"boundary": None}, r"'x' has no boundary condition; pass boundary= \(--data.layout.boundary\)"),
    "no time": ({"time": None}, r"says nothing of the times of its 4 frames; pass time= \(--data.layout.time\)"),
    "wrong time": ({"time": "x"}, r"the times have the shape \(5,\); expected 4 frames"),
    "wrong path": ({"fields": {"u": "uu"}}, r"has no (dataset|array) 'uu'\. Did you mean"),
    "wrong entry": ({"fields": {"u": 3}}, r"fields= \(--data.layout.fields\) says 3 of 'u'; expected a path"),
    "wrong scalar": ({"scalars": {"nu": "x"}}, r"scalar 'nu' has the shape \(5,\); expected \(\), \(3,\) for the traj"),
    "wrong axis": ({"coordinates": {"xx": "x"}}, r"names the axis 'xx', which no field has\. Did you mean 'x'\?"),
    "other shape": (
        {"fields": {"u": "u", "x": {"path": "x", "dims": ["y"]}}}, r"field 'x' has 5 entries along 'y' and 'u' has 6",
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", ["hdf5", "npz"])
def test_what_is_not_told_is_asked_for(tmp_path: Path, kind: str, change: str) -> None:
    settings, message = CHANGES[change]
    with pytest.raises(ValueError, match=message) as error:
        open_source(written(tmp_path, kind), Layout.of({**LAYOUT, **settings}))
    assert "file" in str(error.value)


def test_as_many_runs_as_frames_need_a_word(tmp_path: Path) -> None:
    path = written(tmp_path, "hdf5", {"u": U[:, :3], "nu": NU})
    settings = {**LAYOUT, "fields": {"u": "u"}, "time": 1.0}
    with pytest.raises(ValueError, match="as many trajectories as frames; say which"):
        open_source(path, Layout.of(settings))
    source = open_source(path, Layout.of({**settings, "scalars": {"nu": {"path": "nu", "dims": ["time"]}}}))
    assert source.scalar_dims["nu"] == ("time",)


def test_matlab_refuses_what_is_no_array(tmp_path: Path) -> None:
    layout = Layout.of({**LAYOUT, "fields": {"u": "title"}})
    with pytest.raises(ValueError, match="'title' is a MATLAB char; expected an array of real numbers"):
        open_source(written(tmp_path, "matlab 7.3"), layout)
    with h5py.File(tmp_path / "empty.mat", "w") as file:
        file["u"] = np.array([0, 5], dtype=np.uint64)  # its shape stands in for its values
        file["u"].attrs.update({"MATLAB_class": np.bytes_("double"), "MATLAB_empty": np.uint8(1)})
    with pytest.raises(ValueError, match="'u' is a MATLAB empty array"):
        open_source(tmp_path / "empty.mat", Layout.of(layout, fields={"u": "u"}))
    with pytest.raises(ValueError, match="has no array 'title'"):
        open_source(written(tmp_path, "matlab 5"), layout)


@pytest.mark.parametrize("kind", ["matlab 5", "matlab 7.3"])
def test_times_of_each_run_in_matlab(tmp_path: Path, kind: str) -> None:
    times = np.arange(1.0, 4)[:, None] * TIMES
    source = open_source(written(tmp_path, kind, {**CONTENT, "t": times}), Layout.of(LAYOUT))
    np.testing.assert_array_equal(source.times, times)


def test_torch_tensors_of_other_kinds(tmp_path: Path) -> None:
    torch.save([torch.from_numpy(U).bfloat16(), {"a": torch.from_numpy(P)}], tmp_path / "a.pt")
    layout = Layout.of({**LAYOUT, "fields": {"u": "0", "a": "1/a"}, "time": 1.0, "scalars": None})
    source = open_source(tmp_path / "a.pt", layout)
    np.testing.assert_array_equal(values(source, "u"), torch.from_numpy(U).bfloat16().float().numpy())
    np.testing.assert_array_equal(values(source, "a"), P)
    torch.save(torch.from_numpy(U), tmp_path / "b.pt")
    alone = open_source(tmp_path / "b.pt", Layout.of({**LAYOUT, "fields": None, "time": 1.0, "scalars": None}))
    np.testing.assert_array_equal(values(alone, "data"), U)


def test_a_replaced_file_is_read_anew(tmp_path: Path) -> None:
    for kind in WRITERS:
        path = written(tmp_path, kind)
        source = open_source(path, Layout.of(LAYOUT))
        before = values(source, "u")
        path.unlink()
        written(tmp_path, kind, {**CONTENT, "u": U + 1})
        np.testing.assert_array_equal(values(source, "u"), U + 1, err_msg=kind)
        np.testing.assert_array_equal(before, U)
        path.unlink()
