r"""Gaussian fields given some of their cells, exactly: means, draws and densities (kriging).

With x ~ N(μ, C), C = U diag(c) Uᵀ, cells O observed and M missing,

    x_M | x_O ~ N(μ_M + C_MO C_OO⁻¹ (x_O − μ_O),  Q_MM⁻¹)  = N(μ_M − Q_MM⁻¹ Q_MO (x_O − μ_O),  Q_MM⁻¹),    Q = C⁻¹.

The two forms ask for a matrix of the observed or of the missing cells; the smaller is factorised. Q needs a variance in
every mode. Beyond `DENSE_LIMIT` cells nothing is factorised: means come by preconditioned conjugate gradients and draws
by Matheron's rule from them, x* + E[x − x* | x_O], and densities are refused.

Source: Rasmussen and Williams (2006), appendix A.2; Hoffman and Ribak (1991) for draws.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from physdiff.gaussian import GaussianField

DENSE_LIMIT = 4096  # cells; the factor then takes 134 MB and a second or two
_BLOCK = 256  # fields that are transformed together
_TOLERANCE = 1e-10  # relative residual of the conjugate gradients
_ROUNDING = 4  # times size and epsilon: what a pivot of a factor must exceed, beside its diagonal


class Kriging:
    """A Gaussian law given some cells; channels are independent under it.

    Args:
        law: The law of whole fields.
        observed: Which cells are known, shape (channels, *grid), bool.

    Raises:
        ValueError: shapes do not fit, a channel has no observed cell, or known cells determine each other so that
            rounding is all that is left of their covariance.
    """

    def __init__(self, law: GaussianField, observed: Tensor) -> None:
        if observed.shape != law.spectrum.shape or observed.dtype != torch.bool:
            raise ValueError(
                f"the observed cells have the shape {tuple(law.spectrum.shape)}, bool; got {tuple(observed.shape)}, "
                f"{observed.dtype}."
            )
        self.law, self.observed = law, observed
        self._channels = [_channel(law, c, mask) for c, mask in enumerate(observed)]
        self.n_observed = int(observed.sum())

    def mean(self, x: Tensor) -> Tensor:
        """Fields with the expected value in every missing cell, shape (n, channels, *grid), float64.

        Args:
            x: Fields, shape (n, channels, *grid); what stands in missing cells is not looked at.
        """
        known = self._known(x)
        return torch.stack([part.mean(known[:, c]) for c, part in enumerate(self._channels)], 1)

    def draw(self, x: Tensor, noise: Tensor) -> Tensor:
        """Fields with a draw in the missing cells.

        Args:
            x: As for `mean`.
            noise: Independent unit normal numbers, shape as x.
        """
        known, noise = self._known(x), noise.to(torch.float64)
        return torch.stack([part.draw(known[:, c], noise[:, c]) for c, part in enumerate(self._channels)], 1)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of the observed cells in nats, shape (n,).

        Raises:
            ValueError: more than `DENSE_LIMIT` cells are observed and as many are missing (C).
        """
        known = self._known(x)
        return torch.stack([part.log_prob(known[:, c]) for c, part in enumerate(self._channels)]).sum(0)

    def mode_variance(self) -> Tensor:
        """Variance that is left in each mode, diag Uᵀ Cov[x | x_O] U, shape (channels, *grid), float64."""
        return torch.stack([part.mode_variance() for part in self._channels])

    def _known(self, x: Tensor) -> Tensor:
        x = x.to(torch.float64)
        known = torch.where(self.observed, x, 0.0)
        if not bool(torch.isfinite(known).all()):
            raise ValueError("an observed cell holds a value that is not finite.")
        return known


