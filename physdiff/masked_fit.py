r"""The Gaussian law of fields of which only some cells are known: maximum likelihood by expectation-maximisation.

Each round takes the expected modes and their second moments given the observed cells,

    a_i = E[y | x_O,i],    μ ← mean_i a_i,    c ← Σ_i (a_i − μ)²/(n − 1) + mean_i diag Cov[y | x_O,i],

under the law of the round before (`Kriging`), and the density of the observed cells never falls but for the n − 1,
which is that of `GaussianField.fit`: where nothing is missing, both are the same law. What no data touches stays where
it began: the mean of the observed cells, and a periodogram of the fields filled with it.

Where masks are too many or too large, the covariance is taken from draws in place of its closed form (Monte Carlo EM:
Wei and Tanner, 1990). What a draw adds to the mean does not depend on the field, so that a few serve all fields of a
mask. Each round has its own: with the same in all, a mode whose draws happen to be large would gain variance in every
round, and one that is hardly observed without end. Single modes then never settle, so that rounds end when means over
shells of modes of like wavenumber do. That is before the maximum, and fields that took no part in it are not the less
likely for it: later rounds give each mode what is by chance in the fields at hand.

Source: Dempster, Laird and Rubin (1977), section 4.1.3 for the normal law with missing values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from physdiff.basis import Basis, SpectralBasis
from physdiff.gaussian import GaussianField
from physdiff.kriging import DENSE_LIMIT, Kriging, by_mask
from physdiff.masked_solve import AIM, coast
from physdiff.randomness import keyed_generator

# A factor of this many operations a round takes seconds.
_DEAR = 2e10
# Weakest mode beside the strongest: a covariance that spans more cannot be factorised in double precision.
_SPAN = 1e-11
# Draws of the missing cells of a mask at most, and below what size a mask is factorised for fewer fields than that.
_DRAWS, _SMALL = 64, 512
# Rounds with draws end at this relative change of the spectrum, a root mean square over shells.
_SETTLED = 2e-2
_SHELLS, _MODES = 32, 64  # shells at most, and modes of one at least
_TAPER = 8  # steps from the coast at which a field counts in full, in the law that rounds begin with
_AIM = 0.1  # standard deviations that all missing cells together are off by, where they are found by iteration


@dataclass(frozen=True)
class MaskedFit:
    """A law and how it was found.

    Attributes:
        law: With a variance in every mode: under a mask none can be seen to be zero.
        log_prob: Mean log-density of the observed cells of a field, in nats, at the start of each round; empty where
            it cannot be computed.
        converged: Whether the last round changed it by less than asked.
    """

    law: GaussianField
    log_prob: tuple[float, ...]
    converged: bool


def fit_masked(
    fields: Tensor,
    observed: Tensor,
    basis: Basis,
    noise_level: float | None = None,
    homogeneous: bool = False,
    rounding: Tensor | None = None,
    *,
    rounds: int = 200,
    tolerance: float = 1e-5,
    seed: int = 0,
    progress: bool = False,
) -> MaskedFit:
    """Fit a Gaussian law to what is known of fields.

    Args:
        fields: Data, shape (n, channels, *grid), n ≥ 2; what stands in missing cells is not looked at.
        observed: Which cells are known, shape as fields, bool.
        basis: The basis of the law.
        noise_level: As for `GaussianField.fit`; a weaker mode is given its variance.
        homogeneous: Likewise.
        rounding: Likewise.
        rounds: Most rounds.
        tolerance: Change of the log-density per observed cell, in nats, below which rounds end; where covariances are
            from draws it is not computed, and rounds end when the spectrum's means over shells change by 0.02.
        seed: Of draws, where there are any.
        progress: Whether to show a bar.

    Raises:
        ValueError: shapes do not fit; fewer than two fields; a field has a channel without an observed cell.
    """
    fields = torch.where(observed, fields.to(torch.float64), 0.0)
    if fields.shape != observed.shape or tuple(fields.shape[2:]) != tuple(basis.grid.shape):
        raise ValueError(
            f"fields and observed cells have the shape (n, channels, {', '.join(map(str, basis.grid.shape))}); got "
            f"{tuple(fields.shape)} and {tuple(observed.shape)}."
        )
    if len(fields) < 2:
        raise ValueError(f"a spectrum needs at least 2 fields; got {len(fields)}.")
    if not bool(torch.isfinite(fields).all()):
        raise ValueError("an observed cell holds a value that is not finite.")
    if rounding is None:
        rounding = torch.finfo(fields.dtype).eps * fields.square().sum((0, *basis.axes)).sqrt()
    floor = rounding.to(torch.float64).clamp(min=noise_level or 0.0).square()
    groups = list(by_mask(observed))
    exact = _cost(groups) <= _DEAR
    law = _start(fields, observed, basis, floor, homogeneous)
    found: list[float] = []
    for number in tqdm(range(rounds), desc="reference", unit="round", disable=not progress, leave=False):
        noise = None if exact else keyed_generator(seed, "masked fit", number)
        expected, variance, log_prob = _expect(law, fields, groups, noise)
        new = _maximise(law, expected, variance, floor, homogeneous)
        if log_prob is not None:
            found.append(log_prob)
            change = abs(found[-1] - found[-2]) * len(fields) / float(observed.sum()) if len(found) > 1 else None
        else:
            change = _change(law, new)
        law = new
        if change is not None and change < (tolerance if exact else _SETTLED):
            return MaskedFit(law, tuple(found), True)
    return MaskedFit(law, tuple(found), False)


def _cost(groups: list[tuple[Tensor, Tensor]]) -> float:
    """Operations of a round's factors; infinite where one is too large."""
    total = 0.0
    for mask, _ in groups:
        for channel in mask:
            size = min(int(channel.sum()), int((~channel).sum()))
            total += math.inf if size > DENSE_LIMIT else float(size) ** 3
    return total


