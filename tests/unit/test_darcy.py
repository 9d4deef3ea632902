"""The Darcy solver against manufactured and piecewise exact pressures and balances, and the data set it makes."""

from __future__ import annotations

import math
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from datasets.darcy import conductances, darcy_pressure, darcy_pressures, make, random_permeability
from physdiff.basis import SpectralBasis
from physdiff.data import load_fields
from physdiff.grid import Grid


def test_smooth_pressures_converge_at_second_order() -> None:
    """p = sin(πx) sin(2πy) e^x with a = exp(½ sin 2πx + ⅓ cos 3y): f = −∇a·∇p − aΔp, on cells that are no squares."""
    errors = []
    for n in (16, 32, 64, 128):
        shape, extent = (n, 3 * n // 2), (1.0, 0.5)
        grid = Grid(shape, extent=extent, boundary="dirichlet")
        x, y = np.meshgrid(grid.coordinate(0), grid.coordinate(1), indexing="ij")
        a = np.exp(0.5 * np.sin(2 * math.pi * x) + np.cos(3 * y) / 3)
        sx, cx, sy, cy = np.sin(math.pi * x), np.cos(math.pi * x), np.sin(2 * math.pi * y), np.cos(2 * math.pi * y)
        p = sx * sy * np.exp(x)
        px, py = (math.pi * cx + sx) * sy * np.exp(x), 2 * math.pi * sx * cy * np.exp(x)
        laplacian = ((1 - math.pi**2) * sx + 2 * math.pi * cx) * sy * np.exp(x) - 4 * math.pi**2 * p
        f = -a * (math.pi * np.cos(2 * math.pi * x) * px - np.sin(3 * y) * py + laplacian)
        errors.append(np.abs(darcy_pressure(a, f, grid.spacing) - p).max())
    slopes = np.log2(np.array(errors[:-1]) / errors[1:])
    print("errors", errors, "slopes", slopes)
    assert errors[-1] < 6e-4 and np.abs(slopes[1:] - 2).max() < 0.15


def test_resistances_in_series_are_exact() -> None:
    """A point source on a line of materials that jump by 1e4 at faces: p is piecewise linear, and so exact."""
    rng = np.random.default_rng(0)
    cells, length, at = 24, 1.7, 15
    a = np.where(rng.random(cells) < 0.5, 1e-2, 1e2) * rng.uniform(0.5, 2, cells)
    width = length / cells
    source = np.zeros(cells)
    source[at] = 3.0 / width  # strength 3 in the middle of one cell
    # Resistance from the left wall to each centre; the total decides how the flow divides.
    resistance = np.cumsum(width / a) - 0.5 * width / a
    total = (width / a).sum()
    peak = 3.0 * resistance[at] * (total - resistance[at]) / total
    exact = peak * np.minimum(resistance / resistance[at], (total - resistance) / (total - resistance[at]))
    found = darcy_pressure(a, source, (width,))
    error = np.abs(found / exact - 1).max()
    print("relative error", error)
    assert error < 8e-11  # rounding times the contrast and 24²: measured 2.5e-11, times 3


def test_layers_in_a_square_conduct_as_arithmetic_and_harmonic_means() -> None:
    """Flow along layers adds conductances, across them resistances: read from the faces themselves."""
    a = np.tile(np.array([3.0, 12.0])[:, None], (4, 8))
    across, along = conductances(a, (1.0, 1.0))
    np.testing.assert_allclose(across[1:-1], 4.8, rtol=1e-15)
    np.testing.assert_allclose(along[:, 1:-1], a[:, 1:], rtol=1e-15)
    np.testing.assert_allclose(across[[0, -1]], [[6.0] * 8, [24.0] * 8], rtol=1e-15)


def balance(a: np.ndarray, p: np.ndarray, spacing: tuple[float, ...]) -> tuple[np.ndarray, float]:
    """Outflow of each cell per volume, and through the rim in all, by differences of pressures."""
    outflow, rim = np.zeros_like(a), 0.0
    for axis, faces in enumerate(conductances(a, spacing)):
        padding = [(1, 1) if i == axis else (0, 0) for i in range(a.ndim)]
        flow = -faces * np.diff(np.pad(p, padding), axis=axis)  # p = 0 on the wall
        outflow += np.diff(flow, axis=axis)
        rim += flow.take(-1, axis).sum() - flow.take(0, axis).sum()
    return outflow, rim * math.prod(spacing)


@pytest.mark.parametrize("shape", [(40,), (24, 30), (8, 9, 10)])
def test_every_cell_gives_what_its_source_puts_in(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    a, f = np.exp(rng.standard_normal(shape) * 2), rng.standard_normal(shape)
    spacing = tuple(1 / n for n in shape)
    outflow, rim = balance(a, darcy_pressure(a, f, spacing), spacing)
    error = np.abs(outflow - f).max(), abs(rim - f.mean())
    print("cells", error[0], "rim", error[1])
    # Rounding: measured 8.7e-14 and 7e-16, times 3.
    assert error[0] < 2.7e-13 and error[1] < 2.1e-15


def test_the_pressure_is_positive_symmetric_and_inverse_in_the_permeability() -> None:
    """A source is positive, so is the pressure; Green's function is symmetric; a ten times as open medium has p/10."""
    rng = np.random.default_rng(2)
    a = np.where(rng.random((16, 16)) < 0.5, 3.0, 12.0)
    spacing = (1 / 16, 1 / 16)
    sources = np.zeros((2, 16, 16))
    sources[0, 3, 4] = sources[1, 12, 9] = 1.0
    first, second = (darcy_pressure(a, f, spacing) for f in sources)
    assert first.min() > 0 and first[12, 9] == pytest.approx(second[3, 4], rel=1e-12)
    np.testing.assert_allclose(darcy_pressure(10 * a, sources[0], spacing), first / 10, rtol=1e-12)


@pytest.mark.parametrize(
    ("shape", "extent", "contrast", "tolerance"),
    # Rounding of both solutions: measured 5.6e-14, 5.9e-14 and 2.8e-11 of the largest pressure, times 3.
    [((24, 30), (1.0, 2.0), 100.0, 1.7e-13), ((8, 9, 10), (1.0, 1.0, 1.0), 1e4, 1.8e-13), ((40,), (1.7,), 1e6, 9e-11)],
)
def test_conjugate_gradients_find_the_direct_solution(
    shape: tuple[int, ...], extent: tuple[float, ...], contrast: float, tolerance: float
) -> None:
    """Of several media at once, a source of its own among them, and one of nothing."""
    rng, grid = np.random.default_rng(0), Grid(shape, extent=extent, boundary="dirichlet")
    a, f = np.exp(rng.uniform(0, math.log(contrast), (3, *shape))), rng.standard_normal((3, *shape))
    f[2] = 0.0
    found = darcy_pressures(torch.from_numpy(a), torch.from_numpy(f), grid).numpy()
    direct = np.stack([darcy_pressure(one, source, grid.spacing) for one, source in zip(a, f, strict=True)])
    error = np.abs(found - direct).max() / np.abs(direct).max()
    print("relative difference", error)
    assert error < tolerance and not found[2].any()


def test_media_too_different_to_converge_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.flow_by_gradients._MOST", 16)
    a = torch.rand(2, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 8 + 1e-6
    with pytest.raises(ValueError, match=r"no pressure was found in 16 iterations .* or the device 'cpu'"):
        darcy_pressures(a, torch.ones(12, 12, dtype=torch.float64), Grid((12, 12), boundary="dirichlet"))


def test_permeabilities_have_the_stated_law() -> None:
    basis = SpectralBasis(Grid((24, 24), extent=1.0, boundary="neumann"))
    drawn = {
        medium: np.stack(
            [random_permeability(np.random.default_rng([7, i]), basis, medium, 2.0, 8.0, 0.3) for i in range(800)]
        )
        for medium in ("two_phase", "lognormal")
    }
    assert set(np.unique(drawn["two_phase"])) == {2.0, 8.0}
    share = (drawn["two_phase"] == 8.0).mean((1, 2))
    error = share.std() / math.sqrt(800)
    print(f"share of the open material {share.mean():.3f} ± {error:.3f}")
    assert abs(share.mean() - 0.5) < 4 * error
    # ln a has mean ln 4 and expected variance (ln 4/4)², without a run's mean.
    log = np.log(drawn["lognormal"])
    np.testing.assert_allclose(log.mean((1, 2)), math.log(4), rtol=1e-12)
    variance = log.var((1, 2))
    error = variance.std() / math.sqrt(800)
    print(f"variance of ln a {variance.mean():.4f} ± {error:.4f}, expected {(math.log(4) / 4) ** 2:.4f}")
    assert abs(variance.mean() - (math.log(4) / 4) ** 2) < 4 * error
    # Modes (1, 0) and (3, 2) by hand: (1/0.09 + λ)⁻², λ = π² and 13π².
    modes = basis.forward(torch.from_numpy(log)).numpy()
    one, other = (modes[:, 1, 0] ** 2).mean(), (modes[:, 3, 2] ** 2).mean()
    expected = ((1 / 0.09 + 13 * math.pi**2) / (1 / 0.09 + math.pi**2)) ** 2
    print(f"power ratio {one / other:.1f}, expected {expected:.1f}")
    # Each a mean of 800 squares of a normal number: relative error √(2/800), of the ratio √2 times that.
    assert one / other == pytest.approx(expected, rel=4 * math.sqrt(4 / 800))


@pytest.fixture(scope="module", params=["two_phase", "lognormal"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(
        tmp_path_factory.mktemp("darcy") / request.param, 3, progress=False,
        train_runs=5, valid_runs=2, test_runs=3, cells=24, medium=request.param, source=2.0,
    )  # fmt: skip


def test_files_hold_pairs_that_balance(folder: Path) -> None:
    data = load_fields(folder, split="train")
    assert data.values.shape == (5, 2, 24, 24) and data.values.dtype == np.float32
    assert data.names == ("permeability", "pressure") and data.units == ("m²/(Pa s)", "Pa")
    assert data.grid.boundary == ("dirichlet", "dirichlet") and data.grid.extent == pytest.approx((1.0, 1.0))
    with h5py.File(folder / "data" / "test" / "darcy.hdf5") as file:
        assert file.attrs["source"] == 2.0 and file.attrs["seed"] == 3 and file.attrs["medium"] == folder.name
    for a, p in data.values.astype(np.float64):
        _, rim = balance(a, p, (1 / 24, 1 / 24))
        # Stored in single precision: 6e-8 of pressures, 96 of them at random signs.
        assert rim == pytest.approx(2.0, rel=1e-6)


def test_settings_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown medium 'sand'; it is one of two_phase, lognormal"):
        make(tmp_path / "set", medium="sand")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"needs 0 < low < high, .* got 12.0, 3.0, 0.3 and 1.0"):
        make(tmp_path / "set", low=12.0, high=3.0)
    with pytest.raises(ValueError, match="cells must be at least 4; got 3"):
        make(tmp_path / "set", cells=3)
    with pytest.raises(ValueError, match=r"runs, frames and times must be positive; got .*'test': 0"):
        make(tmp_path / "set", test_runs=0)
    with pytest.raises(ValueError, match=r"permeabilities must be positive and finite; got -1.0 as the smallest"):
        darcy_pressure(np.array([1.0, -1.0, 2.0]), np.ones(3), (0.1,))
