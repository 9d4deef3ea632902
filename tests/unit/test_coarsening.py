"""Parts of a grid: crops, patches, larger cells, and cells without values."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from physdiff.data.coarsening import block_mean, spectral
from physdiff.data.fields import load
from physdiff.data.fieldset import FieldSet
from physdiff.data.selection import Selection
from physdiff.data.source import Source, Variable
from physdiff.data.stored import MemoryArray
from physdiff.data.view import View
from physdiff.grid import Grid

GRID = Grid((12, 6), (3.0, 2.0), ("periodic", "neumann"), units="m", origin=(1.0, -1.0))
RUNS, FRAMES = 2, 4


def fields(seed: int = 0, dtype: Any = np.float64) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    sea = rng.uniform(size=GRID.shape) < 0.6
    sea[4:8, 2:5] = False  # a coarse cell without any
    return {
        "u": rng.standard_normal((RUNS, FRAMES, *GRID.shape)).astype(dtype),
        "v": rng.standard_normal((RUNS, FRAMES, *GRID.shape)).astype(dtype),
        "depth": rng.standard_normal(GRID.shape).astype(dtype),
        "sea": sea.astype(dtype),
    }


def source_of(arrays: dict[str, np.ndarray], grid: Grid = GRID, observed: View | None = None) -> Source:
    axes = ("trajectory", "time", *grid.dims)
    variables = tuple(Variable(name, View(MemoryArray(x), axes[-x.ndim :])) for name, x in arrays.items())
    times = np.broadcast_to(np.arange(float(FRAMES)), (RUNS, FRAMES))
    return Source("mem", "memory", grid, variables, RUNS, times, observed=observed)


# ---- crops and patches


def test_a_crop_is_these_cells_and_its_grid() -> None:
    arrays = fields()
    crop = Selection(("u",), past=1, condition=("depth",), crop={"x": (3, 9), "y": (0, 6)}, crop_boundary="neumann")
    data = FieldSet([source_of(arrays)], crop)
    assert data.grid == Grid((6, 6), (1.5, 2.0), "neumann", units="m", origin=(1.75, -1.0))
    np.testing.assert_array_equal(data.grid.coordinate(0), GRID.coordinate(0)[3:9])
    found = data.read(np.arange(6))
    for i, (run, frame) in enumerate(itertools.product(range(2), range(1, 4))):
        np.testing.assert_array_equal(found.values[i, 0], arrays["u"][run, frame, 3:9])
        np.testing.assert_array_equal(found.given[i], [arrays["u"][run, frame - 1, 3:9], arrays["depth"][3:9]])


def test_only_the_crop_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = []
    read = MemoryArray.read
    monkeypatch.setattr(MemoryArray, "read", lambda self, key: (keys.append(key), read(self, key))[1])
    data = FieldSet([source_of(fields())], Selection(("u",), crop={"x": (3, 9)}, crop_boundary="neumann"))
    data.read([1])
    assert keys == [(0, slice(1, 2, 1), slice(3, 9), slice(0, 6))]


def test_a_part_of_a_periodic_axis_is_never_silently_periodic() -> None:
    source = source_of(fields())
    for part in ({"crop": {"x": (0, 6)}}, {"patch": (4, 6)}):
        with pytest.raises(ValueError, match=r"axis 'x' is periodic, and a part.*: data\.crop_boundary or data\.lay"):
            FieldSet([source], Selection(("u",), **part))
        for said in ("neumann", {"x": "neumann"}):
            data = FieldSet([source], Selection(("u",), **part, crop_boundary=said))
            assert data.grid.boundary == ("neumann", "neumann")
        walls = source_of(fields(), replace(GRID, boundary=("neumann", "neumann")))
        assert FieldSet([walls], Selection(("u",), **part)).grid.boundary == ("neumann", "neumann")
        clamped = source_of(fields(), replace(GRID, boundary=("dirichlet", "neumann")))
        with pytest.raises(ValueError, match="axis 'x' ends at clamped walls"):
            FieldSet([clamped], Selection(("u",), **part))
    # All of an axis is no cut, and a cut of one axis leaves the other.
    assert FieldSet([source], Selection(("u",), crop={"x": (0, 12), "y": (2, 4)})).grid.boundary[0] == "periodic"
    # Who says that a part is a period of its own is believed.
    period = Selection(("u",), crop={"x": (0, 6)}, crop_boundary={"x": "periodic"})
    assert FieldSet([source], period).grid.boundary[0] == "periodic"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop": {"xx": (0, 2)}}, r"data\.crop names the axis 'xx'\. (Did you mean 'x'|Known: x, y)"),
        ({"crop": {"x": (0, 13)}}, "ends at 13; the axis has 12 cells"),
        ({"patch": (4,)}, "data.patch has 1 numbers; expected one for each axis of the grid, x, y"),
        ({"patch": (4, 7)}, "data.patch has 7 cells along 'y'; there are 6"),
        ({"coarsen": 5}, "makes one cell of 5 along 'x', which has 12; crop it to 10"),
        ({"coarsen": (2, 2, 2)}, "data.coarsen has 3 numbers"),
        ({"crop": {"y": (0, 2)}, "crop_boundary": {"x": "neumann"}}, "names 'x', which is not cut; cut are y"),
    ],
)
def test_parts_that_do_not_fit(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FieldSet([source_of(fields())], Selection(("u",), **settings))


@pytest.mark.parametrize(("patch", "stride"), [((4, 6), None), ((5, 2), (3, 2)), ((4, 4), (4, 1))])
def test_patches_cover_the_crop(patch: tuple[int, int], stride: tuple[int, int] | None) -> None:
    arrays = fields()
    s = Selection(
        ("v",),
        frames=2,
        condition=("depth",),
        crop={"x": (1, 12)},
        patch=patch,
        patch_stride=stride,
        crop_boundary="neumann",
    )
    data = FieldSet([source_of(arrays)], s)
    step = stride or patch
    corners = [
        (x, y) for x in range(1, 12 - patch[0] + 1, step[0]) for y in range(0, 6 - patch[1] + 1, step[1])
    ]  # fmt: skip
    assert len(data) == RUNS * 3 * len(corners) and data.grid.shape == patch
    assert data.grid.extent == pytest.approx((patch[0] * 0.25, patch[1] / 3), rel=1e-15)
    order = np.random.default_rng(1).permutation(len(data))
    found = data.read(order)
    places = [(run, t, x, y) for run in range(RUNS) for t in range(3) for x, y in corners]
    for i, row in enumerate(order):
        run, t, x, y = places[row]
        part = np.s_[..., x : x + patch[0], y : y + patch[1]]
        np.testing.assert_array_equal(found.values[i], arrays["v"][run, t : t + 2][part])
        np.testing.assert_array_equal(found.given[i, 0], arrays["depth"][part])


# ---- larger cells


def loops(values: np.ndarray, fx: int, fy: int) -> np.ndarray:
    """Mean of blocks without NaN, cell by cell."""
    coarse = np.full((values.shape[0] // fx, values.shape[1] // fy), np.nan)
    for i, j in np.ndindex(coarse.shape):
        block = [values[a, b] for a in range(i * fx, i * fx + fx) for b in range(j * fy, j * fy + fy)]
        seen = [x for x in block if not math.isnan(x)]
        coarse[i, j] = math.fsum(seen) / len(seen) if seen else math.nan
    return coarse


@pytest.mark.parametrize("factors", [(2, 3), (4, 1), (12, 6), (1, 2)])
@pytest.mark.parametrize("share", [0.0, 0.6])
def test_mean_of_the_cells_that_are_there(factors: tuple[int, int], share: float) -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((2, 3, 12, 6))
    values[rng.uniform(size=values.shape) < share] = np.nan
    found = block_mean(values, factors)
    for at in np.ndindex(2, 3):
        # 72 numbers of about 1 in float64.
        np.testing.assert_allclose(found[at], loops(values[at], *factors), rtol=0, atol=1e-14)


def waves(grid: Grid, seed: int, held: int) -> Any:
    """A random sum of the waves that a grid of `held` cells along each axis tells apart, as a function of place."""
    rng = np.random.default_rng(seed)

    def along(axis: int, x: np.ndarray) -> np.ndarray:
        s = (x - grid.origin[axis]) / grid.extent[axis]
        n, boundary = held, grid.boundary[axis]
        if boundary == "periodic":
            k = range((n - 1) // 2 + 1)
            rows = [np.cos(2 * np.pi * j * s) for j in k] + [np.sin(2 * np.pi * j * s) for j in k[1:]]
        elif boundary == "neumann":
            rows = [np.cos(np.pi * j * s) for j in range(n)]
        else:
            rows = [np.sin(np.pi * j * s) for j in range(1, n + 1)]
        return np.stack(rows)

    shape = tuple(len(along(a, np.zeros(1))) for a in range(grid.ndim))
    amplitude = rng.standard_normal(shape)

    def field(other: Grid) -> np.ndarray:
        parts = [along(a, other.coordinate(a)) for a in range(grid.ndim)]
        return np.einsum("ij,ia,jb->ab", amplitude, *parts) if grid.ndim == 2 else amplitude @ parts[0]

    return field


WORDS = ("periodic", "neumann", "dirichlet")


@pytest.mark.parametrize("boundary", [*itertools.product(WORDS, WORDS)], ids="-".join)
@pytest.mark.parametrize("n", [4, 5])
@pytest.mark.parametrize("factor", [2, 3])
def test_spectral_coarsening_is_exact_on_waves_that_the_coarse_grid_holds(boundary, n: int, factor: int) -> None:
    fine = Grid((n * factor, n * factor), (2.0, 3.0), boundary, origin=(-1.0, 0.5))
    coarse, field = fine.resized((n, n)), waves(fine, 0, n)
    found = spectral(field(fine), fine.boundary, (factor, factor))
    np.testing.assert_allclose(found, field(coarse), rtol=0, atol=1e-12)


@pytest.mark.parametrize("boundary", WORDS)
def test_waves_that_the_coarse_grid_does_not_hold_are_dropped(boundary: str) -> None:
    n, factor = 6, 4
    fine = Grid((n * factor,), 1.0, boundary)
    x = fine.coordinate(0)
    first = {"periodic": n // 2, "neumann": n, "dirichlet": n + 1}[boundary]
    last = {"periodic": n * factor // 2, "neumann": n * factor - 1, "dirichlet": n * factor}[boundary]
    for k in range(first, last + 1):
        for wave in (np.cos, np.sin) if boundary == "periodic" else (np.cos,) if boundary == "neumann" else (np.sin,):
            values = wave((2 if boundary == "periodic" else 1) * np.pi * k * x)
            assert np.abs(spectral(values, fine.boundary, (factor,))).max() < 1e-12, (k, wave)


@pytest.mark.parametrize("way", ["mean", "spectral"])
def test_coarse_samples_conditions_and_grid(way: str) -> None:
    arrays = fields(dtype=np.float32)
    s = Selection(("u", "v"), past=1, condition=("depth",), coarsen=(3, 2), coarsening=way)
    data = FieldSet([source_of(arrays)], s)
    assert data.grid == replace(GRID, shape=(4, 3)) and data.grid.spacing == pytest.approx((0.75, 2 / 3))
    found = data.read(np.arange(6))

    def coarse(x: np.ndarray) -> np.ndarray:
        x = x.astype(np.float64)
        return loops(x, 3, 2) if way == "mean" else spectral(x, GRID.boundary, (3, 2))

    for i, (run, frame) in enumerate(itertools.product(range(2), range(1, 4))):
        expected = [coarse(arrays[name][run, frame]) for name in ("u", "v")]
        given = [coarse(arrays[name][run, frame - 1]) for name in ("u", "v")] + [coarse(arrays["depth"])]
        # One rounding to float32 of numbers below 4.
        np.testing.assert_allclose(found.values[i], expected, rtol=0, atol=3e-7)
        np.testing.assert_allclose(found.given[i], given, rtol=0, atol=3e-7)
    assert found.values.dtype == np.float32


def test_crop_then_coarsen() -> None:
    arrays = fields()
    s = Selection(("u",), crop={"x": (2, 8)}, patch=(4, 6), patch_stride=(2, 6), coarsen=2, crop_boundary="neumann")
    data = FieldSet([source_of(arrays)], s)
    assert data.grid == Grid((2, 3), (1.0, 2.0), "neumann", units="m", origin=(1.5, -1.0)) and len(data) == 16
    np.testing.assert_allclose(data.read([3]).values[0, 0], loops(arrays["u"][0, 1, 4:8], 2, 2), atol=1e-15)


# ---- cells without values


def masked(way: str) -> tuple[Source, np.ndarray]:
    """A source with cells that hold nothing, and which hold something, shape (runs, frames, *grid)."""
    arrays = fields()
    seen = np.broadcast_to(arrays["sea"] != 0, arrays["u"].shape).copy()
    observed = None
    if way == "nan":
        seen &= np.random.default_rng(4).uniform(size=seen.shape) < 0.9
        for name in ("u", "v"):
            arrays[name][~seen] = np.nan
    elif way == "file":
        seen &= np.random.default_rng(4).uniform(size=seen.shape) < 0.9
        observed = View(MemoryArray(seen), ("trajectory", "time", *GRID.dims))
    return source_of(arrays, observed=observed), seen


@pytest.mark.parametrize("way", ["nan", "file", "sea"])
@pytest.mark.parametrize("coarsen", [1, 2])
def test_masks_hide_values_and_past_frames_alike(way: str, coarsen: int) -> None:
    source, seen = masked(way)
    arrays = fields()
    s = Selection(("u", "v"), frames=2, past=1, condition=("depth",), mask=way, coarsen=coarsen)
    data = FieldSet([source], s)
    rows = np.array([3, 0, 1, 2])
    found = data.read(rows)
    for i, row in enumerate(rows):
        run, start = divmod(int(row), 2)

        def hidden(name: str, frame: int, run: int = run) -> np.ndarray:
            values = np.where(seen[run, frame], arrays[name][run, frame], np.nan)
            return loops(values, coarsen, coarsen)

        expected = [hidden(name, start + 1 + j) for name in ("u", "v") for j in range(2)]
        given = [hidden(name, start) for name in ("u", "v")] + [loops(arrays["depth"], coarsen, coarsen)]
        np.testing.assert_allclose(found.values[i], expected, rtol=0, atol=1e-14)
        np.testing.assert_allclose(found.given[i], given, rtol=0, atol=1e-14)
        np.testing.assert_array_equal(found.observed[i], ~np.isnan(expected))
    assert found.observed.dtype == bool and not found.observed.all()
    whole = load(data)
    np.testing.assert_array_equal(whole.values[3], found.values[0])
    np.testing.assert_array_equal(whole.observed[0], found.observed[1])


def test_a_mask_in_time_hides_cells_of_a_field_that_does_not_change() -> None:
    source, seen = masked("file")
    data = FieldSet([source], Selection(("depth", "u"), frames=2, mask="file"))
    found = data.read([1, 2])
    np.testing.assert_array_equal(found.observed[0, 0:2], seen[0, 1:3])
    np.testing.assert_array_equal(found.values[1, 1][seen[0, 3]], fields()["depth"][seen[0, 3]])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rows", [[5], [0, 1, 2, 3, 4, 5, 6, 7]])
@pytest.mark.parametrize("crop", [None, {"y": (1, 5)}])
def test_a_value_that_is_not_finite_is_named_on_every_read(value: float, rows: list[int], crop) -> None:
    arrays = fields()
    arrays["v"][1, 1, 7, 2] = value
    data = FieldSet([source_of(arrays)], Selection(("u", "v"), crop=crop))
    advice = "read with data.mask nan" if np.isnan(value) else "no option takes an infinite value"
    message = rf"mem: field 'v' holds {value} at trajectory 1, frame 1, cell \(7, 2\); .*{advice}"
    with pytest.raises(ValueError, match=message):
        data.read(rows)
    data.read([0, 1, 4, 6, 7])
    if np.isinf(value):
        for way in ("nan", "sea"):
            with pytest.raises(ValueError, match="no option takes an infinite value"):
                FieldSet([source_of(arrays)], Selection(("u", "v"), mask=way)).read(rows)


def test_a_nan_where_the_mask_says_observed_is_an_error() -> None:
    arrays = fields()
    arrays["sea"][7, 2] = 1
    for name, where in (("v", (1, 1, 7, 2)), ("depth", (7, 2))):
        wrong = {key: x.copy() for key, x in arrays.items()}
        wrong[name][where] = np.nan
        data = FieldSet([source_of(wrong)], Selection(("u", "v"), condition=("depth",), mask="sea"))
        with pytest.raises(ValueError, match=rf"'{name}' holds nan .*cell \(7, 2\); the mask says that it is observed"):
            data.read([5])
    arrays["sea"][7, 2] = np.nan
    with pytest.raises(ValueError, match="is the mask and holds values that are not finite"):
        FieldSet([source_of(arrays)], Selection(("u",), mask="sea")).read([0])


def test_a_field_that_does_not_change_must_be_there_wherever_it_is_observed() -> None:
    arrays = fields()
    arrays["depth"][7, 2] = np.nan
    seen = np.ones((RUNS, FRAMES, *GRID.shape), dtype=bool)
    seen[0, :2, 7, 2] = False
    observed = View(MemoryArray(seen), ("trajectory", "time", *GRID.dims))
    s = Selection(("u",), condition=("depth",), mask="file")
    data = FieldSet([source_of(arrays, observed=observed)], s)
    found = data.read([0, 1])
    assert np.isnan(found.given).sum() == np.isnan(found.values).sum() == 2
    for rows in ([2], [0, 1, 2], [1, 5]):
        with pytest.raises(ValueError, match=r"'depth' holds nan .*cell \(7, 2\); the mask says that it is observed"):
            data.read(rows)


def test_components_that_were_not_asked_for_are_not_looked_at() -> None:
    values = np.random.default_rng(0).standard_normal((RUNS, FRAMES, *GRID.shape, 3))
    values[..., 1] = np.nan
    view = View(MemoryArray(values), ("trajectory", "time", *GRID.dims, "c"))
    parts = tuple(Variable(f"w_{name}", view.at(c=i), parent="w") for i, name in enumerate("xyz"))
    source = Source("mem", "m", GRID, parts, RUNS, np.zeros((RUNS, FRAMES)))
    for mask in (None, "nan"):
        found = FieldSet([source], Selection(("w_z", "w_x"), mask=mask)).read([0, 1, 6])
        np.testing.assert_array_equal(found.values[2], [values[1, 2, ..., 2], values[1, 2, ..., 0]])
    values[1, 2, 3, 4, 2] = np.inf
    with pytest.raises(ValueError, match=r"'w_z' holds inf at trajectory 1, frame 2, cell \(3, 4\)"):
        FieldSet([source], Selection(("w_x", "w_z"))).read([6])
    with pytest.raises(ValueError, match=r"'w_y' holds nan at trajectory 0, frame 0, cell \(0, 0\)"):
        FieldSet([source]).read([0])


def test_large_values_are_finite_without_a_warning() -> None:
    values = np.full((RUNS, FRAMES, *GRID.shape), 3e38, dtype=np.float32)
    assert FieldSet([source_of({"u": values})]).read([0]).values.max() == np.float32(3e38)


def test_a_field_of_all_runs_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    data = FieldSet([source_of(fields())], Selection(("u",), condition=("depth",)))
    keys, read = [], MemoryArray.read
    monkeypatch.setattr(MemoryArray, "read", lambda self, key: (keys.append(key), read(self, key))[1])
    first, second = data.read([0]), data.read([5])
    assert [len(key) for key in keys] == [4, 2, 4]
    np.testing.assert_array_equal(first.given, second.given)
