"""One small file of every format, as its own library writes it, and what a layout must say of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import scipy.io
import torch
import xarray as xr

from physdiff import Grid
from physdiff.data.formats.the_well_writer import FieldSpec, WellFile

SHAPE = (2, 5, 6, 4)  # trajectories, frames, cells
BOX: dict[str, Any] = {"extent": [3.0, 2.0], "boundary": "periodic", "time": 0.5}
DIMS = ["trajectory", "time", "x", "y"]


def values(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)


def the_well(path: Path) -> dict[str, Any]:
    grid = Grid(SHAPE[2:], (3.0, 2.0), ("periodic", "neumann"), units="m")
    specs = {"u": FieldSpec("K"), "v": FieldSpec("m/s", rank=1)}
    with WellFile(
        path, specs, grid, SHAPE[0], np.arange(5.0), parameters={"nu": np.array([0.1, 0.2])}, compression="gzip"
    ) as file:
        file.write(0, {"u": values(), "v": np.stack([values(1), values(2)], -1)})
    return {}


def pdebench(path: Path) -> dict[str, Any]:
    with h5py.File(path, "w") as file:
        file["tensor"] = values()[..., 0]
        file["x-coordinate"] = (np.arange(6.0) + 0.5) / 6
        file["t-coordinate"] = np.arange(6.0) * 0.1
        file.attrs["Nu"] = 0.01
    return {"boundary": "periodic"}


def pdebench_groups(path: Path) -> dict[str, Any]:
    with h5py.File(path, "w") as file:
        for run in range(2):
            group = file.create_group(f"{run:04d}")
            group.create_dataset("data", data=np.stack([values()[run], values(1)[run]], -1), compression="lzf")
            for dim, n in (("x", 6), ("y", 4), ("t", 5)):
                group[f"grid/{dim}"] = (np.arange(float(n)) + 0.5) / n
    return {"boundary": "neumann"}


def pdebench_darcy(path: Path) -> dict[str, Any]:
    with h5py.File(path, "w") as file:
        file["tensor"], file["nu"] = values()[:, :1], values(1)[:, 0]
        _coordinates(file)
        file.attrs["beta"] = 1.0
    return {"boundary": "dirichlet"}


def pdebench_flow(path: Path) -> dict[str, Any]:
    with h5py.File(path, "w") as file:
        for number, name in enumerate(("density", "pressure", "Vx", "Vy")):
            file.create_dataset(name, data=values(number), chunks=(1, 5, 6, 4), compression="gzip")
        _coordinates(file)
        file["t-coordinate"] = np.arange(6.0) * 0.1
        file.attrs["M"] = 0.1
    return {"boundary": "periodic"}


def pdebench_incompressible(path: Path) -> dict[str, Any]:
    with h5py.File(path, "w") as file:
        velocity = np.stack([values(), values(1)], -1)
        file.create_dataset("velocity", data=velocity, chunks=(1, 1, 6, 4, 2), compression="lzf", shuffle=True)
        file.create_dataset("particles", data=values(2)[..., None], chunks=(1, 1, 6, 4, 1), compression="lzf")
        file["force"], file["t"] = velocity[:, 0], np.tile(np.arange(5.0), (2, 1))
        file.attrs["config"], file.attrs["latestIndex"] = "nu: 0.01", 2
    return {"boundary": "dirichlet", "extent": 1.0}


def _coordinates(file: h5py.File) -> None:
    for dim, n in (("x", 6), ("y", 4)):
        file[f"{dim}-coordinate"] = (np.arange(float(n)) + 0.5) / n


def pdearena(path: Path) -> dict[str, Any]:
    with h5py.File(path, "w") as file:
        for part in ("train", "valid"):
            group = file.create_group(part)
            for number, name in enumerate(("u", "vx", "vy")):
                group[name] = values(number).astype(np.float64)
            group["t"] = np.tile(np.arange(5.0), (2, 1))
            group["dt"] = np.ones(2)
            for dim, n in (("x", 6), ("y", 4)):
                group[dim] = np.tile((np.arange(n) + 0.5) / n, (2, 1))
                group[f"d{dim}"] = np.full(2, 1 / n)
            group["buo_y"] = np.array([0.4, 0.5])
    return {"boundary": "periodic", "group": "train"}


def py_pde(path: Path) -> dict[str, Any]:
    state = {"bounds": [[0, 3], [0, 2]], "shape": [6, 4], "periodic": [True, True]}
    grid = json.dumps({**state, "class": "CartesianGrid"})
    with h5py.File(path, "w") as file:
        file.create_dataset("data", data=values()[0].astype(np.float64), chunks=(1, 6, 4), compression="gzip")
        file["times"] = np.arange(5.0)
        file.attrs["field_attributes"] = json.dumps(
            {"class": "ScalarField", "grid": grid, "label": "c", "dtype": "float64"}
        )
    return {}


def dedalus(path: Path) -> dict[str, Any]:
    with h5py.File(path, "w") as file:
        file.attrs.update({"set_number": 1, "handler_name": "snapshots", "writes": 5})
        lines = {"sim_time": np.arange(5.0), "x_hash_1": np.arange(6) / 6, "y_hash_2": np.arange(4) / 4}
        for name, line in lines.items():
            file.create_dataset(f"scales/{name}", data=line).make_scale(name.split("_hash")[0])
        task = file.create_dataset("tasks/u", data=values()[0].astype(np.float64), chunks=(1, 6, 4))
        task.attrs["grid_space"] = [True, True]
        for axis, (label, name) in zip(task.dims, zip("txy", lines, strict=True), strict=True):
            axis.label = label
            axis.attach_scale(file["scales"][name])  # pyright: ignore[reportIndexIssue]
    return {}


def netcdf4(path: Path) -> dict[str, Any]:
    _dataset().to_netcdf(path, engine="h5netcdf", encoding={"u": {"zlib": True}})
    return {"boundary": "neumann"}


def netcdf3(path: Path) -> dict[str, Any]:
    _dataset().to_netcdf(path, engine="scipy")
    return {"boundary": "neumann"}


def _dataset() -> xr.Dataset:
    return xr.Dataset(
        {"u": (("trajectory", "time", "x", "y"), values(), {"units": "K"})},
        coords={"time": np.arange(5.0), "x": np.arange(6.0), "y": np.arange(4.0)},
    )


def matlab5(path: Path) -> dict[str, Any]:
    scipy.io.savemat(path, {"u": values(), "a": values(1)}, do_compression=True)
    return {"dims": DIMS, **BOX}


def matlab7(path: Path) -> dict[str, Any]:
    with h5py.File(path, "w", userblock_size=512) as file:
        file["u"] = values().T
        file["u"].attrs["MATLAB_class"] = np.bytes_("single")
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    return {"dims": DIMS, **BOX}


def npy(path: Path) -> dict[str, Any]:
    with path.open("wb") as file:
        np.save(file, values())
    return {"dims": DIMS, **BOX}


def npz(path: Path) -> dict[str, Any]:
    with path.open("wb") as file:
        np.savez_compressed(file, u=values(), a=values(1))
    return {"dims": DIMS, **BOX}


def tensors(path: Path) -> dict[str, Any]:
    torch.save({"x": torch.from_numpy(values())}, path)
    return {"dims": DIMS, **BOX}


def mapped(path: Path) -> dict[str, Any]:
    with h5py.File(path, "w") as file:
        file.create_dataset("state/p", data=values(), chunks=(1, 5, 6, 4), compression="gzip", shuffle=True)
        file["t"] = np.arange(5.0)
        file["nu"] = np.array([0.1, 0.2])
    return {
        "fields": {"pressure": ["/state/p", "Pa"]}, "dims": DIMS, "extent": [3.0, 2.0], "boundary": "periodic",
        "time": "/t", "scalars": {"nu": "/nu"},
    }  # fmt: skip


def zarr2(path: Path) -> dict[str, Any]:
    _store(path, 2)
    return {"boundary": "neumann"}


def zarr3(path: Path) -> dict[str, Any]:
    _store(path, 3)
    return {"boundary": "neumann"}


def _store(path: Path, version: Literal[2, 3]) -> None:
    _dataset().to_zarr(path, zarr_format=version, encoding={"u": {"chunks": (1, 5, 3, 4)}}, consolidated=version == 2)


# Folders, where the others are files; they need the library zarr.
STORES: dict[str, Callable[[Path], dict[str, Any]]] = {"zarr2": zarr2, "zarr3": zarr3}

FILES: dict[str, Callable[[Path], dict[str, Any]]] = {
    f.__name__: f
    for f in (
        the_well, pdebench, pdebench_groups, pdebench_darcy, pdebench_flow, pdebench_incompressible, pdearena, py_pde,
        dedalus, netcdf4, netcdf3, matlab5, matlab7, npy, npz, tensors, mapped,
    )
}  # fmt: skip
