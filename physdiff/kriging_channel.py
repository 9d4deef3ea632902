"""One channel of a Gaussian law given some of its cells: what all ways of conditioning share, and the two by a factor.

See `physdiff.kriging` for the formulas.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from physdiff.basis import Basis, SpectralBasis
from physdiff.cell_kernel import matrix_between
from physdiff.gaussian import GaussianField

_BLOCK = 256  # fields that are transformed together
_ROUNDING = 4  # times size and epsilon: what a pivot of a factor must exceed, beside its diagonal


class Channel(ABC):
    """One channel; `known` are fields of shape (n, *grid) with 0 in missing cells."""

    def __init__(self, law: GaussianField, channel: int, observed: Tensor) -> None:
        self.basis, self.observed = law.basis, observed
        self.spectrum = law.spectrum[channel]
        self.mode_mean = law.mean[channel]
        self.field_mean = law.basis.inverse(law.mean[channel])

    @abstractmethod
    def mean(self, known: Tensor) -> Tensor: ...

    @abstractmethod
    def draw(self, known: Tensor, noise: Tensor) -> Tensor: ...

    @abstractmethod
    def log_prob(self, known: Tensor) -> Tensor: ...

    @abstractmethod
    def mode_variance(self) -> Tensor: ...

    def determinant_error(self) -> float:
        """Standard error of the log-determinant, which all fields share; 0 where it is exact."""
        return 0.0

    def deviation(self, known: Tensor) -> Tensor:
        """x − μ, and 0 in missing cells."""
        return torch.where(self.observed, known - self.field_mean, 0.0)


class ByMissing(Channel):
    """Through the precision of the missing cells."""

    def __init__(self, law: GaussianField, channel: int, observed: Tensor) -> None:
        super().__init__(law, channel, observed)
        self.precision = 1 / self.spectrum
        self.cholesky = factor(self.basis, self.precision, ~observed)

    def mean(self, known: Tensor) -> Tensor:
        missing = ~self.observed
        pull = times(self.basis, self.precision, self.deviation(known))[:, missing]
        step = solved(self.cholesky, pull.T).T
        return self._filled(known, -step)

    def draw(self, known: Tensor, noise: Tensor) -> Tensor:
        spread = torch.linalg.solve_triangular(self.cholesky.T, noise[:, ~self.observed].T, upper=True).T
        found = self.mean(known)
        found[:, ~self.observed] += spread
        return found

    def log_prob(self, known: Tensor) -> Tensor:
        modes = self.basis.forward(self.mean(known)) - self.mode_mean
        whole = modes.square() / self.spectrum + self.spectrum.log()
        log_det = 2 * self.cholesky.diagonal().log().sum()
        return -0.5 * (whole.flatten(1).sum(1) + log_det + int(self.observed.sum()) * math.log(2 * math.pi))

    def mode_variance(self) -> Tensor:
        n = len(self.cholesky)
        columns = torch.linalg.solve_triangular(self.cholesky.T, torch.eye(n, dtype=torch.float64), upper=True)
        return power(self.basis, columns, ~self.observed)

    def _filled(self, known: Tensor, deviation: Tensor) -> Tensor:
        found = known.clone()
        found[:, ~self.observed] = self.field_mean[~self.observed] + deviation
        return found


class ByObserved(Channel):
    """Through the covariance of the observed cells."""

    def __init__(self, law: GaussianField, channel: int, observed: Tensor) -> None:
        super().__init__(law, channel, observed)
        self.cholesky = factor(self.basis, self.spectrum, observed)

    def mean(self, known: Tensor) -> Tensor:
        weights = solved(self.cholesky, self.deviation(known)[:, self.observed].T).T
        sources = torch.zeros_like(known)
        sources[:, self.observed] = weights
        return torch.where(self.observed, known, self.field_mean + times(self.basis, self.spectrum, sources))

    def draw(self, known: Tensor, noise: Tensor) -> Tensor:
        prior = self.field_mean + self.basis.inverse(self.spectrum.sqrt() * noise)
        drawn = prior + self.mean(known) - self.mean(torch.where(self.observed, prior, 0.0))
        return torch.where(self.observed, known, drawn)

    def log_prob(self, known: Tensor) -> Tensor:
        white = torch.linalg.solve_triangular(self.cholesky, self.deviation(known)[:, self.observed].T, upper=False)
        log_det = 2 * self.cholesky.diagonal().log().sum()
        return -0.5 * (white.square().sum(0) + log_det + len(self.cholesky) * math.log(2 * math.pi))

    def mode_variance(self) -> Tensor:
        n = len(self.cholesky)
        columns = torch.linalg.solve_triangular(self.cholesky.T, torch.eye(n, dtype=torch.float64), upper=True)
        # A difference of nearly equal numbers where the observed cells tell a mode: below rounding it is 0.
        return (self.spectrum - self.spectrum.square() * power(self.basis, columns, self.observed)).clamp(min=0.0)


def times(basis: Basis, symbol: Tensor, x: Tensor) -> Tensor:
    """U diag(symbol) Uᵀ x."""
    return basis.inverse(symbol * basis.forward(x))


def block(basis: Basis, symbol: Tensor, cells: Tensor) -> Tensor:
    """The matrix U diag(symbol) Uᵀ between some cells, shape (cells, cells)."""
    if isinstance(basis, SpectralBasis):
        return matrix_between(basis, symbol, cells)
    index = cells.flatten().nonzero().squeeze(1)
    matrix = torch.empty(len(index), len(index), dtype=torch.float64)
    for first in range(0, len(index), _BLOCK):
        some = index[first : first + _BLOCK]
        unit = torch.zeros(len(some), cells.numel(), dtype=torch.float64)
        unit[torch.arange(len(some)), some] = 1.0
        rows = times(basis, symbol, unit.reshape(-1, *cells.shape)).flatten(1)[:, index]
        matrix[first : first + _BLOCK] = rows
    return matrix


def factor(basis: Basis, symbol: Tensor, cells: Tensor) -> Tensor:
    """Lower Cholesky factor of that matrix.

    Raises:
        ValueError: rounding is all that is left of some pivot.
    """
    matrix = block(basis, symbol, cells)
    diagonal = matrix.diagonal().clone()
    lower, failed = torch.linalg.cholesky_ex(matrix)
    # Of a singular matrix rounding leaves pivots that are as often above 0 as below.
    rounding = _ROUNDING * len(matrix) * torch.finfo(torch.float64).eps * diagonal
    alive = symbol[symbol > 0]
    is_singular = len(matrix) > len(alive) or bool((lower.diagonal().square() <= rounding).any())
    if bool(failed) or is_singular:
        why = f"has a variance in {len(alive)} of {symbol.numel()} modes"
        if len(alive) == symbol.numel():
            why = f"spans {float(alive.max() / alive.min()):.1e}"
        raise ValueError(
            f"the law's spectrum {why}, too {'few' if 'modes' in why else 'much'} for the cells that are known to "
            "be told apart; give the data a noise level (data.noise_level)."
        )
    return lower


def solved(lower: Tensor, right: Tensor) -> Tensor:
    """(L Lᵀ)⁻¹ of columns; `torch.cholesky_solve` copies the factor each time, which takes longer than a column."""
    half = torch.linalg.solve_triangular(lower, right, upper=False)
    return torch.linalg.solve_triangular(lower.T, half, upper=True)


def power(basis: Basis, columns: Tensor, cells: Tensor) -> Tensor:
    """Σ_j (Uᵀ v_j)² over columns v_j that are 0 outside some cells, shape (*grid)."""
    index = cells.flatten().nonzero().squeeze(1)
    total = torch.zeros(cells.shape, dtype=torch.float64)
    for some in columns.split(_BLOCK, dim=1) if len(index) else ():
        fields = torch.zeros(some.shape[1], cells.numel(), dtype=torch.float64)
        fields[:, index] = some.T
        total += basis.forward(fields.reshape(-1, *cells.shape)).square().sum(0)
    return total
