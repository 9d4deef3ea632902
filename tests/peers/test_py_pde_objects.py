"""py-pde's fields and storages in memory: the same as through a file of its own writer."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from physdiff import load_fields, open_fields, source_of
from physdiff.data import open_source, open_splits
from physdiff.data.data_identity import identity_of
from physdiff.data.fieldset import FieldSet
from physdiff.data.layout import Layout

pytestmark = pytest.mark.peers

BOUNDARY = ["periodic", "neumann"]


def states(pde: Any, seed: int = 0) -> dict[str, Any]:
    grid, rng = pde.CartesianGrid([[0, 1], [-1, 2]], [4, 5], periodic=[True, False]), np.random.default_rng(seed)
    scalar = pde.ScalarField.random_uniform(grid, label="c", rng=rng)
    vector = pde.VectorField.random_uniform(grid, label="u", rng=rng)
    tensor = pde.Tensor2Field.random_uniform(grid, rng=rng)
    return {
        "scalar": scalar, "vector": vector, "tensor": tensor, "one": pde.FieldCollection([scalar]),
        "collection": pde.FieldCollection([tensor, scalar, vector]),
    }  # fmt: skip


def filled(storage: Any, state: Any, frames: int = 3) -> Any:
    storage.start_writing(state)
    for frame in range(frames):
        storage.append((frame + 1) * state, time=0.5 * frame)
    storage.end_writing()
    return storage


@pytest.mark.parametrize("what", ["scalar", "vector", "tensor", "one", "collection"])
@pytest.mark.parametrize("kind", ["memory", "file"])
def test_a_storage_is_read_as_its_file(tmp_path: Path, pde: Any, what: str, kind: str) -> None:
    state, path = states(pde)[what], tmp_path / "a.hdf5"
    file = filled(pde.FileStorage(path), state)
    storage = file if kind == "file" else filled(pde.MemoryStorage(), state)
    ours, theirs = source_of(storage, {"boundary": BOUNDARY}), open_source(path, Layout(boundary=BOUNDARY))
    assert (ours.grid, ours.schema, ours.attrs) == (theirs.grid, theirs.schema, theirs.attrs)
    assert [(v.name, v.parent, v.component) for v in ours.variables] == [
        (v.name, v.parent, v.component) for v in theirs.variables
    ]
    found, expected = load_fields(storage, boundary=BOUNDARY), load_fields(path, boundary=BOUNDARY)
    assert found.values.tobytes() == expected.values.tobytes() and found.values.dtype == expected.values.dtype
    assert found.time.tolist() == [0, 0.5, 1] and found.trajectory.tolist() == [0, 0, 0]
    again = pickle.loads(pickle.dumps(open_fields(storage, boundary=BOUNDARY)))
    assert again.read(np.array([2])).values.tobytes() == expected.values[2:].tobytes()


def test_a_storage_that_bears_the_name_of_a_file_is_known_by_its_numbers(tmp_path: Path, pde: Any) -> None:
    name = str(tmp_path / "a.hdf5")
    (tmp_path / "a.hdf5").write_text("something else")

    def identity(seed: int) -> str:
        storage = filled(pde.MemoryStorage(), states(pde, seed)["scalar"])
        return identity_of(FieldSet([source_of(storage, {"boundary": BOUNDARY}, name)]))

    assert identity(0) == identity(0) != identity(1)


def test_a_storage_grows_and_old_frames_stay(pde: Any) -> None:
    state = states(pde)["scalar"]
    storage = filled(pde.MemoryStorage(), state)
    assert len(load_fields(storage, boundary="neumann")) == 3
    storage.append(9 * state, time=2.0)
    data = load_fields(storage, boundary="neumann")
    np.testing.assert_array_equal(data.values[:, 0], np.stack([1, 2, 3, 9])[:, None, None] * state.data)


@pytest.mark.parametrize("what", ["scalar", "vector", "tensor", "one", "collection"])
def test_a_field_is_one_frame(pde: Any, what: str) -> None:
    state = states(pde)[what]
    data = load_fields(state, boundary=BOUNDARY)
    np.testing.assert_array_equal(data.values[0], state.data.reshape(-1, 4, 5))
    assert len(data) == 1 and data.time.tolist() == [0] and data.grid.boundary == tuple(BOUNDARY)


def test_several_storages_are_runs_of_one_set(tmp_path: Path, pde: Any) -> None:
    runs = [filled(pde.MemoryStorage(), states(pde, seed)["collection"]) for seed in range(4)]
    runs.append(filled(pde.FileStorage(tmp_path / "a.hdf5"), states(pde, 4)["collection"]))
    data = load_fields(runs, boundary=BOUNDARY)
    assert data.trajectory.tolist() == [run for run in range(5) for _ in range(3)]
    expected = np.concatenate([np.stack([np.asarray(frame) for frame in run.data]) for run in runs])
    np.testing.assert_array_equal(data.values, expected)
    parts = open_splits(runs, ["u"], boundary=BOUNDARY, split={"train": 0.6, "valid": 0.2, "test": 0.2})
    assert {part: len(fields) for part, fields in parts.items()} == {"train": 9, "valid": 3, "test": 3}
    assert parts["train"].names == ("u_x", "u_y")
    # Fields are runs of one frame.
    fields = load_fields([states(pde, seed)["scalar"] for seed in range(4)], boundary=BOUNDARY)
    assert fields.trajectory.tolist() == [0, 1, 2, 3]


def test_samples_of_a_periodic_box_need_no_word(pde: Any) -> None:
    data = load_fields(pde.ScalarField(pde.UnitGrid([3, 4], periodic=True), 2.0))
    assert (data.names, data.grid.boundary, data.grid.extent) == (("data",), ("periodic", "periodic"), (3.0, 4.0))
    assert data.values.tolist() == [[[[2.0] * 4] * 3]]


def test_what_does_not_fit_is_told(tmp_path: Path, pde: Any) -> None:
    state = states(pde)["scalar"]
    memory = filled(pde.MemoryStorage(), state)
    with pytest.raises(ValueError, match=r"^py-pde object is not periodic along y, .*pass boundary= "):
        source_of(memory)
    with pytest.raises(ValueError, match=r"py-pde object 1 holds .*'u'.* py-pde object 0 holds .*'c'"):
        source_of([state, states(pde)["vector"]], {"boundary": BOUNDARY})
    with pytest.raises(ValueError, match=r"object 1 holds .*\(2, 4, 5\); .*\(3, 4, 5\)\. Runs of one set are alike"):
        source_of([memory, filled(pde.MemoryStorage(), state, 2)], {"boundary": BOUNDARY})
    with pytest.raises(ValueError, match="py-pde object holds no frame"):
        source_of(pde.MemoryStorage(), {"boundary": BOUNDARY})
    with pytest.raises(ValueError, match="holds complex numbers"):
        source_of(1j * state, {"boundary": BOUNDARY})
    with pytest.raises(ValueError, match="is on a SphericalSymGrid of py-pde; physdiff reads CartesianGrid"):
        source_of(pde.ScalarField(pde.SphericalSymGrid(2, 8), 1.0))
    with pytest.raises(ValueError, match="has no use for 'fields'"):
        source_of(state, {"fields": {"c": "data"}})
    with pytest.raises(ValueError, match="this py-pde object has no split 'train'; divide it with splits"):
        load_fields(memory, split="train", boundary=BOUNDARY)


@pytest.mark.parametrize("label", ["123", "true", "[1]", '"u"', "null"])
def test_a_label_is_a_word_whatever_it_looks_like(label: str, tmp_path: Path) -> None:
    pde = pytest.importorskip("pde")
    field = pde.ScalarField(pde.UnitGrid([4, 5], periodic=True), 1.0, label=label)
    assert open_fields(field).names == (label,)
    filled(pde.FileStorage(str(tmp_path / "a.hdf5"), write_mode="truncate"), field).close()
    assert open_fields(tmp_path / "a.hdf5").names == (label,)


def test_two_fields_of_one_label_are_refused() -> None:
    pde = pytest.importorskip("pde")
    grid = pde.UnitGrid([4, 5], periodic=True)
    for labels in (("a", "a"), ("data_1", None)):
        parts = pde.FieldCollection([pde.ScalarField(grid, i, label=label) for i, label in enumerate(labels)])
        with pytest.raises(ValueError, match=r"two fields are named '(a|data_1)'"):
            open_fields(parts)
