"""Files as Dedalus's file handlers of version 3 write them, made with h5py: tasks, scales, sets of one run."""

from __future__ import annotations

import hashlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from physdiff.data import load_fields, open_splits
from physdiff.data.formats import find_format, open_source
from physdiff.data.handles import close_all
from physdiff.data.joined import open_runs
from physdiff.data.layout import Layout

NX, NZ = 8, 6
X, Z = np.arange(NX) * 4 / NX, np.arange(NZ) / NZ - 0.5
CHEBYSHEV = 0.5 - 0.5 * np.cos(np.pi * (np.arange(NZ) + 0.5) / NZ)
RNG = np.random.default_rng(2)


def write(path: Path, times: np.ndarray, z: np.ndarray = Z, *, is_version_3: bool = True) -> dict[str, np.ndarray]:
    """A set: a vector, a scalar, a profile, an average and a task of coefficients."""
    n = len(times)
    made = {
        "velocity": RNG.standard_normal((n, 2, NX, NZ)), "b": RNG.standard_normal((n, NX, NZ)),
        "profile": RNG.standard_normal((n, 1, NZ)), "energy": RNG.standard_normal((n, 1, 1)),
        "modes": RNG.standard_normal((n, NX, NZ)),
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.attrs.update({"set_number": 1, "handler_name": path.stem, "writes": n})
        scales = file.create_group("scales")
        for name, values in (("constant", np.zeros(1)), ("sim_time", times), ("iteration", np.arange(n))):
            scales.create_dataset(name, data=values).make_scale(name)
        for name, values in (("x", X), ("z", z), ("kx", X), ("kz", z)):
            where = f"{name}_hash_{hashlib.sha1(values.tobytes()).hexdigest()}" if is_version_3 else f"{name}/1.0"
            scales.create_dataset(where, data=values).make_scale(name)
            made[f"at {name}"] = np.array(where)
        for name in ("velocity", "b", "profile", "energy", "modes"):
            task = file.create_dataset(f"tasks/{name}", data=made[name], chunks=(1, *made[name].shape[1:]))
            task.attrs["grid_space"] = [name != "modes"] * 2
            task.dims[0].label = "t"
            for scale in ("sim_time", "iteration"):
                task.dims[0].attach_scale(scales[scale])
            for axis, letter in ((-2, "x"), (-1, "z")):
                label = "k" * (name == "modes") + letter if task.shape[axis] > 1 else "constant"
                at = task.ndim + axis
                task.dims[at].label = label
                task.dims[at].attach_scale(scales[label if label == "constant" else str(made[f"at {label}"])])
    return made


def test_tasks_are_fields_on_the_grid_of_their_scales(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    made = write(path, np.array([0.0, 0.5, 1.25]))
    source = open_source(path)
    assert find_format(path).name == "dedalus"
    assert source.names == ("b", "profile", "velocity_x", "velocity_z")
    assert source.grid.boundary == ("periodic", "periodic") and source.grid.dims == ("x", "z")
    np.testing.assert_allclose(source.grid.extent, (4.0, 1.0), rtol=1e-12)
    np.testing.assert_allclose(source.grid.coordinate(1), Z, atol=1e-12)
    assert source.times.tolist() == [[0, 0.5, 1.25]]
    np.testing.assert_array_equal(source.scalars["energy"], made["energy"][:, 0, 0])
    assert source.scalar_dims == {"energy": ("time",)} and "modes" in str(source.attrs)
    data = load_fields(path, ["velocity", "b", "profile"])
    np.testing.assert_array_equal(data.values[:, :2], made["velocity"])
    np.testing.assert_array_equal(data.values[:, 2], made["b"])
    np.testing.assert_array_equal(data.values[:, 3], np.broadcast_to(made["profile"], made["b"].shape))
    assert source.variables[2].parent == "velocity" and source.variables[3].component == (1,)


def test_sets_of_a_folder_are_one_run(tmp_path: Path) -> None:
    made = [
        [write(tmp_path / f"run{r}" / f"snapshots_s{s}.h5", np.arange(3) + 3.0 * (s - 1))["b"] for s in (1, 2)]
        for r in range(4)
    ]
    files = sorted(tmp_path.glob("*/*.h5"))
    sources = open_runs(files)
    assert [source.frames for source in sources] == [6] * 4
    for source, parts in zip(sources, made, strict=True):
        values = next(v for v in source.variables if v.name == "b").view.read(("time", "x", "z"))
        np.testing.assert_array_equal(values, np.concatenate(parts))
    assert len(open_runs(files, Layout(join="never"))) == 8
    parts = open_splits(f"{tmp_path}/*/*.h5", ["b"], split={"train": 0.5, "valid": 0.25, "test": 0.25})
    assert {name: len(part) for name, part in parts.items()} == {"train": 12, "valid": 6, "test": 6}


def test_files_that_were_named_by_people_are_runs(tmp_path: Path) -> None:
    for run in (1, 2):
        write(tmp_path / f"run{run}.h5", np.arange(3) + 5.0 * run)
    files = sorted(tmp_path.glob("*.h5"))
    assert [source.frames for source in open_runs(files)] == [3, 3]
    assert [source.frames for source in open_runs(files, Layout(join="number"))] == [6]


def test_what_is_not_told_or_not_equally_spaced_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "c.h5", np.arange(2.0), CHEBYSHEV)
    with pytest.raises(ValueError, match=r"points along 'z' are 0.129 to 0.259 apart, as those of Chebyshev"):
        open_source(tmp_path / "c.h5")
    write(tmp_path / "v2.h5", np.arange(2.0), is_version_3=False)
    with pytest.raises(ValueError, match=r"'x' has no boundary condition; pass boundary="):
        open_source(tmp_path / "v2.h5")
    assert open_source(tmp_path / "v2.h5", Layout(boundary=["periodic", "neumann"])).frames == 2
    close_all()
    with h5py.File(tmp_path / "v2.h5", "r+") as file:
        del file["tasks/b"], file["tasks/velocity"], file["tasks/profile"]
    with pytest.raises(ValueError, match=r"v2.h5 holds no field: of its tasks \(energy, modes\) none"):
        open_source(tmp_path / "v2.h5")
