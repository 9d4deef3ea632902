r"""How far a denoiser really is from the clean field, per mode and noise level.

    ρ_k(τ) = E|y_0 − D(y_τ, τ)|²_k / (cS/V)_k

measured on held-out fields. It is 1 for the Wiener filter on Gaussian data, and below 1 where a network knows more. For
a step that draws y_s from a Gaussian of one variance per mode around a learned mean, ρ cS/V is the variance that
minimises the Kullback-Leibler divergence, whatever the network's own errors are: the posterior variance, averaged over
states, and the error of the mean.

Source: Bao et al. (2022), theorem 1 and eq. 8 (their Γ is the same expectation, taken of the score).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from physdiff.condition import Given
from physdiff.denoisers.posterior_mean import PosteriorMean
from physdiff.randomness import keyed_generator, require_seed


@dataclass(frozen=True, eq=False)
class Calibration:
    """A table of ρ over log τ and modes.

    Attributes:
        log_times: log τ, increasing, shape (levels,), float64.
        ratios: ρ ≥ 0, shape (levels, channels, *grid), float64; 1 outside the support.
    """

    log_times: Tensor
    ratios: Tensor

    def __post_init__(self) -> None:
        levels = self.log_times.shape
        if len(levels) != 1 or not levels[0] or self.ratios.shape[:1] != levels:
            raise ValueError(
                "a calibration needs 'log_times' of shape (levels,) and 'ratios' of shape (levels, channels, *grid); "
                f"got {tuple(levels)} and {tuple(self.ratios.shape)}."
            )
        if not bool((self.log_times.diff() > 0).all()):
            raise ValueError("the 'log_times' of a calibration must increase.")
        if not bool((self.ratios.isfinite() & (self.ratios >= 0)).all()):
            raise ValueError("the 'ratios' of a calibration must be finite and at least 0.")

    def at(self, time: Tensor) -> Tensor:
        """ρ at a physical time of shape () or (batch, 1, ..., 1), linear in log τ and constant beyond the table."""
        if len(self.log_times) == 1:
            return self.ratios[0]
        place = torch.log(time.to(torch.float64)).clamp(self.log_times[0], self.log_times[-1])
        after = torch.searchsorted(self.log_times, place.flatten().contiguous(), right=True)
        after = after.clamp(1, len(self.log_times) - 1).reshape(place.shape[:1])
        low, high = self.log_times[after - 1], self.log_times[after]
        share = (place - low.reshape(place.shape)) / (high - low).reshape(place.shape)
        return self.ratios[after - 1] * (1 - share) + self.ratios[after] * share

    def to_tensors(self) -> dict[str, Tensor]:
        """What is stored; `from_tensors` is the inverse."""
        return {"log_times": self.log_times, "ratios": self.ratios}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Calibration:
        """The table of `to_tensors`."""
        return cls(tensors["log_times"].to(torch.float64), tensors["ratios"].to(torch.float64))


@torch.no_grad()
def calibrate(
    denoiser: PosteriorMean,
    fields: Tensor,
    *,
    levels: int = 16,
    seed: int = 0,
    condition: Given | None = None,
    chunk: int = 64,
) -> Calibration:
    """Measure ρ on fields that the denoiser was not trained on.

    Modes that a real field cannot tell apart, such as k and −k, share a number; the rest of the sampling error falls as
    the root of the number of fields.

    Args:
        denoiser: Under a linear process.
        fields: In the denoiser's units, shape (n, channels, *grid).
        levels: Noise levels, evenly spaced in log τ from t_min to t = 1.
        seed: Of the noise; every field is noised once at each level.
        condition: Passed on to the denoiser, shape (n, ...).
        chunk: Fields that are evaluated together.

    Raises:
        ValueError: fields are not of the denoiser's shape, or there are none; levels or chunk is below 1.
    """
    path = denoiser.path
    shape = tuple(path.reference.spectrum.shape)
    if fields.shape[1:] != shape or not len(fields):
        wanted = ", ".join(map(str, shape))
        raise ValueError(f"fields must have the shape (n, {wanted}), n at least 1; got {tuple(fields.shape)}.")
    if min(levels, chunk) < 1:
        raise ValueError(f"levels and chunk must be at least 1; got levels = {levels}, chunk = {chunk}.")
    require_seed(seed)
    device = denoiser.device
    clean = path.basis.forward(fields.to("cpu", torch.float64))
    first, last = (float(path.at(t).time.log()) for t in (path.t_min, 1.0))
    log_times = torch.linspace(first, last, levels, dtype=torch.float64)
    times = path.clock.inverse(log_times.exp()).clamp(path.t_min, 1.0)
    rows = []
    for level, t in enumerate(times):
        point, total = path.at(t), torch.zeros(shape, dtype=torch.float64)
        noisy = point.noised(clean, keyed_generator(seed, "calibrate", level))
        for start in range(0, len(clean), chunk):
            part = slice(start, start + chunk)
            given = None if condition is None else condition[part].to(device)
            residual = denoiser.residual(noisy[part].to(device), t, given).to(clean)
            total += (clean[part] - point.wiener(noisy[part]) - residual).square().sum(0)
        support = path.reference.support
        expected = torch.where(support, point.posterior_variance, 1.0)
        ratio = path.basis.symmetrise(torch.where(support, total / len(clean) / expected, 1.0))
        rows.append(torch.where(support, ratio, 1.0))
    return Calibration(log_times, torch.stack(rows))