class _Channel(ABC):
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

    def deviation(self, known: Tensor) -> Tensor:
        """x − μ, and 0 in missing cells."""
        return torch.where(self.observed, known - self.field_mean, 0.0)

    def times(self, symbol: Tensor, x: Tensor) -> Tensor:
        """U diag(symbol) Uᵀ x."""
        return self.basis.inverse(symbol * self.basis.forward(x))

    def matheron(self, known: Tensor, noise: Tensor) -> Tensor:
        """A draw by Matheron's rule, with unit noise in modes."""
        prior = self.field_mean + self.basis.inverse(self.spectrum.sqrt() * noise)
        return prior + self.mean(known) - self.mean(torch.where(self.observed, prior, 0.0))

    def block(self, symbol: Tensor, cells: Tensor) -> Tensor:
        """The matrix U diag(symbol) Uᵀ between some cells."""
        index = cells.flatten().nonzero().squeeze(1)
        rows: list[Tensor] = []
        for some in index.split(_BLOCK) if len(index) else ():
            unit = torch.zeros(len(some), cells.numel(), dtype=torch.float64)
            unit[torch.arange(len(some)), some] = 1.0
            rows.append(self.times(symbol, unit.reshape(-1, *cells.shape)).flatten(1)[:, index])
        matrix = torch.cat(rows) if rows else torch.zeros(0, 0, dtype=torch.float64)
        return 0.5 * (matrix + matrix.T)

    def factor(self, symbol: Tensor, cells: Tensor) -> Tensor:
        """Lower Cholesky factor of that matrix."""
        matrix = self.block(symbol, cells)
        factor, failed = torch.linalg.cholesky_ex(matrix)
        # Of a singular matrix rounding leaves pivots that are as often above 0 as below.
        rounding = _ROUNDING * len(matrix) * torch.finfo(torch.float64).eps * matrix.diagonal()
        alive = symbol[symbol > 0]
        is_singular = len(matrix) > len(alive) or bool((factor.diagonal().square() <= rounding).any())
        if bool(failed) or is_singular:
            why = f"has a variance in {len(alive)} of {symbol.numel()} modes"
            if len(alive) == symbol.numel():
                why = f"spans {float(alive.max() / alive.min()):.1e}"
            raise ValueError(
                f"the law's spectrum {why}, too {'few' if 'modes' in why else 'much'} for the cells that are known to "
                "be told apart; give the data a noise level (data.noise_level)."
            )
        return factor

    def power(self, columns: Tensor, cells: Tensor) -> Tensor:
        """Σ_j (Uᵀ v_j)² over columns v_j that are 0 outside some cells, shape (*grid)."""
        index = cells.flatten().nonzero().squeeze(1)
        total = torch.zeros(cells.shape, dtype=torch.float64)
        for some in columns.split(_BLOCK, dim=1) if len(index) else ():
            fields = torch.zeros(some.shape[1], cells.numel(), dtype=torch.float64)
            fields[:, index] = some.T
            total += self.basis.forward(fields.reshape(-1, *cells.shape)).square().sum(0)
        return total


class _ByMissing(_Channel):
    """Through the precision of the missing cells."""

    def __init__(self, law: GaussianField, channel: int, observed: Tensor) -> None:
        super().__init__(law, channel, observed)
        self.precision = 1 / self.spectrum
        self.cholesky = self.factor(self.precision, ~observed)

    def mean(self, known: Tensor) -> Tensor:
        missing = ~self.observed
        pull = self.times(self.precision, self.deviation(known))[:, missing]
        step = torch.cholesky_solve(pull.T, self.cholesky).T
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
        return self.power(columns, ~self.observed)

    def _filled(self, known: Tensor, deviation: Tensor) -> Tensor:
        found = known.clone()
        found[:, ~self.observed] = self.field_mean[~self.observed] + deviation
        return found


class _ByObserved(_Channel):
    """Through the covariance of the observed cells."""

    def __init__(self, law: GaussianField, channel: int, observed: Tensor) -> None:
        super().__init__(law, channel, observed)
        self.cholesky = self.factor(self.spectrum, observed)

    def mean(self, known: Tensor) -> Tensor:
        weights = torch.cholesky_solve(self.deviation(known)[:, self.observed].T, self.cholesky).T
        sources = torch.zeros_like(known)
        sources[:, self.observed] = weights
        return torch.where(self.observed, known, self.field_mean + self.times(self.spectrum, sources))

    def draw(self, known: Tensor, noise: Tensor) -> Tensor:
        return torch.where(self.observed, known, self.matheron(known, noise))

    def log_prob(self, known: Tensor) -> Tensor:
        white = torch.linalg.solve_triangular(self.cholesky, self.deviation(known)[:, self.observed].T, upper=False)
        log_det = 2 * self.cholesky.diagonal().log().sum()
        return -0.5 * (white.square().sum(0) + log_det + len(self.cholesky) * math.log(2 * math.pi))

    def mode_variance(self) -> Tensor:
        n = len(self.cholesky)
        columns = torch.linalg.solve_triangular(self.cholesky.T, torch.eye(n, dtype=torch.float64), upper=True)
        # A difference of nearly equal numbers where the observed cells tell a mode: below rounding it is 0.
        return (self.spectrum - self.spectrum.square() * self.power(columns, self.observed)).clamp(min=0.0)


