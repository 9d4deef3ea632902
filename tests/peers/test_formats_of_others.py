"""Files that other libraries write, read by them and by physdiff: every entry the same."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from physdiff.data import load_fields
from physdiff.data.fieldset import FieldSet
from physdiff.data.formats import open_source
from physdiff.data.formats.the_well_writer import FieldSpec, WellFile
from physdiff.data.layout import Layout
from physdiff.data.selection import Selection
from physdiff.data.source import TIME, TRAJECTORY, Source
from physdiff.grid import Grid

pytestmark = pytest.mark.peers

# ---- The Well


def dummy(path: Path) -> None:
    """The file of the peer's own writer."""
    np.random.seed(0)  # noqa: NPY002 - its writer draws from numpy's global generator
    importlib.import_module("the_well.utils.dummy_data").write_dummy_data(str(path))


def ours(path: Path) -> None:
    """A file of our writer: fields of every rank, walls, and times of each run."""
    rng = np.random.default_rng(1)
    grid = Grid((4, 3), extent=(2.0, 1.0), boundary=("periodic", "neumann"), origin=(0.5, 0.0))
    specs = {"p": FieldSpec(), "mask": FieldSpec(sample_varying=False, time_varying=False)}
    specs |= {"v": FieldSpec(rank=1), "s": FieldSpec(rank=2), "k": FieldSpec(time_varying=False)}
    time = np.sort(rng.random((2, 5)), axis=1)
    values = {
        name: rng.standard_normal(tuple(spec.axes(2, 5, grid).values())).astype(np.float32)
        for name, spec in specs.items()
    }
    with WellFile(path, specs, grid, 2, time, parameters={"Re": 100.0, "seed": np.array([3, 4])}) as file:
        file.write(0, values)


def everything(path: Path) -> None:
    """What neither writer makes: 3-D, numbers of every shape, fields that are constant along an axis.

    Such an axis has one entry here: where it is absent, as the schema's description has it, the peer's reader repeats
    the axis before it. `tests/unit/test_the_well.py` reads the form of the description.
    """
    rng = np.random.default_rng(2)
    with h5py.File(path, "w") as file:
        file.attrs.update({"dataset_name": "all", "grid_type": "cartesian", "n_spatial_dims": 3, "n_trajectories": 2})
        file.attrs["simulation_parameters"] = np.array([], dtype=h5py.string_dtype())
        cells = {"x": 4, "y": 3, "z": 2}
        group = file.create_group("dimensions")
        group.attrs["spatial_dims"] = list(cells)
        for name, n in {"time": 5, **cells}.items():
            group[name] = np.linspace(0, 1, n, dtype=np.float32)
            group[name].attrs.update({"sample_varying": False, "time_varying": False})
        for dim, n in cells.items():
            side = file.create_group(f"boundary_conditions/{dim}_sides")
            side.attrs.update({"associated_dims": [dim], "bc_type": "wall" if dim == "y" else "periodic"})
            side.attrs["associated_fields"] = np.array([], dtype=h5py.string_dtype())
            side.attrs.update({"sample_varying": False, "time_varying": False})
            side["mask"] = np.isin(np.arange(n), (0, n - 1))
        names = []
        for sample, time in product((False, True), repeat=2):
            shape = (2,) * sample + (5,) * time
            names.append(f"number_{sample:d}{time:d}")
            number = file.create_dataset(f"scalars/{names[-1]}", data=rng.standard_normal(shape))
            number.attrs.update({"sample_varying": sample, "time_varying": time})
        file["scalars"].attrs["field_names"] = names
        for rank in range(3):
            names = []
            for sample, time, x, z in product((False, True), repeat=4):
                shape = (2,) * sample + (5,) * time + (4 if x else 1, 3, 2 if z else 1) + (3,) * rank
                names.append(f"f{rank}_{sample:d}{time:d}{x:d}{z:d}")
                field = file.create_dataset(f"t{rank}_fields/{names[-1]}", data=rng.standard_normal(shape))
                field.attrs.update({"sample_varying": sample, "time_varying": time, "dim_varying": [x, True, z]})
                if rank == 2:
                    field.attrs.update({"symmetric": False, "antisymmetric": False})
            file[f"t{rank}_fields"].attrs["field_names"] = names


def with_masks(path: Path) -> None:
    """The peer's own file with the ends marked that it means to mark."""
    dummy(path)
    with h5py.File(path, "a") as file:
        for side in file["boundary_conditions"].values():
            side["mask"][[0, -1]] = True


