"""Zarr stores of both versions, as xarray and as anemoi write them."""

from __future__ import annotations

import builtins
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

from physdiff.data.formats import find_format, open_source, zarr_store
from physdiff.data.layout import Layout
from physdiff.data.source import Source

RNG = np.random.default_rng(3)
BOX = Layout(boundary=["neumann", "periodic"])


def whole(source: Source, name: str, order: tuple[str, ...]) -> np.ndarray:
    """A field, and the same from a copy through pickle."""
    view = {v.name: v.view for v in source.variables}[name]
    found = view.read(order)
    np.testing.assert_array_equal(
        {v.name: v.view for v in pickle.loads(pickle.dumps(source)).variables}[name].read(order), found
    )
    return found


@pytest.mark.parametrize("version", [2, 3])
def test_stores_of_xarray_are_read_by_name(tmp_path: Path, version: Any) -> None:
    values = RNG.standard_normal((3, 2, 6, 4)).astype(np.float32)
    values[1, 0, 2, 3] = np.nan
    dataset = xr.Dataset(
        {"t": (("time", "level", "longitude", "latitude"), values, {"units": "K"}), "mean": ((), 4.5)},
        coords={
            "time": np.arange(3) * 6.0,
            "level": [500, 850],
            "longitude": np.arange(6) * 60.0,
            "latitude": [60.0, 20, -20, -60],
        },
    )
    path = tmp_path / "a.zarr"
    dataset.to_zarr(path, zarr_format=version, consolidated=False, encoding={"t": {"chunks": (1, 1, 4, 4)}})
    assert find_format(path).name == "zarr"
    source = open_source(path, Layout(boundary=["periodic", "neumann"]))
    assert source.names == ("t_500", "t_850") and source.variables[0].units == "K"
    found = whole(source, "t_850", ("time", "latitude", "longitude"))
    np.testing.assert_array_equal(found, values[:, 1, :, ::-1].transpose(0, 2, 1))
    assert found.dtype == np.float32 and source.variables[0].view.array.chunks == (1, 1, 4, 4)
    assert source.times.tolist() == [[0, 6, 12]] and source.scalars["mean"] == 4.5
    assert (source.grid.dims, source.grid.extent) == (("longitude", "latitude"), (360.0, 160.0))
    part = source.variables[0].view.read(("longitude",), {"time": 2, "latitude": 0, "longitude": slice(1, 6, 2)})
    np.testing.assert_array_equal(part, values[2, 0, 1:6:2, 3])


@pytest.mark.parametrize("version", [2, 3])
def test_packed_stores_are_decoded(tmp_path: Path, version: Any) -> None:
    values = np.round(RNG.uniform(0, 100, (4, 5)), 1)
    values[1, 2] = np.nan
    dataset = xr.Dataset({"p": (("x", "y"), values)}, coords={"x": np.arange(4.0), "y": np.arange(5.0)})
    encoding = {"p": {"dtype": "i2", "scale_factor": 0.1, "_FillValue": -9}}
    dataset.to_zarr(tmp_path / "a", zarr_format=version, consolidated=False, encoding=encoding)
    with xr.open_zarr(tmp_path / "a", consolidated=False) as expected:
        np.testing.assert_array_equal(whole(open_source(tmp_path / "a", BOX), "p", ("x", "y")), expected["p"].values)


def test_anemoi_stores_give_variables_and_a_box(tmp_path: Path) -> None:
    values = RNG.standard_normal((3, 2, 1, 20)).astype(np.float32)
    root = zarr.create_group(tmp_path / "a.zarr", zarr_format=2)
    lat, lon = np.meshgrid([30.0, 10, -10, -30], np.arange(5) * 72.0, indexing="ij")
    dates = np.array(["2020-01-01T00", "2020-01-01T06", "2020-01-01T12"], dtype="datetime64[s]")
    for name, array in {"data": values, "latitudes": lat.ravel(), "longitudes": lon.ravel(), "dates": dates}.items():
        root.create_array(name, data=array)
    root.attrs.update({"variables": ["2t", "msl"], "field_shape": [4, 5]})
    source = open_source(tmp_path / "a.zarr", BOX)
    assert source.names == ("2t", "msl") and source.grid.dims == ("latitude", "longitude")
    expected = values[:, 1, 0].reshape(3, 4, 5)[:, ::-1]
    np.testing.assert_array_equal(whole(source, "msl", ("trajectory", "time", "latitude", "longitude"))[0], expected)
    np.testing.assert_array_equal(np.diff(source.times[0]), [21600, 21600])
    root.attrs["field_shape"] = [20]
    with pytest.raises(ValueError, match="anemoi store of 20 cells without a regular grid"):
        open_source(tmp_path / "a.zarr", BOX)


def test_arrays_without_names_of_axes_take_those_of_the_layout(tmp_path: Path) -> None:
    values = RNG.standard_normal((3, 4, 5))
    root = zarr.create_group(tmp_path / "a.zarr")
    root.create_array("inner/u", data=values, chunks=(1, 4, 5))
    layout = Layout.of(
        {
            "fields": {"v": ["u", "m/s"]},
            "group": "inner",
            "dims": ["trajectory", "x", "y"],
            "extent": 1.0,
            "boundary": "periodic",
        }
    )
    source = open_source(tmp_path / "a.zarr", layout)
    np.testing.assert_array_equal(whole(source, "v", ("trajectory", "x", "y")), values)
    zarr.save_array(tmp_path / "b.zarr", values)
    alone = open_source(tmp_path / "b.zarr", Layout.of(layout, fields={"v": "data"}, group=""))
    np.testing.assert_array_equal(whole(alone, "v", ("trajectory", "x", "y")), values)


def test_damage_and_a_missing_library_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zarr.save_array(tmp_path / "a.zarr", np.zeros((3, 4)))
    (tmp_path / "a.zarr" / "zarr.json").write_text('{"zarr_format": 3')
    with pytest.raises(ValueError, match=r"a\.zarr' is damaged or no zarr store"):
        open_source(tmp_path / "a.zarr", BOX)
    zarr.create_array(tmp_path / "b.zarr", shape=(10**6, 10**6), chunks=(10**3, 10**3), dtype="f8")
    with pytest.raises(ValueError, match=r"claims 8e\+03 GB, shape \(1000000, 1000000\), in a file of .* MB"):
        open_source(tmp_path / "b.zarr", BOX)

    known = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "zarr":
            raise ImportError(name)
        return known(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"needs the library zarr: pip install 'physdiff\[zarr\]'"):
        zarr_store.open_zarr(tmp_path / "b.zarr", BOX)
