r"""Gaussian random fields of a Matérn spectrum, with the exact log-density of every field.

    x ~ N(0, C),    spectral density ∝ (2ν/ℓ² + |k|²)^{−(ν + d/2)}

in one, two or three dimensions, periodic or between walls. The law is diagonal in the Laplacian's basis, so a field's
log-density is a sum over modes; it is stored with the field, and a model trained on the fields can be held against it,
field by field. ℓ is the correlation length and ν the smoothness: draws have derivatives of order below ν.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch

from physdiff.basis import SpectralBasis
from physdiff.data.fields import SPLITS
from physdiff.data.formats.the_well_writer import FieldSpec
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid

from .devices import device_of, runs_together
from .writing import run_generators, write_runs

NAME = "gaussian_random_field"
SUMMARY = "Gaussian random fields, Matérn, with their exact log-density: 2-D, periodic, 4608 fields on 32 x 32 cells"

_DIMENSIONS = (1, 2, 3)


def law(grid: Grid, correlation_length: float, smoothness: float, standard_deviation: float) -> GaussianField:
    """The law of the fields on a grid."""
    return GaussianField.matern(SpectralBasis(grid), correlation_length, smoothness, standard_deviation)


def make(
    folder: Path,
    seed: int = 0,
    progress: bool = True,
    *,
    train_runs: int = 4096,
    valid_runs: int = 256,
    test_runs: int = 256,
    dimensions: int = 2,
    cells: int = 32,
    extent: float = 1.0,
    boundary: str = "periodic",
    correlation_length: float = 0.15,
    smoothness: float = 1.5,
    standard_deviation: float = 1.0,
    device: str = "auto",
    overwrite: bool = False,
) -> Path:
    """Draw the fields and write `<folder>/data/{train,valid,test}/gaussian_random_field.hdf5`.

    Args:
        folder: Data set folder to make.
        seed: The same seed gives the same numbers, field by field.
        progress: Whether a progress bar is shown.
        train_runs: Independent fields to train on.
        valid_runs: Independent fields to validate on.
        test_runs: Independent fields to test on.
        dimensions: 1, 2 or 3.
        cells: Along each axis, at least 2.
        extent: Length of each side, m.
        boundary: "periodic", "neumann" (zero slope at the walls) or "dirichlet" (zero at the walls).
        correlation_length: ℓ, m.
        smoothness: ν.
        standard_deviation: Of a point of the field in an unbounded domain; dimensionless.
        device: Where the fields are made and measured: "cpu", "cuda", or "auto", the GPU where there is one.
        overwrite: Whether a data set in `folder` is replaced.

    Returns:
        The folder.

    Raises:
        ValueError: `folder` holds something, or a setting is out of range.
    """
    runs: dict[str, int] = dict(zip(SPLITS, (train_runs, valid_runs, test_runs), strict=True))
    if dimensions not in _DIMENSIONS or min(*runs.values(), cells - 1) < 1:
        raise ValueError(
            f"needs 1, 2 or 3 dimensions, at least one field a split and 2 cells; got {dimensions}, {runs} and {cells}."
        )
    if not all(0 < x < math.inf for x in (correlation_length, smoothness, standard_deviation)):
        raise ValueError(
            f"correlation_length, smoothness and standard_deviation must be positive; got {correlation_length}, "
            f"{smoothness} and {standard_deviation}."
        )
    if not 1e-6 * extent <= correlation_length <= 1e6 * extent or not 1e-30 <= standard_deviation <= 1e30:
        raise ValueError(
            f"a correlation length of {correlation_length} m on {extent} m, or a standard deviation of "
            f"{standard_deviation}, is out of range: lengths go from 1e-6 to 1e6 times the extent, and float32 holds "
            "deviations from 1e-30 to 1e+30."
        )
    grid = Grid((cells,) * dimensions, extent, boundary, units="m")
    device = device_of(device)
    gaussian = law(grid, correlation_length, smoothness, standard_deviation)

    def one(generator: np.random.Generator) -> tuple[np.ndarray, float]:
        """One field as it is stored, shape (1, *grid), and the log-density of just these numbers."""
        source = torch.Generator().manual_seed(int(generator.integers(2**63)))
        field = gaussian.sample(1, source, device).float()
        return field[0].cpu().numpy(), float(gaussian.log_prob(field))

    def simulate(split: int, first: int, last: int) -> dict[str, np.ndarray]:
        fields, log_prob = zip(*map(one, run_generators(seed, split, first, last)), strict=True)
        return {"field": np.stack(fields), "log_prob": np.array(log_prob)}

    return write_runs(
        folder, NAME, grid, {"field": FieldSpec()}, runs, np.zeros(1), simulate,
        at_once=runs_together(grid.size, 256), seed=seed,
        parameters={
            "correlation_length": correlation_length, "smoothness": smoothness,
            "standard_deviation": standard_deviation,
        },
        per_run=("log_prob",), attrs={"degrees_of_freedom": gaussian.n_support}, progress=progress, overwrite=overwrite,
    )  # fmt: skip
