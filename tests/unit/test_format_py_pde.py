"""py-pde's `FileStorage`, written with h5py as it stands on disk: components, grids, boundaries, frames.

`tests/peers/test_formats_of_others.py` reads files of py-pde's own writer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from physdiff.data import load_fields
from physdiff.data.formats import find_format, open_source, source_of
from physdiff.data.layout import Layout

T = 3
BOX = {"class": "CartesianGrid", "shape": [4, 5], "bounds": [[0.0, 1.0], [-1.0, 2.0]], "periodic": [True, True]}


def described(kind: str, grid: dict[str, Any] = BOX, label: str | None = None) -> dict[str, str]:
    """The attributes of a field, each encoded by itself."""
    return {key: json.dumps(v) for key, v in {"class": kind, "label": label, "dtype": "<f8"}.items()} | {
        "grid": json.dumps(grid)
    }


def storage(
    path: Path, attributes: dict[str, str], *axes: int, frames: int = T, dtype: type = np.float64
) -> np.ndarray:
    """Write a file; its arrays are longer than what was written to them where `frames` is less than T."""
    values = np.random.default_rng(0).standard_normal((T, *axes)).astype(dtype)
    with h5py.File(path, "w") as file:
        file.create_dataset("data", data=values, chunks=(1, *axes), compression="gzip")
        file["times"] = np.where(np.arange(T) < frames, 0.5 * np.arange(T), 0)
        file.attrs.update({"field_attributes": json.dumps(attributes), "data_length": json.dumps(frames)})
        file.attrs["solver"] = json.dumps({"class": "ExplicitSolver", "dt": 0.01})
    return values


def test_scalar_without_a_label(tmp_path: Path) -> None:
    path = tmp_path / "a.hdf5"
    values = storage(path, described("ScalarField"), 4, 5)
    data = load_fields(path)
    assert find_format(path).name == "py_pde" and data.names == ("data",)
    np.testing.assert_array_equal(data.values, values[:, None])
    assert data.time.tolist() == [0, 0.5, 1] and data.trajectory.tolist() == [0, 0, 0]
    assert (data.grid.extent, data.grid.origin) == ((1.0, 3.0), (0.0, -1.0))
    assert data.grid.boundary == ("periodic", "periodic")
    assert open_source(path).attrs == {"solver": {"class": "ExplicitSolver", "dt": 0.01}}


def test_vector_and_tensor(tmp_path: Path) -> None:
    vector = storage(tmp_path / "v.h5", described("VectorField", label="u"), 2, 4, 5)
    data = load_fields(tmp_path / "v.h5")
    assert data.names == ("u_x", "u_y")
    np.testing.assert_array_equal(data.values, vector)
    tensor = storage(tmp_path / "t.h5", described("Tensor2Field", label="s"), 2, 2, 4, 5)
    data = load_fields(tmp_path / "t.h5")
    assert data.names == ("s_xx", "s_xy", "s_yx", "s_yy")
    np.testing.assert_array_equal(data.values, tensor.reshape(T, 4, 4, 5))
    assert [v.component for v in open_source(tmp_path / "t.h5").variables] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_collection_stacks_the_components_of_its_fields(tmp_path: Path) -> None:
    fields = [described("ScalarField", label="c"), described("VectorField"), described("Tensor2Field", label="[1]")]
    whole = {"class": json.dumps("FieldCollection"), "label": "null", "fields": json.dumps(fields)}
    values = storage(tmp_path / "a.h5", whole, 7, 4, 5)
    data = load_fields(tmp_path / "a.h5")
    assert data.names == ("c", "data_1_x", "data_1_y", "[1]_xx", "[1]_xy", "[1]_yx", "[1]_yy")
    np.testing.assert_array_equal(data.values, values)
    assert [v.parent for v in open_source(tmp_path / "a.h5").variables] == ["", "data_1", "data_1", *["[1]"] * 4]


def test_collection_of_one_field_has_an_axis_for_it(tmp_path: Path) -> None:
    whole = {"class": json.dumps("FieldCollection"), "fields": json.dumps([described("ScalarField", label="c")])}
    values = storage(tmp_path / "a.h5", whole, 1, 4, 5)
    np.testing.assert_array_equal(load_fields(tmp_path / "a.h5").values, values)


def test_vector_on_a_line_and_a_unit_grid(tmp_path: Path) -> None:
    grid = {"class": "UnitGrid", "shape": [6], "periodic": [True]}
    values = storage(tmp_path / "a.h5", described("VectorField", grid), 1, 6)
    data = load_fields(tmp_path / "a.h5")
    assert data.names == ("data_x",) and (data.grid.extent, data.grid.origin) == ((6.0,), (0.0,))
    np.testing.assert_array_equal(data.values, values)


def test_frames_that_were_not_written_are_not_read(tmp_path: Path) -> None:
    values = storage(tmp_path / "a.h5", described("ScalarField"), 4, 5, frames=2)
    data = load_fields(tmp_path / "a.h5")
    np.testing.assert_array_equal(data.values[:, 0], values[:2])
    assert data.time.tolist() == [0, 0.5]


def test_walls_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    storage(path, described("ScalarField", {**BOX, "periodic": [True, False]}), 4, 5)
    with pytest.raises(ValueError, match=r"not periodic along y, .*pass boundary= .*such as \[periodic, neumann\]"):
        open_source(path)
    grid = open_source(path, Layout(boundary=["periodic", "dirichlet"])).grid
    assert grid.boundary == ("periodic", "dirichlet")


@pytest.mark.parametrize(
    ("attributes", "axes", "message"),
    [
        (described("ScalarField", {**BOX, "class": "SphericalSymGrid"}), (4, 5), "is on a SphericalSymGrid of py"),
        (described("ScalarField"), (5, 4), r"the shape \(3, 5, 4\); expected \(3, 4, 5\) for \(time, x, y\)"),
        (described("VectorField"), (3, 4, 5), r"expected \(3, 2, 4, 5\) for \(time, component, x, y\)"),
        (described("GraphField"), (4, 5), "holds a GraphField; physdiff reads ScalarField, VectorField, T"),
        (described("ScalarField", {**BOX, "bounds": [[0, 1]]}), (4, 5), r"its grid has shape \[4, 5\], bounds"),
        ({"class": '"ScalarField"'}, (4, 5), "attribute 'field_attributes' is not what py-pde's FileStorage wr"),
    ],
    ids=["grid", "shape", "components", "class", "bounds", "no grid"],
)  # fmt: skip
def test_what_does_not_fit_is_named(
    tmp_path: Path, attributes: dict[str, str], axes: tuple[int, ...], message: str
) -> None:
    storage(tmp_path / "a.h5", attributes, *axes)
    with pytest.raises(ValueError, match=message) as error:
        open_source(tmp_path / "a.h5")
    assert "a.h5" in str(error.value) and "\n" not in str(error.value)


def test_complex_values_and_an_empty_storage_are_refused(tmp_path: Path) -> None:
    storage(tmp_path / "a.h5", described("ScalarField"), 4, 5, dtype=np.complex128)
    with pytest.raises(ValueError, match="'/data' holds complex numbers"):
        open_source(tmp_path / "a.h5")
    storage(tmp_path / "b.h5", described("ScalarField"), 4, 5, frames=0)
    with pytest.raises(ValueError, match="attribute 'data_length' is 0; expected at least one frame"):
        open_source(tmp_path / "b.h5")


@pytest.mark.parametrize("thing", [3, None, [], {"c": 1}, np.zeros(3), "a.hdf5"], ids=repr)
def test_only_objects_of_xarray_and_py_pde_are_fields_in_memory(thing: Any) -> None:
    """`tests/peers/test_py_pde_objects.py` reads py-pde's."""
    with pytest.raises(ValueError, match=rf"an object of xarray or py-pde; got {type(thing).__name__}\."):
        source_of(thing)
