"""Values that a file refers to in others, and what is remembered of files that change under a reader."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from physdiff.data.fieldset import FieldSet
from physdiff.data.fingerprint import content_of, files_of
from physdiff.data.layout import Layout
from physdiff.data.selection import Selection

U = np.random.default_rng(0).standard_normal((4, 6, 8, 5)).astype(np.float32)
APART = [0, 2, 5, 9]  # frames that do not touch are read as windows


def layout(name: str = "u", dims: tuple[str, ...] = ("trajectory", "time", "x", "y")) -> Layout:
    return Layout(fields={name: name}, dims=list(dims), boundary="periodic", extent=1.0, time=1.0)


@pytest.mark.parametrize("storage", [{}, {"chunks": (1, 1, 8, 5)}, {"chunks": (1, 2, 8, 5), "compression": "gzip"}])
def test_a_link_leads_to_the_array_of_the_other_file(tmp_path: Path, storage: dict[str, Any]) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file.create_dataset("u", data=U, **storage)
    with h5py.File(tmp_path / "own.h5", "w") as file:
        file.create_dataset("u", data=-U, **storage)
        file["v"] = h5py.ExternalLink("other.h5", "/u")
    for name, expected in (("v", U), ("u", -U)):
        fields = FieldSet.open([tmp_path / "own.h5"], layout=layout(name))
        for rows in (APART, [0, 1, 2], [3]):
            np.testing.assert_array_equal(fields.read(rows).values[:, 0], expected.reshape(24, 8, 5)[rows])


def test_another_layout_of_a_dataset_is_looked_at_anew(tmp_path: Path) -> None:
    x = U.copy()
    x[0, 1, 3, 2] = np.nan
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("u", data=x, chunks=(1, 1, 8, 5), compression="gzip")
    FieldSet.open([tmp_path / "a.h5"], layout=layout()).read(APART)
    fields = FieldSet.open([tmp_path / "a.h5"], layout=layout("u", ("time", "z", "x", "y")))
    with pytest.raises(ValueError, match=r"nan at trajectory 0, frame 0, cell \(1, 3, 2\)"):
        fields.read([0, 2])


@pytest.mark.parametrize("kind", ["external", "same date"])
def test_a_value_that_is_lost_later_is_seen(tmp_path: Path, kind: str) -> None:
    path, values = tmp_path / "a.h5", tmp_path / "a.h5"
    if kind == "external":
        values = tmp_path / "raw.bin"
        U.tofile(values)
    with h5py.File(path, "w") as file:
        if kind == "external":
            file.create_dataset("u", U.shape, "f4", external=[(str(values), 0, U.nbytes)])
        else:
            file.create_dataset("u", data=U, chunks=(2, 3, 8, 5))
    fields = FieldSet.open([path], layout=layout())
    fields.read(APART)
    before = os.stat(values)
    place = values.read_bytes().index(U[0, 0].tobytes())
    with values.open("r+b") as file:
        file.seek(place)
        file.write(np.float32(np.nan).tobytes())
    os.utime(values, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ValueError, match=r"nan at trajectory 0, frame 0, cell \(0, 0\)"):
        fields.read(APART)


def test_a_component_can_be_the_mask(tmp_path: Path) -> None:
    mask = np.stack([np.ones(U.shape), U > 0], axis=-1).astype(np.float32)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["u"], file["m"] = U, mask
    dims = ["trajectory", "time", "x", "y"]
    told = Layout(
        fields={"u": "u", "m": {"path": "m", "dims": [*dims, "component"]}}, dims=dims, components=["a", "b"],
        boundary="periodic", extent=1.0, time=1.0,
    )  # fmt: skip
    for i, name in enumerate(("m_a", "m_b")):
        found = FieldSet.open([tmp_path / "a.h5"], Selection(("u",), mask=name), told).read(APART)
        assert found.observed is not None
        np.testing.assert_array_equal(found.observed[:, 0], mask.reshape(24, 8, 5, 2)[APART, ..., i] != 0)


@pytest.mark.parametrize("rows", [np.arange(24) < 3, [True, False], [1.5], np.full(70, 0.5)])
def test_samples_have_whole_numbers(tmp_path: Path, rows: Any) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["u"] = U
    with pytest.raises(IndexError, match="samples are asked for by whole numbers"):
        FieldSet.open([tmp_path / "a.h5"], layout=layout()).read(rows)


def test_one_value_in_memory_tells_large_sets_apart() -> None:
    xr = pytest.importorskip("xarray")
    from physdiff.data.fields import open_fields

    def digest(x: np.ndarray) -> str:
        axes = {name: np.arange(n, dtype=float) for name, n in zip(("time", "x", "y"), x.shape, strict=True)}
        return content_of(open_fields(xr.Dataset({"u": (tuple(axes), x)}, axes), split=None,
                                      layout=Layout(boundary="periodic")))  # fmt: skip

    x = np.zeros((40, 512, 512), np.float32)  # 42 MB: more than is read whole of files
    first = digest(x)
    x[5, 6, 7] = 1.0
    assert digest(x) != first


def test_a_piece_of_a_zarr_store_has_a_date(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    store = zarr.open_group(str(tmp_path / "a.zarr"), mode="w")
    array = store.create_array("u", shape=U.shape, chunks=(1, 1, 8, 5), dtype="f4")
    array[:] = U
    fields = FieldSet.open([tmp_path / "a.zarr"], layout=layout())
    before = files_of(fields)
    array[2, 3] = 1.0
    assert files_of(fields) != before
