"""Gaussian random fields against a dense covariance in scipy and the closed form of Matérn's."""

from __future__ import annotations

import math
from functools import reduce
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from datasets.gaussian_random_field import law, make
from physdiff.data import load_fields
from physdiff.grid import Grid

LENGTH, SMOOTHNESS, DEVIATION = 0.3, 1.5, 0.7


def axis_functions(cells: int, extent: float, boundary: str) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal eigenfunctions of −d²/dx² at cell centres as columns, and their eigenvalues."""
    x = extent * (np.arange(cells) + 0.5) / cells
    if boundary == "periodic":
        waves = [(0, np.ones(cells))]
        for k in range(1, (cells - 1) // 2 + 1):
            waves += [(2 * k, np.cos(2 * math.pi * k * x / extent)), (2 * k, np.sin(2 * math.pi * k * x / extent))]
        if cells % 2 == 0:
            # Its cosine vanishes at all cell centres.
            waves.append((cells, np.sin(math.pi * cells * x / extent)))
    elif boundary == "neumann":
        waves = [(m, np.cos(math.pi * m * x / extent)) for m in range(cells)]
    else:
        waves = [(m, np.sin(math.pi * m * x / extent)) for m in range(1, cells + 1)]
    columns = np.stack([w / np.linalg.norm(w) for _, w in waves], 1)
    return columns, np.array([(math.pi * m / extent) ** 2 for m, _ in waves])


def covariance(cells: int, dimensions: int, boundary: str) -> np.ndarray:
    """Σ_modes S(k)/cell · φ φᵀ, with S whose integral over dk/(2π)^d is the variance."""
    columns, squares = axis_functions(cells, 1.0, boundary)
    functions = reduce(np.kron, [columns] * dimensions)
    k2 = reduce(lambda a, b: np.add.outer(a, b).ravel(), [squares] * dimensions)
    d, nu = dimensions, SMOOTHNESS
    scale = 2 * nu / LENGTH**2
    normalised = math.gamma(nu + d / 2) / math.gamma(nu) * (4 * math.pi) ** (d / 2) * scale**nu
    density = DEVIATION**2 * normalised * (scale + k2) ** -(nu + d / 2)
    return (functions * density * cells**d) @ functions.T


CASES = [
    (1, 9, "periodic"), (1, 8, "periodic"), (1, 7, "neumann"), (1, 7, "dirichlet"),
    (2, 5, "periodic"), (2, 4, "neumann"), (2, 4, "dirichlet"), (2, 6, "periodic"),
    (3, 3, "periodic"), (3, 3, "neumann"),
]  # fmt: skip


@pytest.mark.parametrize(("dimensions", "cells", "boundary"), CASES)
def test_stored_log_density_is_scipys(dimensions: int, cells: int, boundary: str, tmp_path: Path) -> None:
    make(
        tmp_path / "set", 1, progress=False, train_runs=6, valid_runs=1, test_runs=1, dimensions=dimensions,
        cells=cells, boundary=boundary, correlation_length=LENGTH, smoothness=SMOOTHNESS, standard_deviation=DEVIATION,
    )  # fmt: skip
    data = load_fields(tmp_path / "set", split="train")
    assert data.grid.boundary == (boundary,) * dimensions and data.values.shape == (6, 1, *[cells] * dimensions)
    dense = covariance(cells, dimensions, boundary)
    with h5py.File(tmp_path / "set/data/train/gaussian_random_field.hdf5") as file:
        stored = file["scalars/log_prob"][()]
        freedom = file.attrs["degrees_of_freedom"]
    assert freedom == np.linalg.matrix_rank(dense) == cells**dimensions
    exact = multivariate_normal(np.zeros(len(dense)), dense)
    expected = exact.logpdf(data.values.reshape(6, -1).astype(np.float64))
    np.testing.assert_allclose(stored, expected, rtol=1e-9, atol=1e-6)
    assert np.ptp(stored) > 0.5


@pytest.mark.parametrize("dimensions", [1, 2])
def test_covariance_is_materns_closed_form(dimensions: int) -> None:
    """ν = 3/2: C(r) = σ² (1 + √3 r/ℓ) e^{−√3 r/ℓ}, in a box of 16 ℓ."""
    cells = {1: 4096, 2: 512}[dimensions]
    grid = Grid((cells,) * dimensions, 16.0, "periodic")
    spectrum = law(grid, 1.0, 1.5, DEVIATION).spectrum[0].numpy()
    # A stationary law's covariance is the inverse transform of its variances.
    found = np.fft.ifftn(spectrum).real
    found = found if dimensions == 1 else found[0]
    r = np.minimum(np.arange(cells), cells - np.arange(cells)) * 16 / cells
    exact = DEVIATION**2 * (1 + math.sqrt(3) * r) * np.exp(-math.sqrt(3) * r)
    # Modes beyond the grid hold about (ℓ k)^{−3} of the variance, k = 800 and 100 / m; periodic images e^{−13}.
    np.testing.assert_allclose(found, exact, atol={1: 5e-5, 2: 1e-4}[dimensions])


def test_fields_follow_the_law(tmp_path: Path) -> None:
    """−2 log p is χ² but for a constant, and the variance of a point is σ² up to the modes that the grid lacks."""
    folder = make(
        tmp_path / "set", 0, progress=False, train_runs=1500, valid_runs=1, test_runs=1, cells=10,
        correlation_length=0.2, standard_deviation=2.0,
    )  # fmt: skip
    gaussian = law(Grid((10, 10), 1.0, "periodic", units="m"), 0.2, 1.5, 2.0)
    with h5py.File(folder / "data/train/gaussian_random_field.hdf5") as file:
        log_prob = file["scalars/log_prob"][()]
        n = int(file.attrs["degrees_of_freedom"])
    assert n == 100
    squares = -2 * log_prob - gaussian.log_det - n * math.log(2 * math.pi)
    error = math.sqrt(2 * n / 1500)
    print(f"mean square {squares.mean():.2f} ± {error:.2f}, expected {n}")
    assert squares.mean() == pytest.approx(n, abs=4 * error)
    assert squares.var() == pytest.approx(2 * n, rel=4 * math.sqrt((2 + 12 / n) / 1500))
    values = load_fields(folder, split="train").values[:, 0].astype(np.float64)
    per_field = (values**2).mean((1, 2))
    expected = float(gaussian.spectrum.mean())
    assert per_field.mean() == pytest.approx(expected, abs=4 * per_field.std() / math.sqrt(1500))
    assert 0.8 < expected / 4 < 1.05


def test_settings_out_of_range_are_refused(tmp_path: Path) -> None:
    for settings, message in (
        ({"dimensions": 4}, "1, 2 or 3 dimensions, at least one field a split and 2 cells; got 4"),
        ({"test_runs": 0}, "'test': 0"),
        ({"smoothness": 0.0}, "must be positive; got 0.15, 0.0 and 1.0"),
        ({"boundary": "open"}, "open"),
    ):
        with pytest.raises(ValueError, match=message):
            make(tmp_path / "set", **settings)
    assert list(tmp_path.iterdir()) == []
