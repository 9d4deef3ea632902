r"""The log-determinant of the covariance of observed cells, one number per law and mask: exact, or with an error bar.

With C = U diag(c) Uᵀ and Q = C⁻¹, log det C_OO = Σ log c + log det Q_MM, and one of the two is factorised where the
observed or the missing cells are few enough. Otherwise the second is an integral along the powers of Q,

    log det Q_MM = ∫₀¹ tr[(Q^s)_MM⁻¹ (Q^s log Q)_MM] ds = tr (log Q)_MM + ∫₀¹ tr[(Q^s)_MM⁻¹ (Q^s)_MO (log Q)_OM] ds,

by Q^s log Q = Q^s · log Q, split at the coast. The first trace is exact: a diagonal. The second lives at the coast
alone, so that its estimate by random signs (Hutchinson, 1990) has an error that grows with the coast's length and not
with the area; signs that stand on every k-th cell of each axis by turns leave out the largest products of neighbours
(Tang and Saad, 2012). The integrand is smooth in s: six nodes, and solutions to 1e-3 of a standard deviation, leave
less than 0.01 nats.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

from physdiff.basis import Basis, SpectralBasis
from physdiff.kriging_channel import factor, times
from physdiff.masked_solve import System
from physdiff.randomness import keyed_generator

FACTORED = 8192  # cells of a mask whose determinant is exact: a matrix of 0.5 GB, and 20 s of one core
TOLERANCE = 1e-4  # nats per observed cell, in log-densities: standard error at which rounds end
_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(6)
_COLOURS = 27  # places of the signs in a round, about
_ROUNDS = (6, 48)  # at least and at most; each is one draw of the whole estimate
_AIM = 1e-3  # standard deviations, of each solution
_KEPT = 256  # determinants that are remembered: fields of a mask come in many batches


@dataclass(frozen=True)
class Determinant:
    """A log-determinant.

    Attributes:
        value: Nats.
        standard_error: Of it; 0 where it is exact.
        rounds: Draws of the estimate that it is the mean of; 0 where it is exact.
    """

    value: float
    standard_error: float = 0.0
    rounds: int = 0


def log_det_of_observed(
    basis: Basis, spectrum: Tensor, observed: Tensor, *, factored: int = FACTORED, tolerance: float = TOLERANCE
) -> Determinant:
    """log det C_OO, remembered.

    Args:
        basis: Where the covariance is diagonal.
        spectrum: Variance per mode, positive, shape (*grid), float64.
        observed: Which cells, shape (*grid), bool.
        factored: Cells, observed or missing, up to which it is exact.
        tolerance: Nats per observed cell at which an estimate of ½ log det has errors small enough.
    """
    key = _key(basis, spectrum, observed, factored, tolerance)
    if key not in _found:
        _found[key] = _determinant(basis, spectrum, observed, factored, tolerance)
        while len(_found) > _KEPT:
            _found.popitem(last=False)
    _found.move_to_end(key)
    return _found[key]


_found: OrderedDict[bytes, Determinant] = OrderedDict()


def _key(basis: Basis, spectrum: Tensor, observed: Tensor, factored: int, tolerance: float) -> bytes:
    words = f"{type(basis).__name__} {basis.grid!r} {factored} {tolerance}".encode()
    return blake2b(words + spectrum.numpy().tobytes() + observed.numpy().tobytes(), digest_size=16).digest()


def _determinant(basis: Basis, spectrum: Tensor, observed: Tensor, factored: int, tolerance: float) -> Determinant:
    here, gone = int(observed.sum()), int((~observed).sum())
    if min(here, gone) <= factored:
        if gone <= here:
            of_missing = 2 * factor(basis, 1 / spectrum, ~observed).diagonal().log().sum()
            return Determinant(float(spectrum.log().sum() + of_missing))
        return Determinant(float(2 * factor(basis, spectrum, observed).diagonal().log().sum()))
    # In units in which the mean of log c is 0, powers are tame.
    centre = spectrum.log().mean()
    log_precision = centre - spectrum.log()
    exact = float(spectrum.log().sum() - gone * centre + diagonal(basis, log_precision)[~observed].sum())
    systems = [
        (weight, System(basis, torch.exp(s * log_precision), ~observed, _AIM))
        for s, weight in zip((_POINTS + 1) / 2, _WEIGHTS / 2, strict=True)
    ]
    generator, found, error = keyed_generator(0, "determinant"), [], math.inf
    while len(found) < _ROUNDS[1]:
        found.append(_at_coast(systems, log_precision, generator))
        error = float(np.std(found, ddof=1)) / math.sqrt(len(found)) if len(found) > 1 else math.inf
        if len(found) >= _ROUNDS[0] and 0.5 * error <= tolerance * here:
            break
    return Determinant(exact + float(np.mean(found)), error, len(found))


def _at_coast(systems: list[tuple[float, System]], log_precision: Tensor, generator: torch.Generator) -> float:
    """One draw of the integral."""
    basis, missing = systems[0][1].basis, systems[0][1].missing
    places = _places(missing.shape)
    signs = torch.randint(0, 2, missing.shape, generator=generator).double() * 2 - 1
    probes = torch.where(places & missing, signs, 0.0)
    crossing = torch.where(missing, 0.0, times(basis, log_precision, probes))
    total = 0.0
    for weight, system in systems:
        right = torch.where(missing, times(basis, system.precision, crossing), 0.0)
        total += float(weight) * float((system.solve(right) * probes).sum())
    return total


def _places(shape: torch.Size) -> Tensor:
    """Every k-th cell of each axis, by turns, shape (turns, *shape), bool."""
    stride = max(1, round(_COLOURS ** (1 / len(shape))))
    turn = torch.zeros(shape, dtype=torch.int64)
    count = 1
    for axis, n in enumerate(shape):
        k = min(stride, n)
        index = (torch.arange(n) % k).reshape(-1, *[1] * (len(shape) - 1 - axis))
        turn, count = turn * k + index, count * k
    return torch.stack([turn == number for number in range(count)])


def diagonal(basis: Basis, symbol: Tensor) -> Tensor:
    """Diagonal of U diag(symbol) Uᵀ, shape (*grid); the symbol is equal on {k, −k}."""
    if not isinstance(basis, SpectralBasis):
        raise ValueError(f"masks of so many cells are for regular grids; got {type(basis).__name__}.")
    grid = basis.grid
    found = symbol
    for axis, (n, length, boundary) in enumerate(zip(grid.shape, grid.extent, grid.boundary, strict=True)):
        # Squares of plane waves, k and −k together, are constant.
        square = torch.full((n, n), 1 / n, dtype=torch.float64)
        if boundary != "periodic":
            square = SpectralBasis(type(grid)((n,), (length,), (boundary,))).dense().square()
        found = torch.tensordot(square, found.movedim(axis, 0), dims=1).movedim(0, axis)
    return found
