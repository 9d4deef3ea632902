r"""Pairs of a random permeability and the pressure of the flow through it: Darcy's law on a square.

    −∇·(a ∇p) = f on [0, 1]² m,    p = 0 on the boundary

a is a Gaussian field ξ made positive: of two materials that meet where ξ = 0, or log-normal, exp(ξ s). The pressure is
a nonlinear functional of a, although linear in f.

Cell-centred finite volumes: the flow through a face between cells of permeability a₁ and a₂ is

    2/(1/a₁ + 1/a₂) · (p₁ − p₂)/spacing · area,

the harmonic mean of two resistances in series, exact where materials meet at the face; a wall is half a cell away. What
flows out of a cell is what its source puts in, to rounding. The sparse equations are solved directly, and on a GPU
by conjugate gradients, many together (`flow_by_gradients`).

Source: Patankar (1980), section 4.2-3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import splu
from torch import Tensor

from physdiff.basis import SpectralBasis
from physdiff.data.formats.the_well_writer import FieldSpec
from physdiff.grid import Grid

from .devices import Numbers, device_of, library_of, runs_together
from .flow_by_gradients import pressures
from .runs import runs_by_split
from .writing import run_generators, write_runs

NAME = "darcy"
SUMMARY = "Darcy flow: pairs of permeability and pressure, walls at zero pressure, 1280 on 64 x 64 cells"

Medium = Literal["two_phase", "lognormal"]

_LARGEST_CONTRAST = 1e8  # what an open cell loses through tight ones is a difference of numbers so much larger


def conductances(permeability: Numbers, spacing: Sequence[float]) -> list[Numbers]:
    """Flow through each face per unit of pressure drop and of cell volume, one array per axis.

    Args:
        permeability: a > 0 of each cell, shape (..., *grid).
        spacing: Cell width along each axis.

    Returns:
        Along each axis one more than there are cells: the first and the last are those of the walls.
    """
    found, library = [], library_of(permeability)
    for axis, width in enumerate(spacing):
        a = library.moveaxis(permeability, axis - len(spacing), 0)
        inside = 2 / (1 / a[1:] + 1 / a[:-1])
        faces = library.concatenate([2 * a[:1], inside, 2 * a[-1:]]) / width**2
        found.append(library.moveaxis(faces, 0, axis - len(spacing)))
    return found


def darcy_pressure(permeability: np.ndarray, source: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Pressure at cell centres, zero on the walls, in any number of dimensions.

    Args:
        permeability: a > 0 of each cell, shape (*grid).
        source: Mean of f over each cell, shape (*grid).
        spacing: Cell width along each axis.

    Raises:
        ValueError: a permeability is not positive and finite, or they differ by more than 1e8.
    """
    _check(permeability)
    cell = np.arange(permeability.size).reshape(permeability.shape)
    diagonal = np.zeros(permeability.shape)
    rows, columns, entries = [], [], []
    for axis, faces in enumerate(conductances(permeability, spacing)):
        faces, index = np.moveaxis(faces, axis, 0), np.moveaxis(cell, axis, 0)
        diagonal += np.moveaxis(faces[1:] + faces[:-1], 0, axis)
        lower, upper, between = index[:-1].ravel(), index[1:].ravel(), -faces[1:-1].ravel()
        rows += [lower, upper]
        columns += [upper, lower]
        entries += [between, between]
    position = (np.concatenate([*rows, cell.ravel()]), np.concatenate([*columns, cell.ravel()]))
    matrix = sparse.csc_array((np.concatenate([*entries, diagonal.ravel()]), position))
    # Symmetric and diagonally dominant: no pivots are needed, and this order fills in least.
    factors = splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    return factors.solve(source.ravel()).reshape(permeability.shape)


def darcy_pressures(permeability: Tensor, source: Tensor, grid: Grid) -> Tensor:
    """The same in many media at once, on a device, shape (n, *grid).

    Args:
        permeability: a > 0 of each cell, shape (n, *grid), float64.
        source: Mean of f over each cell, of a shape that broadcasts to it.
        grid: The box, with walls on every side.

    Raises:
        ValueError: a permeability is not positive and finite, or they differ too much to converge.
    """
    _check(permeability)
    return pressures(conductances(permeability, grid.spacing), source.expand(permeability.shape), grid)


def _check(permeability: np.ndarray | Tensor) -> None:
    """Raise unless all are positive, and alike enough for a pressure that rounding leaves."""
    if not (library_of(permeability).isfinite(permeability) & (permeability > 0)).all():
        raise ValueError(f"permeabilities must be positive and finite; got {permeability.min()} as the smallest.")
    contrast = float(permeability.max()) / float(permeability.min())
    if contrast > _LARGEST_CONTRAST:
        raise ValueError(
            f"permeabilities differ by a factor of {contrast:.3g}; rounding spoils the pressure above "
            f"{_LARGEST_CONTRAST:.0e}."
        )


