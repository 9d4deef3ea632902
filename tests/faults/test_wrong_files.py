"""Files that are sound and wrong: each gets a sentence that names the file, the field and what was expected."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from physdiff import cli

from .small_files import FILES, SHAPE, values

Edit = Callable[[h5py.File], None]


def remove(*names: str) -> Edit:
    def edit(file: h5py.File) -> None:
        for name in names:
            del file[name]

    return edit


def put(name: str, array: Any, **how: Any) -> Edit:
    def edit(file: h5py.File) -> None:
        attributes = dict(file[name].attrs) if name in file else {}
        if name in file:
            del file[name]
        file.create_dataset(name, data=array, **how)
        file[name].attrs.update(attributes)

    return edit


def change(name: str, at: tuple[int, ...], value: float) -> Edit:
    def edit(file: h5py.File) -> None:
        file[name][at] = value

    return edit


def attribute(name: str, key: str, value: Any) -> Edit:
    def edit(file: h5py.File) -> None:
        file[name].attrs[key] = value

    return edit


def claim(name: str, shape: tuple[int, ...]) -> Edit:
    """A dataset of any size, of which nothing was ever written."""

    def edit(file: h5py.File) -> None:
        attributes = dict(file[name].attrs)
        del file[name]
        file.create_dataset(name, shape=shape, dtype="f4", chunks=(1,) * (len(shape) - 2) + (512, 512))
        file[name].attrs.update(attributes)

    return edit


def swap(name: str, axes: tuple[int, ...]) -> Edit:
    return lambda file: put(name, file[name][()].transpose(axes))(file)


HUGE = 2**20
CASES: dict[str, tuple[str, Edit, str]] = {
    # The Well
    "well_without_dimensions": ("the_well", remove("dimensions"), "dimensions"),
    "well_without_fields": ("the_well", remove("t0_fields", "t1_fields"), "field"),
    "well_without_boundaries": ("the_well", remove("boundary_conditions"), ""),
    "well_without_time": ("the_well", remove("dimensions/time"), "time"),
    "well_without_axis": ("the_well", remove("dimensions/y"), "y"),
    "well_swapped_cells": ("the_well", swap("t0_fields/u", (0, 1, 3, 2)), "u"),
    "well_swapped_runs": ("the_well", swap("t0_fields/u", (1, 0, 2, 3)), "u"),
    "well_channels_first": ("the_well", swap("t1_fields/v", (0, 1, 4, 2, 3)), "v"),
    "well_nan": ("the_well", change("t0_fields/u", (1, 2, 3, 1), np.nan), "'u'"),
    "well_infinite": ("the_well", change("t0_fields/u", (0, 0, 0, 0), np.inf), "'u'"),
    "well_nan_in_axis": ("the_well", change("dimensions/x", (2,), np.nan), "x"),
    "well_nan_in_time": ("the_well", change("dimensions/time", (2,), np.nan), "time"),
    "well_uneven_axis": ("the_well", change("dimensions/x", (2,), 1.4), "x"),
    "well_empty_field": ("the_well", put("t0_fields/u", np.zeros((2, 5, 0, 4))), "u"),
    "well_no_frames": ("the_well", put("dimensions/time", np.zeros(0)), "time"),
    "well_text": ("the_well", put("t0_fields/u", np.full(SHAPE, "a", dtype="S1")), "u"),
    "well_objects": ("the_well", put("t0_fields/u", [["a", "bc"]], dtype=h5py.string_dtype()), "u"),
    "well_compound": ("the_well", put("t0_fields/u", np.zeros(SHAPE, dtype=[("re", "f4"), ("no", "i4")])), "u"),
    "well_group_for_field": (
        "the_well", lambda f: (remove("t0_fields/u")(f), f.create_group("t0_fields/u"))[0], "u",
    ),
    "well_absurd_shape": ("the_well", claim("t0_fields/u", (2, 5, HUGE, HUGE)), "u"),
    "well_absurd_runs": ("the_well", attribute("/", "n_trajectories", 10**9), "10"),
    "well_negative_runs": ("the_well", attribute("/", "n_trajectories", -3), "-3"),
    "well_words_for_runs": ("the_well", attribute("/", "n_trajectories", "many"), "many"),
    "well_spherical": ("the_well", attribute("/", "grid_type", "spherical"), "spherical"),
    "well_no_spatial_dims": ("the_well", lambda f: f["dimensions"].attrs.__delitem__("spatial_dims"), "spatial_dims"),
    "well_unknown_dims": ("the_well", attribute("dimensions", "spatial_dims", ["a", "b"]), "a"),
    "well_null_dataset": ("the_well", put("t0_fields/u", h5py.Empty("f4")), "u"),
    # PDEBench
    "bench_without_axis": ("pdebench", remove("x-coordinate"), "x"),
    "bench_wrong_axis": ("pdebench", put("x-coordinate", np.arange(5.0)), "x"),
    "bench_swapped": ("pdebench", swap("tensor", (0, 2, 1)), ""),
    "bench_short_time": ("pdebench", put("t-coordinate", np.arange(3.0)), "t"),
    "bench_nan": ("pdebench", change("tensor", (0, 0, 0), np.nan), "tensor"),
    "bench_empty": ("pdebench", put("tensor", np.zeros((0, 5, 6))), "tensor"),
    "groups_differ": ("pdebench_groups", put("0001/data", np.zeros((5, 6, 3, 2))), "0001"),
    "group_without_data": ("pdebench_groups", remove("0001/data"), "0001"),
    "group_without_grid": ("pdebench_groups", remove("0000/grid"), "grid"),
    # PDEArena and py-pde
    "arena_without_velocity": ("pdearena", remove("train/vx"), ""),
    "arena_times_differ": ("pdearena", put("train/t", np.zeros((2, 4))), "t"),
    "pde_no_json": ("py_pde", attribute("/", "field_attributes", "{not json"), "field_attributes"),
    "pde_other_json": ("py_pde", attribute("/", "field_attributes", "[1, 2]"), "field_attributes"),
    "pde_times": ("py_pde", put("times", np.arange(4.0)), "times"),
    # by a layout
    "mapped_missing": ("mapped", remove("state/p"), "/state/p"),
    "mapped_shape": ("mapped", put("state/p", np.zeros((2, 5, 6))), "/state/p"),
    "mapped_time": ("mapped", remove("t"), "/t"),
    "mapped_time_shape": ("mapped", put("t", np.zeros((3, 3))), "t"),
    "mapped_number": ("mapped", put("nu", np.zeros(7)), "nu"),
    "mapped_infinite": ("mapped", change("state/p", (0, 1, 2, 3), -np.inf), "pressure"),
    "mapped_huge": ("mapped", claim("state/p", (2, 5, HUGE, HUGE)), "/state/p"),
}  # fmt: skip
READ = {"well_without_boundaries"}  # axes_attrs beside each axis tell them too


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_named(reader: Any, tmp_path: Path, case: str) -> None:
    name, edit, word = CASES[case]
    path = tmp_path / f"{case}.data"
    layout = FILES[name](path)
    with h5py.File(path, "a") as file:
        edit(file)
    found = reader(path, layout)
    print(found)
    if case in READ:
        assert found["outcome"] == "read", found["message"]
        return
    assert found["outcome"] == "refused", found
    assert path.name in found["message"] and word in found["message"].replace(path.name, ""), found["message"]


# ---- what refers to other files, and what unpacks to more than there is


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file in another folder than the data."""
    (tmp_path / "other").mkdir()
    path = tmp_path / "other" / "secret.h5"
    with h5py.File(path, "w") as file:
        file["p"] = values()
    np.full(SHAPE, 7.0, np.float32).tofile(tmp_path / "other" / "secret.raw")
    return path