def frames(source: Source, names: list[str], run: int, frame: int) -> np.ndarray:
    """Fields of one frame, components last, shape (*grid, channels)."""
    fields = FieldSet([source], Selection(fields=tuple(names)))
    return np.moveaxis(fields.read([run * source.frames + frame]).values[0], 0, -1)


def number(source: Source, name: str, run: int, frame: int) -> float:
    """A number of one frame of one run."""
    key = tuple({TRAJECTORY: run, TIME: frame}[dim] for dim in source.scalar_dims[name])
    return float(source.scalars[name][key])


@pytest.mark.parametrize("write", [dummy, with_masks, ours, everything])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_well_reads_the_same(tmp_path: Path, well_dataset: Any, write: Callable[[Path], None]) -> None:
    (tmp_path / "data" / "train").mkdir(parents=True)
    path = tmp_path / "data" / "train" / "a.hdf5"
    write(path)
    theirs = well_dataset(path=str(tmp_path), well_split_name="train", normalize_time_grid=False)
    source, meta = open_source(path), theirs.metadata
    changing, constant = (
        [name for rank in range(3) for name in names[rank]] for names in (meta.field_names, meta.constant_field_names)
    )
    assert len(theirs) == source.trajectories * (source.frames - 1)
    for index in range(len(theirs)):
        sample = theirs[index]
        run, frame = divmod(index, source.frames - 1)
        for key, when in (("input", frame), ("output", frame + 1)):
            np.testing.assert_array_equal(sample[f"{key}_fields"][0].numpy(), frames(source, changing, run, when))
            assert float(sample[f"{key}_time_grid"][0]) == source.times[run, when]
            if meta.scalar_names:
                expected = [number(source, name, run, when) for name in meta.scalar_names]
                np.testing.assert_array_equal(sample[f"{key}_scalars"][0].numpy(), expected)
        if constant:
            np.testing.assert_array_equal(sample["constant_fields"].numpy(), frames(source, constant, run, frame))
        expected = [number(source, name, run, frame) for name in meta.constant_scalar_names]
        np.testing.assert_array_equal(sample["constant_scalars"].numpy(), expected)
        centres = np.stack(np.meshgrid(*map(source.grid.coordinate, range(source.grid.ndim)), indexing="ij"), -1)
        # float32 in the file, and the centres follow from the first and the last of them.
        np.testing.assert_allclose(sample["space_grid"].numpy(), centres, atol=3e-7)
        # Codes of each end: wall 0, open 1, periodic 2. In its own file the peer marks no cell at all ("periodic" with
        # an empty mask), which its reader takes for open and ours for what the file says.
        codes = [[1 if write is dummy else {"neumann": 0, "periodic": 2}[b]] * 2 for b in source.grid.boundary]
        assert sample["boundary_conditions"].tolist() == codes
    if write is dummy:
        assert source.grid.boundary == ("periodic", "periodic")


# ---- py-pde


def grids(pde: Any) -> dict[str, Any]:
    return {
        "1-D": pde.CartesianGrid([[-1, 2]], [6], periodic=True),
        "2-D": pde.CartesianGrid([[0, 1], [-1, 2]], [4, 5], periodic=[True, False]),
        "unit": pde.UnitGrid([3, 4], periodic=True),
    }


