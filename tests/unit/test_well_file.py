"""Files that are written some runs at a time, what they refuse, and statistics in one pass."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from physdiff.data import load_fields
from physdiff.data.formats import the_well_stats
from physdiff.data.formats.the_well_writer import FieldSpec, WellFile, write_stats, write_the_well
from physdiff.grid import Grid

RUNS, FRAMES = 5, 3
GRID = Grid((4, 6), (1.0, 2.0), ("periodic", "dirichlet"), units="m")
FIELDS = {
    "p": FieldSpec("Pa"),
    "u": FieldSpec("m/s", rank=1, dtype="float64"),
    "k": FieldSpec(time_varying=False),
    "s": FieldSpec("1/s", rank=2),
    "depth": FieldSpec("m", sample_varying=False, time_varying=False),
}


def arrays(runs: int = RUNS) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {
        "p": (runs, FRAMES, 4, 6), "u": (runs, FRAMES, 4, 6, 2), "k": (runs, 4, 6),
        "s": (runs, FRAMES, 4, 6, 2, 2), "depth": (4, 6),
    }  # fmt: skip
    return {name: rng.standard_normal(shape).astype(FIELDS[name].dtype) for name, shape in shapes.items()}


def part(values: dict[str, np.ndarray], first: int, last: int) -> dict[str, np.ndarray]:
    return {name: v if name == "depth" else v[first:last] for name, v in values.items()}


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_pieces_in_any_order_give_back_every_bit(tmp_path: Path, compression: str | None) -> None:
    values, path = arrays(), tmp_path / "data" / "train" / "a.hdf5"
    time = np.arange(FRAMES) * 0.5
    with WellFile(
        path, FIELDS, GRID, RUNS, time, parameters={"n": np.zeros(RUNS), "nu": 2.0}, compression=compression
    ) as file:
        for first, last in ((2, 5), (0, 1), (1, 2)):
            file.write(first, part(values, first, last))
            file.write_parameters(first, {"n": np.arange(first, last) * 10.0})
    data = load_fields(path, names=["p", "k", "u", "s"])
    assert data.grid == GRID and data.names == ("p", "k", "u_x", "u_y", "s_xx", "s_xy", "s_yx", "s_yy")
    assert dict(zip(data.names, data.units, strict=True))["u_y"] == "m/s"
    found = data.values.reshape(RUNS, FRAMES, 8, 4, 6)
    np.testing.assert_array_equal(found[:, :, 0], values["p"])
    np.testing.assert_array_equal(found[:, 1, 1], values["k"])
    np.testing.assert_array_equal(found[:, :, 3], values["u"][..., 1])
    np.testing.assert_array_equal(found[:, :, 5], values["s"][..., 0, 1])
    with h5py.File(path) as file:
        assert file["scalars/n"][()].tolist() == [0, 10, 20, 30, 40] and file.attrs["nu"] == 2
        assert file["t1_fields/u"].chunks == ((1, 1, 4, 6, 2) if compression else None)
        assert file["t0_fields/k"].chunks == ((1, 4, 6) if compression else None)
        np.testing.assert_array_equal(file["t0_fields/depth"][()], values["depth"])
        assert not file["t0_fields/k"].attrs["time_varying"] and file["t0_fields/k"].attrs["sample_varying"]
        assert file["t1_fields/u"].dtype == np.float64 and file["t0_fields/p"].dtype == np.float32


def with_value(value: float, dtype: type = np.float32) -> dict[str, np.ndarray]:
    values = part(arrays(), 1, 3)
    values["p"] = values["p"].astype(dtype)
    values["p"][1, 2, 0, 5] = value
    return values


@pytest.mark.parametrize(
    ("first", "values", "message"),
    [
        (1, with_value(np.nan), r"'p' holds nan at \(trajectory, frame, \*cell\) \(2, 2, 0, 5\); not written"),
        # Finite as it came, but not in the stored type.
        (1, with_value(1e300, np.float64), r"'p' holds inf at \(trajectory, frame, \*cell\) \(2, 2, 0, 5\)"),
        (4, part(arrays(), 0, 2), r"runs 4 to 5 of a.hdf5 are not 2 new ones of its 5; written before: 1"),
        (0, part(arrays(), 0, 2), r"runs 0 to 1 of a.hdf5 are not 2 new ones of its 5; written before: 1"),
        (1, {k: v for k, v in part(arrays(), 1, 2).items() if k != "u"}, "runs from 1 of a.hdf5 lack the field 'u'"),
        (1, {**part(arrays(), 1, 2), "pp": np.zeros(1)}, "a.hdf5 has no field 'pp'; it has p, u, .* Did you mean 'p'"),
        (
            1,
            {**part(arrays(), 1, 3), "u": np.zeros((2, FRAMES, 4, 6))},
            r"'u' has shape \(2, 3, 4, 6\); expected \(2, 3, 4, 6, 2\) for \(trajectories, frames, \*grid, component\)",
        ),
        (1, {**part(arrays(), 1, 2), "depth": np.zeros((4, 6))}, "'depth' is to be the same in all runs; from run 1"),
        (1, part(arrays(), 1, 4), "a.hdf5 lacks run 4: 4 of 5 were written; the file is not kept"),
    ],
    ids=["nan", "overflow", "beyond", "twice", "missing", "unknown", "shape", "differs", "incomplete"],
)
def test_what_does_not_fit_leaves_nothing(tmp_path: Path, first: int, values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message), WellFile(tmp_path / "a.hdf5", FIELDS, GRID, RUNS, np.arange(3)) as f:
        f.write(0, part(arrays(), 0, 1))
        f.write(first, values)
    assert list(tmp_path.iterdir()) == []


def test_settings_of_a_file_are_refused_before_it_is_made(tmp_path: Path) -> None:
    for fields, runs, time, parameters, message in (
        ({}, 1, np.zeros(1), {}, "no field to write"),
        (FIELDS, 0, np.zeros(1), {}, "at least one run and one frame; got 0 runs"),
        (FIELDS, 2, np.zeros(0), {}, r"got 2 runs and times of shape \(0,\)"),
        (FIELDS, 2, np.zeros((3, 1)), {}, r"time has shape \(3, 1\); expected \(frames,\) or \(2, frames\)"),
        (FIELDS, 2, np.zeros(1), {"a": np.zeros(3)}, r"'a' has shape \(3,\); expected \(\) or \(2,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            WellFile(tmp_path / "a.hdf5", fields, GRID, runs, time, parameters=parameters)
    with pytest.raises(ValueError, match=r"rank 0 \(scalar\), 1 \(vector\) or 2 \(tensor\); got 3"):
        FieldSpec(rank=3)
    one = {"p": FieldSpec()}
    for parameters, message in (({"b": np.zeros(1)}, "'b' of runs from 0"), ({"a": np.full(2, np.nan)}, "'a' is nan")):
        with pytest.raises(ValueError, match=message), WellFile(
            tmp_path / "a.hdf5", one, GRID, 2, np.zeros(1), parameters={"a": np.zeros(2)}
        ) as file:  # fmt: skip
            file.write_parameters(0, parameters)
    constant = {"depth": FIELDS["depth"], "p": FIELDS["p"]}
    with pytest.raises(ValueError, match="lacks the field 'depth'"), WellFile(
        tmp_path / "a.hdf5", constant, GRID, 1, np.zeros(1)
    ) as file:  # fmt: skip
        file.write(0, {"p": np.zeros((1, 1, 4, 6))})
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_simulation_is_passed_on_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), WellFile(tmp_path / "a.hdf5", FIELDS, GRID, RUNS, np.arange(3)):
        raise KeyError("the solver's own")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("block", [1, 2_000, 5_000, 10**8])
def test_stats_do_not_depend_on_how_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """Against numpy on whole arrays; the mean is 10⁶ spreads, which sums of squares would lose."""
    monkeypatch.setattr(the_well_stats, "_BLOCK_BYTES", block)
    values = arrays()
    values["u"] += 1e6
    for i, (first, last) in enumerate(((0, 2), (2, 5))):
        file = WellFile(tmp_path / "data" / "train" / f"{i}.hdf5", FIELDS, GRID, last - first, np.arange(3))
        with file:
            file.write(0, part(values, first, last))
    stats = yaml.safe_load(write_stats(tmp_path).read_text())
    for name in ("p", "u", "k", "s"):
        axes = tuple(range(values[name].ndim - FIELDS[name].rank))
        x = values[name].astype(np.float64)
        np.testing.assert_allclose(stats["mean"][name], x.mean(axes), rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(stats["std"][name], x.std(axes), rtol=1e-9)
        np.testing.assert_allclose(stats["rms"][name], np.sqrt((x**2).mean(axes)), rtol=1e-12)
        if name == "k":
            assert name not in stats["std_delta"]
        else:
            change = np.diff(x, axis=1)
            np.testing.assert_allclose(stats["mean_delta"][name], change.mean(axes), rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(stats["std_delta"][name], change.std(axes), rtol=1e-9)
            np.testing.assert_allclose(stats["rms_delta"][name], np.sqrt((change**2).mean(axes)), rtol=1e-9)
    assert stats["mean"]["depth"] == pytest.approx(float(values["depth"].astype(np.float64).mean()), rel=1e-12)
    assert len(stats["mean"]["u"]) == 2 and np.shape(stats["std"]["s"]) == (2, 2)


def test_stats_without_a_training_split_say_so(tmp_path: Path) -> None:
    write_the_well(tmp_path / "data" / "test" / "a.hdf5", {"u": np.zeros((1, 1, 4, 6))}, GRID)
    with pytest.raises(FileNotFoundError, match=r"no .h5 or .hdf5 files in .*train"):
        write_stats(tmp_path)