def link_to(path: Path, how: str, secret: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["state/p"]
        if how == "external_link":
            file["state/p"] = h5py.ExternalLink("../other/secret.h5", "/p")
        elif how == "absolute_link":
            file["state/p"] = h5py.ExternalLink(str(secret), "/p")
        elif how == "dangling":
            file["state/p"] = h5py.SoftLink("/nowhere")
        elif how == "loop":
            file["state/p"] = h5py.SoftLink("/state/p")
        elif how == "storage":
            raw = str(secret.with_suffix(".raw"))
            file.create_dataset("state/p", SHAPE, "f4", external=[(raw, 0, h5py.h5f.UNLIMITED)])
        else:
            layout = h5py.VirtualLayout(SHAPE, "f4")
            layout[...] = h5py.VirtualSource(str(secret), "p", SHAPE)
            file.create_virtual_dataset("state/p", layout)


@pytest.mark.parametrize("how", ["external_link", "absolute_link", "dangling", "loop", "storage", "virtual"])
def test_other_files_are_not_opened(reader: Any, tmp_path: Path, secret: Path, how: str) -> None:
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "a.h5"
    layout = FILES["mapped"](path)
    link_to(path, how, secret)
    found = reader(path, layout)
    assert found["outcome"] == "refused", found
    assert "a.h5" in found["message"] and "/state/p" in found["message"]


def test_a_neighbour_may_be_linked(reader: Any, tmp_path: Path, secret: Path) -> None:
    """Large sets keep one file a year beside an index of them."""
    shutil.copy(secret, tmp_path / "year.h5")
    path = tmp_path / "a.h5"
    layout = FILES["mapped"](path)
    with h5py.File(path, "a") as file:
        del file["state/p"]
        file["state/p"] = h5py.ExternalLink("year.h5", "/p")
    assert reader(path, layout)["outcome"] == "read"


def test_bombs(reader: Any, tmp_path: Path) -> None:
    """A few kilobytes that unpack to many gigabytes; the reader's process may have one."""
    shape = (2, 64, 4096, 4096)
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("u.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for _ in range(64):  # 64 MB of the 8.6 GB it says
            file.write(bytes(2**20))
    layout = {"dims": ["trajectory", "time", "x", "y"], "extent": 1.0, "boundary": "periodic", "time": 1.0}
    found = reader(tmp_path / "a.npz", layout)
    assert found["outcome"] == "refused" and "a.npz" in found["message"], found
    with h5py.File(tmp_path / "b.h5", "w") as file:
        data = file.create_dataset(
            "u", (4, 2048, 1024, 1024), "f4", chunks=(1, 16, 1024, 1024), compression="gzip", compression_opts=9
        )
        packed = _deflated(bytes(2**20), 64)
        for run in range(4):
            for first in range(0, 2048, 16):
                data.id.write_direct_chunk((run, first, 0, 0), packed)
    # 34 GB of zeros are sound data: looked into by samples, and too much for memory.
    found = reader(tmp_path / "b.h5", {**layout, "fields": {"u": "/u"}})
    assert found["outcome"] == "refused" and "b.h5" in found["message"] and "34 GB" in found["message"], found


def _deflated(block: bytes, times: int) -> bytes:
    import zlib

    packer = zlib.compressobj(9)
    return b"".join(packer.compress(block) for _ in range(times)) + packer.flush()


# ---- nothing is written outside of what was asked for


@pytest.mark.parametrize("words", [
    ["data", "repack", "bad.h5", "out/new.h5"], ["data", "repack", "bad.h5", "bad.h5", "--overwrite", "true"],
    ["data", "inspect", "bad.h5", "--figure", "out/figure.png"], ["data", "stats", "bad.h5"],
    ["data", "make", "../elsewhere"],
])  # fmt: skip
def test_a_command_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    FILES["the_well"](Path("bad.h5"))
    content = Path("bad.h5").read_bytes()
    Path("bad.h5").write_bytes(content := content[: len(content) * 3 // 5])
    monkeypatch.setattr("sys.argv", ["physdiff", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told = capsys.readouterr()
    assert ended.value.code == 2 and told.err.startswith("physdiff: error: ") and told.err.count("\n") == 1
    left = sorted(str(f.relative_to(tmp_path)) for f in tmp_path.rglob("*") if f.is_file())
    assert left == ["work/bad.h5"] and Path("bad.h5").read_bytes() == content