def _start(fields: Tensor, observed: Tensor, basis: Basis, floor: Tensor, homogeneous: bool) -> GaussianField:
    everywhere = (0, *basis.axes)
    mean = fields.sum(everywhere) / observed.sum(everywhere)
    filled = torch.where(observed, fields, mean.reshape(-1, *[1] * basis.grid.ndim))
    # Tapered off towards coasts, or these would fill the strong waves' power into all weak ones.
    weight = torch.empty(fields.shape, dtype=torch.float64)
    for mask, rows in by_mask(observed):
        weight[rows] = _taper(mask, basis)
    modes = basis.forward(filled)
    at = _estimated(basis, modes.mean(0), homogeneous)
    tapered = basis.forward(weight * (filled - basis.inverse(at)))
    share = weight.square().mean(everywhere).reshape(-1, *[1] * basis.grid.ndim)
    power = basis.symmetrise(tapered.square().mean(0)) / share
    return GaussianField(basis, at, _floored(power, floor), floor)


def _taper(mask: Tensor, basis: Basis) -> Tensor:
    """Weights from 0 in missing cells to 1 some steps off the coast; the mask itself if too little would be left."""
    observed = mask.to(torch.float64)
    if not isinstance(basis, SpectralBasis) or bool(mask.all()):
        return observed
    steps = torch.zeros_like(observed)
    for channel, here in enumerate(mask):
        for width in range(_TAPER):
            steps[channel] += here & ~coast(here, basis.grid.boundary, here.numel(), width)
    found = torch.sin(0.5 * math.pi * steps / _TAPER).square()
    enough = found.square().flatten(1).sum(1) > 0.3 * observed.flatten(1).sum(1)
    return torch.where(enough.reshape(-1, *[1] * basis.grid.ndim), found, observed)


def _expect(
    law: GaussianField, fields: Tensor, groups: list[tuple[Tensor, Tensor]], noise: torch.Generator | None
) -> tuple[Tensor, Tensor, float | None]:
    """Expected modes of each field, mean variance that is left in each mode, and the mean log-density if known."""
    expected = torch.empty_like(fields)
    variance, total = torch.zeros_like(law.spectrum), 0.0
    for mask, rows in groups:
        few = noise is not None and len(rows) < _DRAWS
        krige = Kriging(law, mask, dense=_SMALL if few else DENSE_LIMIT, aim=AIM if noise is None else _AIM)
        some = fields[rows]
        mean = law.basis.forward(krige.mean(some))
        expected[rows] = mean
        if noise is None:
            variance += len(rows) * krige.mode_variance()
            total += float(krige.log_prob(some).sum())
        else:
            draws = torch.randn((min(len(rows), _DRAWS), *mask.shape), generator=noise, dtype=torch.float64)
            about = law.basis.forward(krige.draw(some[: len(draws)], draws)) - mean[: len(draws)]
            variance += len(rows) * about.square().mean(0)
    n = len(fields)
    return expected, law.basis.symmetrise(variance / n), total / n if noise is None else None


def _maximise(
    law: GaussianField, expected: Tensor, variance: Tensor, floor: Tensor, homogeneous: bool
) -> GaussianField:
    basis, n = law.basis, len(expected)
    mean = _estimated(basis, expected.mean(0), homogeneous)
    estimated = basis.constant_along_periodic if homogeneous else torch.ones(basis.grid.shape, dtype=torch.bool)
    freedom = torch.where(estimated, n - 1.0, float(n))  # as in GaussianField.fit
    power = basis.symmetrise((expected - mean).square().sum(0) / freedom) + variance
    return GaussianField(basis, mean, _floored(power, floor), law.floor)


def _change(law: GaussianField, new: GaussianField) -> float:
    """Relative change of the spectrum, a root mean square over shells of modes of like wavenumber."""
    ratio = (new.spectrum / law.spectrum).log().flatten(1)[:, law.basis.laplacian.flatten().argsort(stable=True)]
    shells = min(_SHELLS, max(1, ratio.shape[1] // _MODES))
    means = torch.stack([shell.mean(1) for shell in ratio.tensor_split(shells, dim=1)], 1)
    return float(means.square().mean().sqrt())


def _estimated(basis: Basis, mean: Tensor, homogeneous: bool) -> Tensor:
    return torch.where(basis.constant_along_periodic, mean, 0.0) if homogeneous else mean


def _floored(power: Tensor, floor: Tensor) -> Tensor:
    over = tuple(range(1, power.ndim))
    least = torch.maximum(floor.reshape(-1, *[1] * len(over)), _SPAN * power.amax(over, keepdim=True))
    if not bool((least > 0).all()):
        raise ValueError("a channel of the data does not vary where it is observed.")
    return torch.maximum(power, least)