def random_permeability(
    generator: np.random.Generator, basis: SpectralBasis, medium: Medium, low: float, high: float, length: float
) -> np.ndarray:
    """One random permeability, shape (*grid).

    ξ has insulated walls, no mean, and the spectrum (1/length² + λ)⁻², scaled to expected variance 1.
    "two_phase" is `high` where ξ > 0 and `low` elsewhere; "lognormal" has its median at √(low·high), and low and high
    are two standard deviations of its logarithm away.
    """
    power = (length**-2 + basis.laplacian) ** -2.0
    power = power.flatten().index_fill(0, torch.tensor([0]), 0.0).reshape(power.shape)
    white = torch.from_numpy(generator.standard_normal(basis.grid.shape))
    field = basis.inverse(torch.sqrt(power / power.mean()) * white).numpy()
    if medium == "two_phase":
        return np.where(field > 0, high, low)
    return math.sqrt(low * high) * np.exp(field * math.log(high / low) / 4)


def make(
    folder: Path,
    seed: int = 0,
    progress: bool = True,
    *,
    train_runs: int = 1024,
    valid_runs: int = 128,
    test_runs: int = 128,
    cells: int = 64,
    medium: Medium = "two_phase",
    low: float = 3.0,
    high: float = 12.0,
    correlation_length: float = 0.3,
    source: float = 1.0,
    device: str = "auto",
    overwrite: bool = False,
) -> Path:
    """Solve the pairs and write `<folder>/data/{train,valid,test}/darcy.hdf5`.

    Args:
        folder: Data set folder to make.
        seed: The same seed gives the same numbers, pair by pair.
        progress: Whether a progress bar is shown.
        train_runs: Independent pairs to train on.
        valid_runs: Independent pairs to validate on.
        test_runs: Independent pairs to test on.
        cells: Along each axis, at least 4.
        medium: "two_phase" or "lognormal".
        low: Permeability of the tighter material, m²/(Pa s).
        high: Permeability of the more open one, m²/(Pa s).
        correlation_length: Of the Gaussian field behind the permeability, m.
        source: f, 1/s, the same everywhere.
        device: Where the pressures are found: "cpu", "cuda", or "auto", the GPU where there is one.
        overwrite: Whether a data set in `folder` is replaced.

    Returns:
        The folder.

    Raises:
        ValueError: `folder` holds something, or a setting is out of range.
    """
    runs = runs_by_split(train_runs, valid_runs, test_runs, 1, 1.0, 1.0)
    if medium not in get_args(Medium):
        raise ValueError(f"unknown medium '{medium}'; it is one of {', '.join(get_args(Medium))}.")
    if not 0 < low < high < math.inf or not 1e-6 <= correlation_length <= 1e6 or not math.isfinite(source):
        raise ValueError(
            "needs 0 < low < high, a correlation length from 1e-06 to 1e+06 m and a finite source; "
            f"got {low}, {high}, {correlation_length} and {source}."
        )
    if cells < 4:
        raise ValueError(f"cells must be at least 4; got {cells}.")
    grid = Grid((cells, cells), extent=1.0, boundary="dirichlet", units="m")
    basis = SpectralBasis(Grid((cells, cells), extent=1.0, boundary="neumann"))
    device, everywhere = device_of(device), np.full(grid.shape, source)

    def simulate(split: int, first: int, last: int) -> dict[str, np.ndarray]:
        """Some pairs, each of shape (last − first, 1, cells, cells)."""
        permeability = np.stack(
            [
                random_permeability(generator, basis, medium, low, high, correlation_length)
                for generator in run_generators(seed, split, first, last)
            ]
        )
        if device == "cpu":
            pressure = np.stack([darcy_pressure(a, everywhere, grid.spacing) for a in permeability])
        else:
            a, f = (torch.from_numpy(values).to(device) for values in (permeability, everywhere))
            pressure = darcy_pressures(a, f, grid).cpu().numpy()
        return {"permeability": permeability[:, None], "pressure": pressure[:, None]}

    return write_runs(
        folder,
        NAME,
        grid,
        {"permeability": FieldSpec(units="m²/(Pa s)"), "pressure": FieldSpec(units="Pa")},
        runs,
        np.zeros(1),
        simulate,
        at_once=32 if device == "cpu" else runs_together(2 * cells**2, 1024),
        seed=seed,
        parameters={"source": source},
        attrs={"medium": medium},
        progress=progress,
        overwrite=overwrite,
    )
