"""Spectra and one-point statistics: nothing lost, everything in its shell, error bars that mean what they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from physdiff.basis import IdentityBasis, SpectralBasis
from physdiff.evaluation.onepoint import common_edges, one_point
from physdiff.evaluation.spectrum import energy_spectrum
from physdiff.grid import Grid

GRIDS = [
    Grid(16, 3.0),
    Grid(15, 2.0, "neumann"),
    Grid(1, 1.0, "dirichlet"),
    Grid((12, 9), (2.0, 5.0), ("periodic", "dirichlet")),
    Grid((7, 8), 1.0, "neumann"),
    Grid((4, 5, 6), (1.0, 2.0, 3.0), ("dirichlet", "periodic", "neumann")),
]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("bins", [None, 5, "edges"])
@pytest.mark.parametrize("grid", GRIDS, ids=Grid.describe)
def test_shells_add_up_to_the_mean_square(grid: Grid, bins: int | str | None) -> None:
    basis = SpectralBasis(grid)
    top = 1.01 * float(basis.laplacian.max().sqrt())
    shells = [0.0, 0.1 * top, 0.5 * top, top + 1.0] if bins == "edges" else bins
    x = 3 + draw(4, 2, *grid.shape).cumsum(-1)
    spectrum = energy_spectrum(x, basis, shells)  # pyright: ignore[reportArgumentType]
    deviation = (x - x.mean(0)).square().flatten(2).mean(2)
    # Measured 9e-16 relative; rounding of an orthonormal transform.
    torch.testing.assert_close((spectrum.density * spectrum.width).sum(-1), deviation, rtol=3e-15, atol=0)
    assert int(spectrum.modes.sum()) == grid.size
    assert bool((spectrum.modes > 0).all())


@pytest.mark.parametrize(
    ("boundary", "wave", "k", "share"),
    [
        ("periodic", lambda x: np.cos(2 * np.pi * 3 * x / 5 + 0.4), 2 * np.pi * 3 / 5, 0.5),
        ("neumann", lambda x: np.cos(np.pi * 3 * x / 5), np.pi * 3 / 5, 0.5),
        ("dirichlet", lambda x: np.sin(np.pi * 3 * x / 5), np.pi * 3 / 5, 0.5),
    ],
)
@pytest.mark.parametrize("cells", [16, 21])
def test_one_wave_is_in_one_shell(boundary: str, wave, k: float, share: float, cells: int) -> None:
    grid = Grid(cells, 5.0, boundary)
    amplitude = 1.7
    x = torch.as_tensor(amplitude * wave(grid.coordinate(0)))[None, None]
    spectrum = energy_spectrum(x, SpectralBasis(grid))
    shell = int(spectrum.density[0, 0].argmax())
    assert float(spectrum.wavenumber[shell]) == pytest.approx(k, rel=1e-12)
    energy = spectrum.density[0, 0] * spectrum.width
    assert float(energy[shell]) == pytest.approx(share * amplitude**2, rel=1e-12)
    assert float(energy.sum() - energy[shell]) < 1e-28 * grid.size


def test_an_oblique_wave_counts_at_its_modulus() -> None:
    grid = Grid((24, 20), (2.0, 3.0))
    kx, ky = 2 * math.pi * 4 / 2.0, -2 * math.pi * 3 / 3.0
    x, y = np.meshgrid(grid.coordinate(0), grid.coordinate(1), indexing="ij")
    fields = torch.as_tensor(np.sin(kx * x + ky * y))[None, None]
    edges = [0.0, math.hypot(kx, ky) - 1e-6, math.hypot(kx, ky) + 1e-6, 100.0]
    energy = energy_spectrum(fields, SpectralBasis(grid), edges)
    assert (energy.density * energy.width)[0, 0].tolist() == pytest.approx([0, 0.5, 0], abs=1e-14)


@pytest.mark.parametrize("boundary", ["periodic", "neumann", ("dirichlet", "periodic")])
def test_refining_the_grid_leaves_the_density_alone(boundary: str | tuple[str, str]) -> None:
    coarse = SpectralBasis(Grid((12, 10), (2.0, 3.0), boundary))
    modes = torch.zeros(1, 1, 12, 10, dtype=torch.float64)
    modes[..., :4, :4] = draw(1, 1, 4, 4)
    fine = SpectralBasis(coarse.grid.refined(2))
    padded = torch.zeros(1, 1, 24, 20, dtype=torch.float64)
    padded[..., :4, :4] = 2 * modes[..., :4, :4]  # four times as many cells: a mode's norm is twice as large
    a = energy_spectrum(coarse.inverse(modes), coarse)
    b = energy_spectrum(fine.inverse(padded), fine)
    low = slice(0, 3)  # shells that the coarse grid holds whole
    torch.testing.assert_close(a.wavenumber[low], b.wavenumber[low])
    torch.testing.assert_close(a.density[..., low], b.density[..., low])


@pytest.mark.parametrize("grid", [GRIDS[0], GRIDS[3], GRIDS[5]], ids=Grid.describe)
def test_white_noise_is_flat_per_mode(grid: Grid) -> None:
    n, sigma = 400, 1.5
    spectrum = energy_spectrum(sigma * draw(n, 1, *grid.shape, seed=3), SpectralBasis(grid), mean=np.zeros(1))
    # Each shell's sum over σ² is chi-square exactly; two-sided, family-wise level 1e-3 over the shells.
    total = (spectrum.per_mode[:, 0].sum(0) * spectrum.modes / sigma**2).numpy()
    degrees = n * spectrum.modes.numpy()
    level = 1e-3 / len(degrees)
    tail = 2 * np.minimum(stats.chi2.cdf(total, degrees), stats.chi2.sf(total, degrees))
    assert (tail > level).all(), (tail.min(), level)


def test_the_error_bar_is_that_of_the_mean() -> None:
    grid = Grid(8)
    repeats = [energy_spectrum(draw(50, 1, 8, seed=s), SpectralBasis(grid), mean=np.zeros(1)) for s in range(300)]
    means = torch.stack([r.mean[0] for r in repeats])
    claimed = torch.stack([r.standard_error[0] for r in repeats]).square().mean(0).sqrt()
    # The spread of 300 means has a relative standard error of 1/√600; 4 of them.
    assert float((means.std(0) / claimed - 1).abs().max()) < 4 / math.sqrt(600)
    low, high = repeats[0].band(0.8)
    inside = ((repeats[0].density >= low) & (repeats[0].density <= high)).double().mean(0)
    assert inside[0].tolist() == pytest.approx([0.8] * inside.shape[1], abs=0.021)


def test_a_single_field_has_no_error_bar_and_is_taken_as_it_is() -> None:
    spectrum = energy_spectrum(np.ones((1, 1, 6), dtype=np.float32), SpectralBasis(Grid(6)))
    assert float((spectrum.density * spectrum.width).sum()) == pytest.approx(1.0)
    assert bool(spectrum.standard_error.isnan().all())


@pytest.mark.parametrize(
    ("fields", "bins", "message"),
    [
        (torch.zeros(2, 1, 7), None, "fields must have the shape"),
        (torch.zeros(0, 1, 8), None, "n ≥ 1"),
        (torch.full((2, 1, 8), math.nan), None, "not finite"),
        (torch.zeros(2, 1, 8), 0, "at least 1 shell"),
        (torch.zeros(2, 1, 8), [0.0, 1.0], "leave modes out"),
        (torch.zeros(2, 1, 8), [1.0, 0.0], "increasing"),
    ],
)
def test_what_has_no_spectrum_is_refused(fields: torch.Tensor, bins, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        energy_spectrum(fields, SpectralBasis(Grid(8)), bins)


def test_cells_have_no_wavenumber() -> None:
    with pytest.raises(ValueError, match="needs SpectralBasis"):
        energy_spectrum(torch.zeros(2, 1, 8), IdentityBasis(Grid(8)))


def test_one_point_moments_agree_with_scipy() -> None:
    x = np.random.default_rng(0).gamma(2.0, 1.5, (30, 9, 7))
    found = one_point(x, common_edges(x, bins=20))
    assert found.skewness == pytest.approx(stats.skew(x.ravel()), rel=1e-10)
    assert found.kurtosis == pytest.approx(stats.kurtosis(x.ravel(), fisher=False), rel=1e-10)
    assert found.mean == pytest.approx(x.mean())
    assert (found.density * np.diff(found.edges)).sum() == pytest.approx(1.0)


def test_one_point_errors_are_those_of_the_statistic() -> None:
    # Cells of a field share half of their variance, so that an error bar from independent cells would be too small.
    generator = np.random.default_rng(1)
    x = generator.standard_normal((400, 50, 1)) + generator.standard_normal((400, 50, 20))
    found = [one_point(batch, np.linspace(-9, 9, 3)) for batch in x]
    for name in ("skewness", "kurtosis"):
        spread = np.std([getattr(f, name) for f in found], ddof=1)
        claimed = np.sqrt(np.mean([getattr(f, name + "_error") ** 2 for f in found]))
        # 1/√800 for the spread; the jackknife's own bias at 50 fields measured below 6 %.
        assert claimed / spread == pytest.approx(1.0, abs=4 / math.sqrt(800) + 0.06)


def test_common_edges_hold_every_value() -> None:
    a, b = np.array([-1.0, 2.0]), np.array([0.0, 5.0])
    edges = common_edges(a, b, bins=4)
    assert (edges[0], edges[-1], len(edges)) == (-1.0, 5.0, 5)


@pytest.mark.parametrize("value", [1.0, math.nan])
def test_values_without_a_distribution_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="finite values that differ"):
        one_point(np.full((2, 3), value), np.linspace(0, 1, 3))
