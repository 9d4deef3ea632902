r"""Gaussian fields given some of their cells, exactly: means, draws and densities (kriging).

With x ~ N(μ, C), C = U diag(c) Uᵀ, cells O observed and M missing,

    x_M | x_O ~ N(μ_M + C_MO C_OO⁻¹ (x_O − μ_O),  Q_MM⁻¹)  = N(μ_M − Q_MM⁻¹ Q_MO (x_O − μ_O),  Q_MM⁻¹),    Q = C⁻¹.

The two forms ask for a matrix of the observed or of the missing cells; the smaller is factorised. Q needs a variance in
every mode. Beyond `DENSE_LIMIT` cells means come by preconditioned conjugate gradients (`masked_solve`) and draws by
Matheron's rule from them, x* + E[x − x* | x_O]. Of a density then only the determinant is dear, one number for all
fields of a mask (`masked_determinant`): exact up to `FACTORED` cells, beyond these an estimate with an error bar.

Source: Rasmussen and Williams (2006), appendix A.2; Hoffman and Ribak (1991) for draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from physdiff.gaussian import GaussianField
from physdiff.kriging_channel import ByMissing, ByObserved, Channel, times
from physdiff.masked_determinant import FACTORED, Determinant, log_det_of_observed
from physdiff.masked_solve import AIM, System

DENSE_LIMIT = FACTORED  # cells; the factor then takes 0.5 GB


def by_mask(observed: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Each different mask, shape (channels, *grid), and the numbers of the fields that have it."""
    masks, which = torch.unique(observed.flatten(1), dim=0, return_inverse=True)
    for number, mask in enumerate(masks):
        yield mask.reshape(observed.shape[1:]), (which == number).nonzero().squeeze(1)


class Kriging:
    """A Gaussian law given some cells; channels are independent under it.

    Args:
        law: The law of whole fields.
        observed: Which cells are known, shape (channels, *grid), bool.
        dense: Cells of a channel, observed or missing, up to which all is factorised; `DENSE_LIMIT` if not given.
        factored: Cells up to which determinants are exact all the same.
        aim: Error of means and draws in standard deviations where they are found by iteration.

    Raises:
        ValueError: shapes do not fit, a channel has no observed cell, or known cells determine each other so that
            rounding is all that is left of their covariance.
    """

    def __init__(
        self,
        law: GaussianField,
        observed: Tensor,
        *,
        dense: int | None = None,
        factored: int = FACTORED,
        aim: float = AIM,
    ) -> None:
        if observed.shape != law.spectrum.shape or observed.dtype != torch.bool:
            raise ValueError(
                f"the observed cells have the shape {tuple(law.spectrum.shape)}, bool; got {tuple(observed.shape)}, "
                f"{observed.dtype}."
            )
        self.law, self.observed = law, observed
        self._channels = [
            _channel(law, c, mask, DENSE_LIMIT if dense is None else dense, factored, aim)
            for c, mask in enumerate(observed)
        ]
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
        """Log-density of the observed cells in nats, shape (n,); see `log_prob_error`."""
        known = self._known(x)
        return torch.stack([part.log_prob(known[:, c]) for c, part in enumerate(self._channels)]).sum(0)

    def log_prob_error(self) -> float:
        """Standard error of `log_prob` in nats, the same deviation in all fields; 0 where it is exact."""
        return 0.5 * math.sqrt(sum(part.determinant_error() ** 2 for part in self._channels))

    def mode_variance(self) -> Tensor:
        """Variance that is left in each mode, diag Uᵀ Cov[x | x_O] U, shape (channels, *grid), float64.

        Raises:
            ValueError: more cells are observed and missing than are factorised (C).
        """
        return torch.stack([part.mode_variance() for part in self._channels])

    def _known(self, x: Tensor) -> Tensor:
        x = x.to(torch.float64)
        known = torch.where(self.observed, x, 0.0)
        if not bool(torch.isfinite(known).all()):
            raise ValueError("an observed cell holds a value that is not finite.")
        return known


class _Iterative(Channel):
    """By conjugate gradients on the precision of the missing cells."""

    def __init__(self, law: GaussianField, channel: int, observed: Tensor, factored: int, aim: float) -> None:
        super().__init__(law, channel, observed)
        self.precision, self.factored = 1 / self.spectrum, factored
        self.system = System(self.basis, self.precision, ~observed, aim)

    def mean(self, known: Tensor) -> Tensor:
        pull = times(self.basis, self.precision, self.deviation(known))
        step = self.system.solve(torch.where(self.observed, 0.0, pull))
        return torch.where(self.observed, known, self.field_mean - step)

    def draw(self, known: Tensor, noise: Tensor) -> Tensor:
        prior = self.field_mean + self.basis.inverse(self.spectrum.sqrt() * noise)
        pull = times(self.basis, self.precision, torch.where(self.observed, known - prior, 0.0))
        step = self.system.solve(torch.where(self.observed, 0.0, pull))
        return torch.where(self.observed, known, prior - step)

    def log_prob(self, known: Tensor) -> Tensor:
        # Of all fields with these cells the mean is the likeliest: its error enters squared.
        modes = self.basis.forward(self.mean(known)) - self.mode_mean
        distance = (modes.square() / self.spectrum).flatten(1).sum(1)
        return -0.5 * (distance + self.determinant.value + int(self.observed.sum()) * math.log(2 * math.pi))

    def mode_variance(self) -> Tensor:
        observed = int(self.observed.sum())
        raise ValueError(
            f"{observed} cells are observed and {self.observed.numel() - observed} missing; the variance that is left "
            f"in each mode needs at most {DENSE_LIMIT} of either."
        )

    def determinant_error(self) -> float:
        return self.determinant.standard_error

    @property
    def determinant(self) -> Determinant:
        return log_det_of_observed(self.basis, self.spectrum, self.observed, factored=self.factored)


def _channel(law: GaussianField, channel: int, observed: Tensor, dense: int, factored: int, aim: float) -> Channel:
    here, gone = int(observed.sum()), int((~observed).sum())
    if here == 0:
        raise ValueError(f"channel {channel} has no observed cell.")
    full = bool((law.spectrum[channel] > 0).all())
    if full and gone <= min(here, dense):
        return ByMissing(law, channel, observed)
    if here <= (dense if full else max(dense, factored)):
        return ByObserved(law, channel, observed)
    if full:
        return ByMissing(law, channel, observed) if gone <= dense else _Iterative(law, channel, observed, factored, aim)
    raise ValueError(
        f"channel {channel} has modes without variance and {here} observed cells; more than {max(dense, factored)} "
        "need a variance in every mode (data.noise_level)."
    )