def states(pde: Any, grid: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    scalar = pde.ScalarField.random_uniform(grid, label="c", rng=rng)
    vector = pde.VectorField.random_uniform(grid, label="u", rng=rng)
    tensor = pde.Tensor2Field.random_uniform(grid, rng=rng)
    return {
        "scalar": scalar, "vector": vector, "tensor": tensor, "one": pde.FieldCollection([scalar]),
        "collection": pde.FieldCollection([tensor, scalar, vector]),
    }  # fmt: skip


@pytest.mark.parametrize("where", ["1-D", "2-D", "unit"])
@pytest.mark.parametrize("what", ["scalar", "vector", "tensor", "one", "collection"])
@pytest.mark.parametrize("longest", [None, 5], ids=["as long as needed", "longer"])
def test_py_pde_reads_the_same(tmp_path: Path, pde: Any, where: str, what: str, longest: int | None) -> None:
    grid, path = grids(pde)[where], tmp_path / "a.hdf5"
    state = states(pde, grid)[what]
    writer = pde.FileStorage(path, max_length=longest)
    writer.start_writing(state)
    for frame in range(3):
        writer.append((frame + 1) * state, time=0.5 * frame)
    writer.end_writing()
    boundary = ["periodic" if wraps else "neumann" for wraps in grid.periodic]
    data = load_fields(path, boundary=boundary if where == "2-D" else None)
    theirs = pde.FileStorage(path, write_mode="readonly")
    assert len(data) == len(theirs) == 3
    for frame, (time, field) in enumerate(theirs.items()):
        np.testing.assert_array_equal(data.values[frame], field.data.reshape(-1, *grid.shape))
        assert data.time[frame] == time
    theirs.close()
    centres = np.stack(np.meshgrid(*map(data.grid.coordinate, range(data.grid.ndim)), indexing="ij"), -1)
    np.testing.assert_allclose(centres, grid.cell_coords, rtol=1e-14)
    assert data.grid.boundary == tuple(boundary) and data.grid.size == grid.num_cells
    names = {"scalar": ["c"], "vector": ["u"], "tensor": ["data"], "one": ["c"], "collection": ["data_0", "c", "u"]}
    assert (
        list(dict.fromkeys(v.parent or v.name for v in open_source(path, Layout(boundary=boundary)).variables))
        == (names[what])
    )


def test_py_pde_on_a_sphere_is_refused(tmp_path: Path, pde: Any) -> None:
    writer = pde.FileStorage(tmp_path / "a.hdf5")
    state = pde.ScalarField(pde.SphericalSymGrid(2, 8), 1.0)
    writer.start_writing(state)
    writer.append(state, time=0.0)
    writer.end_writing()
    with pytest.raises(
        ValueError, match="is on a SphericalSymGrid of py-pde; physdiff reads CartesianGrid and UnitGrid"
    ):
        open_source(tmp_path / "a.hdf5")


# ---- PDEBench, whose merger carries a licence for non-commercial research: it is on no list of this project

_WITHOUT_PDEBENCH = importlib.util.find_spec("pdebench") is None
oracle = pytest.mark.skipif(
    _WITHOUT_PDEBENCH,
    reason="PDEBench's own merger is for non-commercial research only; whoever may use it runs this test after "
    "`pip install --no-deps --ignore-requires-python pdebench==0.1.0`.",
)


def pdebench(monkeypatch: pytest.MonkeyPatch, name: str) -> Any:
    """A module of PDEBench by its file: its packages import what the merger does not need."""
    # Only decorates the function that is run as a program.
    monkeypatch.setitem(sys.modules, "hydra", types.SimpleNamespace(main=lambda **_: lambda function: function))
    monkeypatch.setitem(sys.modules, "omegaconf", types.SimpleNamespace(DictConfig=dict))
    package = importlib.util.find_spec("pdebench")
    assert package is not None and package.submodule_search_locations
    path = Path(package.submodule_search_locations[0]) / "data_gen" / name
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def save_axes(folder: Path, frames: int, **cells: int) -> dict[str, np.ndarray]:
    """Coordinates as PDEBench's simulators leave them: centres, and one time more than there are frames."""
    axes = {dim: ((np.arange(n) + 0.5) / n).astype(np.float32) for dim, n in cells.items()}
    axes["t"] = (0.25 * np.arange(frames + 1)).astype(np.float32)
    for dim, values in axes.items():
        np.save(folder / f"{dim}_coordinate.npy", values)
    return axes


@oracle
@pytest.mark.parametrize(
    ("kind", "name", "scalars"),
    [
        ("advection", "1D_Advection_Sols_beta0.1", {"beta": 0.1}),
        ("burgers", "1D_Burgers_Sols_Nu0.01", {"Nu": 0.01}),
        ("ReacDiff", "ReacDiff_Nu0.5_Rho1.0", {"Nu": 0.5, "rho": 1.0}),
    ],
)
def test_pdebench_of_one_dimension(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, name: str, scalars: dict[str, float]
) -> None:
    values = np.random.default_rng(0).standard_normal((3, 4, 6))
    np.save(tmp_path / f"{name}.npy", values)
    axes = save_axes(tmp_path, 4, x=6)
    pdebench(monkeypatch, "data_gen_NLE/Data_Merge.py").transform(kind, str(tmp_path))
    source = open_source(tmp_path / f"{name}.hdf5", Layout(boundary="periodic"))
    data = load_fields(tmp_path / f"{name}.hdf5", boundary="periodic")
    np.testing.assert_array_equal(data.values, values.astype(np.float32).reshape(12, 1, 6))
    np.testing.assert_array_equal(data.time, np.tile(axes["t"][:-1], 3))
    np.testing.assert_allclose(data.grid.coordinate(0), axes["x"], atol=1e-7)
    assert {key: float(value) for key, value in source.scalars.items()} == scalars


@oracle
@pytest.mark.parametrize("dims", ["x", "xy", "xyz"])
def test_pdebench_of_compressible_flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dims: str) -> None:
    cells = {"x": 6, "y": 5, "z": 4}
    shape = [cells[dim] if dim in dims else 1 for dim in "xyz"]
    rng = np.random.default_rng(0)
    stored: dict[str, list[np.ndarray]] = {}
    for seed in range(2):
        for name in ("D", "P", *(f"V{dim}" for dim in dims)):
            values = 1 + rng.random((2, 4, *shape))
            stored.setdefault(name, []).append(values)
            np.save(tmp_path / f"HD_Sols_init_Rand_Eta0.1_Zeta0.2_M0.5_periodic_key{seed}_{name}.npy", values)
    axes = save_axes(tmp_path, 4, x=shape[0], y=shape[1], z=shape[2])
    merger = pdebench(monkeypatch, "data_gen_NLE/Data_Merge.py")
    merger.merge("CFD", len(dims), "periodic", 4, str(tmp_path))
    (path,) = tmp_path.glob("*.hdf5")
    names = ["density", "pressure", *(f"V{dim}" for dim in dims)]
    data = load_fields(path, names, boundary="periodic")
    for c, parts in enumerate(stored.values()):
        expected = np.concatenate(parts).astype(np.float32).reshape(16, *data.grid.shape)
        np.testing.assert_array_equal(data.values[:, c], expected)
    np.testing.assert_array_equal(data.time, np.tile(axes["t"][:-1], 4))
    assert data.grid.shape == tuple(cells[dim] for dim in dims)
    scalars = {key: float(value) for key, value in open_source(path, Layout(boundary="periodic")).scalars.items()}
    assert scalars == {"eta": 0.1, "zeta": 0.2, **({"M": 0.5} if len(dims) > 1 else {})}