class _Iterative(_Channel):
    """By conjugate gradients on the precision of the missing cells, preconditioned by their covariance."""

    def __init__(self, law: GaussianField, channel: int, observed: Tensor) -> None:
        super().__init__(law, channel, observed)
        self.precision = 1 / self.spectrum

    def mean(self, known: Tensor) -> Tensor:
        pull = self._missing(self.times(self.precision, self.deviation(known)))
        return torch.where(self.observed, known, self.field_mean - self._solve(pull))

    def draw(self, known: Tensor, noise: Tensor) -> Tensor:
        return torch.where(self.observed, known, self.matheron(known, noise))

    def log_prob(self, known: Tensor) -> Tensor:
        raise ValueError(self._refusal("their log-density"))

    def mode_variance(self) -> Tensor:
        raise ValueError(self._refusal("their variance"))

    def _refusal(self, what: str) -> str:
        observed = int(self.observed.sum())
        return (
            f"{observed} cells are observed and {self.observed.numel() - observed} missing; {what} needs at most "
            f"{DENSE_LIMIT} of either. Crop or coarsen the fields."
        )

    def _missing(self, x: Tensor) -> Tensor:
        return torch.where(self.observed, 0.0, x)

    def _solve(self, right: Tensor) -> Tensor:
        """Q_MM⁻¹ of each field, all iterated together."""

        def dot(a: Tensor, b: Tensor) -> Tensor:
            return (a * b).flatten(1).sum(1).reshape(-1, *[1] * (a.ndim - 1))

        x, residual = torch.zeros_like(right), right.clone()
        z = self._missing(self.times(self.spectrum, residual))
        direction, size = z, dot(residual, z)
        first = size.clamp(min=torch.finfo(torch.float64).tiny)
        for _ in range(4 * int(math.sqrt(right[0].numel())) + 200):
            if bool((size <= _TOLERANCE**2 * first).all()):
                return x
            image = self._missing(self.times(self.precision, direction))
            step = size / dot(direction, image).clamp(min=torch.finfo(torch.float64).tiny)
            x, residual = x + step * direction, residual - step * image
            z = self._missing(self.times(self.spectrum, residual))
            before, size = size, dot(residual, z)
            direction = z + size / before.clamp(min=torch.finfo(torch.float64).tiny) * direction
        worst = float((size / first).max().sqrt())
        raise ValueError(
            f"filling the missing cells did not converge (residual {worst:.1e}): the spectrum spans "
            f"{float(self.spectrum.max() / self.spectrum.min()):.1e}; give the data a noise level (data.noise_level)."
        )


def _channel(law: GaussianField, channel: int, observed: Tensor) -> _Channel:
    here, gone = int(observed.sum()), int((~observed).sum())
    if here == 0:
        raise ValueError(f"channel {channel} has no observed cell.")
    full = bool((law.spectrum[channel] > 0).all())
    if full and gone <= min(here, DENSE_LIMIT):
        return _ByMissing(law, channel, observed)
    if here <= DENSE_LIMIT:
        return _ByObserved(law, channel, observed)
    if full:
        return _ByMissing(law, channel, observed) if gone <= DENSE_LIMIT else _Iterative(law, channel, observed)
    raise ValueError(
        f"channel {channel} has modes without variance and {here} observed cells; more than {DENSE_LIMIT} need a "
        "variance in every mode (data.noise_level)."
    )
