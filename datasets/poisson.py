r"""Pairs of a random source and the potential it makes: Poisson's equation, or Helmholtz's with a wavenumber.

    −Δu − k² u = f on [0, 1]² m,    u = 0 on the boundary, or periodic

k = 0 is Poisson's. The modes of the grid's Laplacian (sines between walls, waves where periodic) solve the equation one
by one, y_u = y_f/(λ − k²): what is stored is the solution for the source that is stored, to rounding. A k² near an
eigenvalue λ resonates, and is refused. A periodic Poisson problem has a solution only for a source of mean zero, and
then one for every mean of u; here both are zero.

The map is linear and f is Gaussian, so that (f, u) is jointly Gaussian with a known law: a model that is right can be
told from one that is nearly right.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from physdiff.basis import SpectralBasis
from physdiff.data.formats.the_well_writer import FieldSpec
from physdiff.grid import Grid

from .devices import device_of, runs_together
from .runs import runs_by_split
from .writing import run_generators, write_runs

NAME = "poisson"
SUMMARY = "Poisson or Helmholtz equation: pairs of source and solution, walls or periodic, 1280 on 64 x 64 cells"

Sides = Literal["dirichlet", "periodic"]

_LARGEST_WAVENUMBER = 1e15  # 1/m; k⁻² of a source is then as small as float32 holds it in full
_NEAREST = 0.05  # smallest distance of k² from an eigenvalue, of the eigenvalue


def helmholtz_symbol(basis: SpectralBasis, wavenumber: float) -> Tensor:
    """1/(λ − k²) of each mode, shape (*grid), float64; 0 for the mean of a periodic Poisson problem.

    Raises:
        ValueError: k² is within 5 % of an eigenvalue of the Laplacian.
    """
    if not 0 <= wavenumber < _LARGEST_WAVENUMBER:
        raise ValueError(
            f"the wavenumber must be finite and not negative; got {wavenumber}. It is below "
            f"{_LARGEST_WAVENUMBER:.0e} 1/m."
        )
    laplacian, square = basis.laplacian, wavenumber**2
    distance = (laplacian - square).abs()
    solvable = laplacian > 0 if square == 0 else torch.ones_like(laplacian, dtype=torch.bool)
    close = solvable & (distance < _NEAREST * laplacian)
    if close.any():
        resonance = math.sqrt(laplacian[close][distance[close].argmin()].item())
        raise ValueError(
            f"wavenumber {wavenumber} is too near to the resonance at {resonance:.6g}; its square must differ from "
            f"every resonance's by {_NEAREST:.0%}."
        )
    return torch.where(solvable, 1 / torch.where(solvable, laplacian - square, 1.0), 0.0)


def solve(basis: SpectralBasis, source: Tensor, wavenumber: float = 0.0) -> Tensor:
    """u with −Δu − k²u = f under the grid's boundaries, shape (..., *grid).

    Args:
        basis: Of the grid, in any number of dimensions.
        source: f at cell centres, shape (..., *grid), float64.
        wavenumber: k ≥ 0, away from resonances.
    """
    return basis.inverse(helmholtz_symbol(basis, wavenumber).to(source.device) * basis.forward(source))


def source_spectrum(basis: SpectralBasis, length: float) -> Tensor:
    """Power of each mode of the source, shape (*grid): (1/length² + λ)⁻², scaled to a mean variance of 1 of a cell.

    Without the mean and the modes at Nyquist of periodic axes, whose derivatives cells do not show.
    """
    power = (length**-2 + basis.laplacian) ** -2.0
    for axis, (cells, boundary) in enumerate(zip(basis.grid.shape, basis.grid.boundary, strict=True)):
        if boundary == "periodic" and cells % 2 == 0:
            power = power.index_fill(axis, torch.tensor([cells // 2]), 0.0)
    power = torch.where(basis.laplacian > 0, power, 0.0)
    return power / power.mean()


def make(
    folder: Path,
    seed: int = 0,
    progress: bool = True,
    *,
    train_runs: int = 1024,
    valid_runs: int = 128,
    test_runs: int = 128,
    cells: int = 64,
    boundary: Sides = "dirichlet",
    wavenumber: float = 0.0,
    correlation_length: float = 0.1,
    device: str = "auto",
    overwrite: bool = False,
) -> Path:
    """Solve the pairs and write `<folder>/data/{train,valid,test}/poisson.hdf5`.

    Args:
        folder: Data set folder to make.
        seed: The same seed gives the same numbers, pair by pair.
        progress: Whether a progress bar is shown.
        train_runs: Independent pairs to train on.
        valid_runs: Independent pairs to validate on.
        test_runs: Independent pairs to test on.
        cells: Along each axis, at least 4.
        boundary: "dirichlet" (zero on the walls) or "periodic".
        wavenumber: k of Helmholtz's equation, 1/m, away from resonances; 0 is Poisson's.
        correlation_length: Of the source, m.
        device: Where the pairs are solved: "cpu", "cuda", or "auto", the GPU where there is one.
        overwrite: Whether a data set in `folder` is replaced.

    Returns:
        The folder.

    Raises:
        ValueError: `folder` holds something, or a setting is out of range.
    """
    runs = runs_by_split(train_runs, valid_runs, test_runs, 1, 1.0, 1.0)
    if boundary not in get_args(Sides):
        raise ValueError(f"unknown boundary '{boundary}'; it is one of {', '.join(get_args(Sides))}.")
    if cells < 4 or not 1e-6 <= correlation_length <= 1e6:
        raise ValueError(
            f"needs at least 4 cells and a correlation length > 0; got {cells} and {correlation_length}, and lengths "
            "go from 1e-06 to 1e+06 m."
        )
    grid = Grid((cells, cells), extent=1.0, boundary=boundary, units="m")
    basis = SpectralBasis(grid)
    device = device_of(device)
    deviation = torch.sqrt(source_spectrum(basis, correlation_length)).to(device)
    symbol = helmholtz_symbol(basis, wavenumber).to(device)

    def simulate(split: int, first: int, last: int) -> dict[str, np.ndarray]:
        """Some pairs, each of shape (last − first, 1, cells, cells)."""
        pairs = []
        for generator in run_generators(seed, split, first, last):
            modes = deviation * torch.from_numpy(generator.standard_normal(grid.shape)).to(device)
            pairs.append(basis.inverse(torch.stack([modes, symbol * modes])).cpu())
        values = torch.stack(pairs).unsqueeze(2).numpy()
        return {"source": values[:, 0], "solution": values[:, 1]}

    return write_runs(
        folder,
        NAME,
        grid,
        {"source": FieldSpec(units="V/m²"), "solution": FieldSpec(units="V")},
        runs,
        np.zeros(1),
        simulate,
        at_once=runs_together(2 * cells**2, 64),
        seed=seed,
        parameters={"wavenumber": wavenumber},
        progress=progress,
        overwrite=overwrite,
    )