@oracle
def test_pdebench_of_darcy_flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    solution, coefficient = rng.random((3, 2, 6, 5)), rng.random((3, 6, 5))
    np.save(tmp_path / "2D_DarcyFlow_x_beta1.0_key0.npy", solution)
    np.save(tmp_path / "nu_DarcyFlow_x_beta1.0_key0.npy", coefficient)
    save_axes(tmp_path, 2, x=6, y=5)
    pdebench(monkeypatch, "data_gen_NLE/Data_Merge.py").merge("ReacDiff", 2, "", 3, str(tmp_path))
    (path,) = tmp_path.glob("*.hdf5")
    data = load_fields(path, ["tensor", "nu"], boundary="dirichlet")
    np.testing.assert_array_equal(data.values[:, 0], solution[:, -2].astype(np.float32))
    np.testing.assert_array_equal(data.values[:, 1], coefficient.astype(np.float32))
    assert float(open_source(path, Layout(boundary="dirichlet")).scalars["beta"]) == 1.0


@oracle
def test_pdebench_of_diffusion_and_reaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its simulator on a box that is not square stores frames with y first."""
    simulator = pdebench(monkeypatch, "src/sim_diff_react.py").Simulator
    runs = [simulator(t=0.5, tdim=4, xdim=6, ydim=8, seed=seed) for seed in range(2)]
    values = [run.generate_sample().astype(np.float32) for run in runs]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for seed, (run, array) in enumerate(zip(runs, values, strict=True)):
            file.create_dataset(f"{seed:04d}/data", data=array, compression="lzf")
            for dim in "xyt":
                file.create_dataset(f"{seed:04d}/grid/{dim}", data=getattr(run, dim), dtype="float32")
    data = load_fields(tmp_path / "a.h5", boundary="neumann")
    assert data.grid.shape == (6, 8) and values[0].shape == (4, 8, 6, 2)
    np.testing.assert_array_equal(data.values, np.concatenate(values).transpose(0, 3, 2, 1))
    np.testing.assert_allclose(data.grid.extent, (2, 2), rtol=1e-6)
