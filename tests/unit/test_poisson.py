"""The Poisson and Helmholtz solver against closed forms, dense finite differences and statistics, and its data set."""

from __future__ import annotations

import math
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from datasets.poisson import make, solve, source_spectrum
from physdiff.basis import SpectralBasis
from physdiff.data import load_fields
from physdiff.grid import Grid


def closed_form(x: np.ndarray, boundary: str) -> tuple[np.ndarray, np.ndarray]:
    """g and g'' of a function of infinitely many modes of [0, 1].

    Between walls g = sin(πx) exp(cos πx), odd about both; periodic g = exp(sin 2πx).
    """
    if boundary == "dirichlet":
        s, c = np.sin(math.pi * x), np.cos(math.pi * x)
        # g' = π e^c (c − s²), g'' = π² e^c (−s − 3sc + s³).
        return s * np.exp(c), math.pi**2 * np.exp(c) * (-s - 3 * s * c + s**3)
    s, c = np.sin(2 * math.pi * x), np.cos(2 * math.pi * x)
    return np.exp(s), (2 * math.pi) ** 2 * np.exp(s) * (c**2 - s)


@pytest.mark.parametrize("boundary", ["dirichlet", "periodic"])
@pytest.mark.parametrize("wavenumber", [0.0, 4.0, 8.6])
def test_closed_forms_are_solved_to_rounding(boundary: str, wavenumber: float) -> None:
    """u = g(x) g(y) g(z), no eigenfunction: f from its own second derivatives."""
    basis = SpectralBasis(Grid((40, 48, 42), extent=1.0, boundary=boundary))
    (g, dd), (h, ee), (p, ff) = (closed_form(basis.grid.coordinate(axis), boundary) for axis in range(3))
    product = np.einsum("i,j,k->ijk", g, h, p)
    curvature = sum(np.einsum("i,j,k->ijk", *factors) for factors in ((dd, h, p), (g, ee, p), (g, h, ff)))
    found = solve(basis, torch.from_numpy(-curvature - wavenumber**2 * product), wavenumber).numpy()
    if boundary == "periodic" and wavenumber == 0:
        product -= product.mean()
    error = np.abs(found - product).max() / np.abs(product).max()
    print("relative error", error)
    assert error < 4e-15  # rounding: measured 1.2e-15, times 3


@pytest.mark.parametrize("boundary", ["dirichlet", "periodic"])
@pytest.mark.parametrize("wavenumber", [0.0, 4.0])
def test_dense_finite_differences_converge_to_it(boundary: str, wavenumber: float) -> None:
    """The source of a data set at ever finer spacings: the difference falls with the square of the spacing."""
    rng, errors = np.random.default_rng(4), []
    amplitude = rng.standard_normal((2, 4, 4))
    for cells in (16, 32, 48):
        basis = SpectralBasis(Grid((cells, cells), extent=1.0, boundary=boundary))
        x = basis.grid.coordinate(0)
        j = np.arange(1, 5)[:, None]
        if boundary == "dirichlet":
            a = b = np.sin(math.pi * j * x)
        else:
            a, b = np.sin(2 * math.pi * j * x), np.cos(2 * math.pi * j * x + 0.3)
        source = np.einsum("jk,jx,ky->xy", amplitude[0], a, b) + np.einsum("jk,jx,ky->xy", amplitude[1], b, b)
        second = 2 * np.eye(cells) - np.eye(cells, k=1) - np.eye(cells, k=-1)
        if boundary == "dirichlet":
            second[0, 0] = second[-1, -1] = 3  # the ghost cell behind the wall is −u
        else:
            second[0, -1] = second[-1, 0] = -1
        second = second * cells**2
        matrix = np.kron(second, np.eye(cells)) + np.kron(np.eye(cells), second) - wavenumber**2 * np.eye(cells**2)
        if boundary == "periodic" and wavenumber == 0:
            matrix += 1 / cells**2  # lifts the mean, which the equation leaves open
        dense = np.linalg.solve(matrix, source.ravel()).reshape(cells, cells)
        exact = solve(basis, torch.from_numpy(source), wavenumber).numpy()
        errors.append(np.abs(dense - exact).max() / np.abs(exact).max())
    slope = math.log(errors[1] / errors[2]) / math.log(48 / 32)
    print("errors", errors, "slope", slope)
    assert errors[-1] < 0.1 and abs(slope - 2) < 0.15


