r"""Laws of a refined grid: the physics of the resolved waves on more cells, and whether the noise is a function.

A mode's variance S is per cell: a point of the field has the variance mean(S) = Σ S/cells. Noise has a limit as a
random function if that converges as cells are halved (its covariance is trace-class); then what each halving adds
shrinks by a factor, 2^(d − 2α) for a spectrum λ^(−α). White noise adds 2^d times more each time; the stochastic heat
equation on a plane adds the same again and again, a logarithm.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from physdiff.basis import SpectralBasis
from physdiff.grid import Grid, replace_shape
from physdiff.laws.cases import ProcessCase, as_time, relative_error
from physdiff.laws.law import Measurement, law
from physdiff.process import LinearProcess

# Cells along an axis, by dimension, of the coarsest of three grids, each of half the cells' width of the one before.
COARSEST = {1: 64, 2: 16, 3: 6}
# Largest factor between what two halvings add at which a sum counts as convergent: 1 is a logarithm, which waves along
# the walls of a small box shift by a few percent.
CONVERGES = 0.93


def _spectral(case: ProcessCase) -> bool:
    return isinstance(case.process.basis, SpectralBasis)


def _up_to_three(case: ProcessCase) -> bool:
    return (
        case.is_default and _spectral(case) and 1 < case.process.basis.grid.size and case.process.basis.grid.ndim <= 3
    )


def _refined(process: LinearProcess, grid: Grid) -> LinearProcess | str:
    """The process on another grid, or why it cannot be put there."""
    try:
        return process.on(grid)
    except ValueError as error:  # a setting that was given for one grid
        return f"cannot be put on a finer grid: {error}"


@law("process", _spectral)
def refinement_is_as_declared(case: ProcessCase) -> Iterator[Measurement]:
    """On a refined grid the resolved waves keep gain and variance in physical units, exactly if `refines` says so.

    White noise of a stochastic PDE is divided by the cell volume: noise_spectrum needs `/ self.basis.grid.cell_volume`,
    and nothing may depend on the number of cells. If the noise is meant per cell, declare refines = False.
    """
    coarse = case.process
    fine = _refined(coarse, coarse.basis.grid.refined(2))
    if isinstance(fine, str):
        yield Measurement("change", 1.0, 0.0, beyond="note", reading=fine)
        return
    time = coarse.physical_time(as_time(0.5))
    axes = zip(coarse.basis.grid.shape, fine.basis.grid.shape, coarse.basis.grid.boundary, strict=True)
    here, there = [], []
    for n, m, boundary in axes:
        waves = torch.arange(-((n - 1) // 2), (n - 1) // 2 + 1) if boundary == "periodic" else torch.arange(n)
        here.append(waves % n)
        there.append(waves % m)
    low, same = torch.meshgrid(*here, indexing="ij"), torch.meshgrid(*there, indexing="ij")
    zero = as_time(0.0)

    def moments(process: LinearProcess, index: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        grid = process.basis.grid
        gain = process.log_gain(time, zero).exp().expand(grid.shape)[index]
        return gain, grid.cell_volume * process.variance(time, zero).expand(grid.shape)[index]

    (m, v), (m_fine, v_fine) = moments(coarse, tuple(low)), moments(fine, tuple(same))
    change = max(relative_error(m_fine, m), relative_error(v_fine, v))
    if type(coarse).refines:
        yield Measurement("relative change of the resolved waves", change, 1e-10)
    else:
        yield Measurement("refinement declared false; relative change", change, 1e-3, at_least=True)


@law("process", _up_to_three, lambda case: f"noise at a point, {case.process.basis.grid.ndim}-D", follows=True)
def noise_at_a_point(case: ProcessCase) -> Iterator[Measurement]:
    """The variance of the noise at a point, at t = 1, converges as the grid is refined: it is a random function.

    Nothing is wrong: on any one grid all is well defined. But noise without such a limit is not a function in this many
    dimensions: densities in nats per cell have no limit, and a model of one resolution has none at another.
    """
    process = case.process
    grid = process.basis.grid
    assert isinstance(grid, Grid)
    shapes = [tuple(COARSEST[grid.ndim] * 2**i for _ in grid.shape) for i in range(3)]
    variances, slowest = [], []
    for shape in shapes:
        fine = _refined(process, replace_shape(grid, shape))
        if isinstance(fine, str):
            yield Measurement("factor", 1.0, 0.0, beyond="note", reading=fine)
            return
        noise = fine.noise_variance(fine.physical_time(as_time(1.0))).expand(shape)
        variances.append(float(noise.mean()))
        slowest.append(float(noise.flatten()[0]) * fine.basis.grid.cell_volume)
    yield _verdict(variances, slowest, type(process).refines)


def _verdict(variances: list[float], slowest: list[float], refines: bool) -> Measurement:
    first, second = (b - a for a, b in pairwise(variances))
    if not refines or abs(slowest[-1] / slowest[0] - 1) > 1e-3:
        reading = "noise per cell, not per volume: other noise on every grid, not a random function"
        return Measurement("factor", 2.0, CONVERGES, beyond="note", reading=reading)
    if abs(second) <= 1e-9 * variances[-1]:
        return Measurement("factor", 0.0, CONVERGES, reading=f"a random function, of variance {variances[-1]:.3g}")
    factor = abs(second / first) if first else 2.0
    if factor <= CONVERGES:
        reading = f"a random function: a halving of the cells adds {factor:.2f} of what the last one added"
    else:
        growth = variances[-1] / variances[-2]
        bound = "a logarithm" if factor < 1 / CONVERGES else "without bound"
        reading = f"not a random function: variance ×{growth:.3g} by each halving of the cells, {bound}"
    return Measurement("factor", factor, CONVERGES, beyond="note", reading=reading)