def test_a_constant_source_bends_a_line_into_a_parabola() -> None:
    """u = x(1 − x)/2, whose source does not vanish at the walls: the sines converge, with the square of the spacing."""
    errors = []
    for cells in (32, 64, 128):
        basis = SpectralBasis(Grid((cells,), extent=1.0, boundary="dirichlet"))
        x = basis.grid.coordinate(0)
        found = solve(basis, torch.ones(cells, dtype=torch.float64)).numpy()
        errors.append(np.abs(found - x * (1 - x) / 2).max())
    slopes = np.log2(np.array(errors[:-1]) / errors[1:])
    print("errors", errors, "slopes", slopes)
    assert errors[-1] < 2e-5 and np.abs(slopes - 2).max() < 0.15


@pytest.mark.parametrize("boundary", ["dirichlet", "periodic"])
def test_the_source_has_unit_variance_and_its_own_spectrum(boundary: str) -> None:
    basis = SpectralBasis(Grid((16, 16), extent=1.0, boundary=boundary))
    power = source_spectrum(basis, 0.1)
    assert power.mean().item() == pytest.approx(1, rel=1e-14)
    # Two modes by hand: with walls sin(πx)sin(πy) and sin(3πx)sin(2πy), periodic waves (1, 0) and (3, 2).
    unit = 2 * math.pi**2 if boundary == "dirichlet" else 4 * math.pi**2
    other = 13 * math.pi**2 if boundary == "dirichlet" else 13 * 4 * math.pi**2
    first, second = (power[0, 0], power[2, 1]) if boundary == "dirichlet" else (power[1, 0], power[3, 2])
    assert (first / second).item() == pytest.approx(((100 + other) / (100 + unit)) ** 2, rel=1e-12)
    if boundary == "periodic":
        assert power[0, 0] == 0 and power[8].abs().max() == 0 and power[:, 8].abs().max() == 0


@pytest.fixture(scope="module", params=["dirichlet", "periodic"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(
        tmp_path_factory.mktemp("poisson") / request.param, 3, progress=False,
        train_runs=200, valid_runs=2, test_runs=3, cells=24, boundary=request.param, wavenumber=7.5,
    )  # fmt: skip


def test_files_hold_pairs_that_solve_the_equation(folder: Path) -> None:
    data = load_fields(folder, split="train")
    assert data.values.shape == (200, 2, 24, 24) and data.values.dtype == np.float32
    assert dict(zip(data.names, data.units, strict=True)) == {"source": "V/m²", "solution": "V"}
    assert data.grid.boundary == (folder.name, folder.name) and data.grid.extent == pytest.approx((1.0, 1.0))
    with h5py.File(folder / "data" / "test" / "poisson.hdf5") as file:
        assert file.attrs["wavenumber"] == 7.5 and file.attrs["seed"] == 3
    # The residual by the matrix of second derivatives of the interpolating polynomial, column by column.
    basis = SpectralBasis(data.grid)
    source, solution = torch.from_numpy(data.select(("source", "solution")).values.astype(np.float64)).unbind(1)
    dense = basis.dense()
    operator = dense @ torch.diag(basis.laplacian.flatten() - 7.5**2) @ dense.T
    residual = solution.reshape(200, -1) @ operator.T - source.reshape(200, -1)
    print("residual", residual.abs().max())
    # The stored digits of u, times λ up to 1.1e4 1/m², of a source of order 1: measured 9.3e-5, times 3.
    assert residual.abs().max() < 2.8e-4
    # The variance of the stored source, over runs that are independent.
    energy = (source**2).mean((1, 2)).numpy()
    error = energy.std(ddof=1) / math.sqrt(200)
    print(f"variance {energy.mean():.4f} ± {error:.4f}")
    assert abs(energy.mean() - 1) < 4 * error


def test_settings_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown boundary 'neumann'; it is one of dirichlet, periodic"):
        make(tmp_path / "set", boundary="neumann")  # pyright: ignore[reportArgumentType]
    # √2 π is the lowest resonance of the clamped square, 2π of the periodic one.
    with pytest.raises(ValueError, match=r"wavenumber 4.4 is too near to the resonance at 4.44288; .* by 5%"):
        make(tmp_path / "set", wavenumber=4.4)
    with pytest.raises(ValueError, match=r"wavenumber 6.3 is too near to the resonance at 6.28319"):
        make(tmp_path / "set", wavenumber=6.3, boundary="periodic")
    with pytest.raises(ValueError, match="finite and not negative; got -1"):
        make(tmp_path / "set", wavenumber=-1.0)
    with pytest.raises(ValueError, match=r"at least 4 cells and a correlation length > 0; got 3 and 0.1"):
        make(tmp_path / "set", cells=3)
    with pytest.raises(ValueError, match=r"runs, frames and times must be positive; got .*'test': 0"):
        make(tmp_path / "set", test_runs=0)
