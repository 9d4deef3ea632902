r"""The reference carried through the process: the Gaussian world that everything else is a remainder of.

With y_t = m y_0 + √S ε and y_0 ~ N(μ, c) per mode,

    V = |m|²c + S                      total variance at t
    W = μ + (m̄c/V)(y − mμ)             E[y_0 | y], the Wiener filter
    cS/V                               Var[y_0 | y]
    z = R̄(y − mμ)/√V,  m = |m|R        whitened, in the frame that moves with the rotation R
    φ = atan2(√S, |m|√c)               angle from clean (0) to noise (π/2); dz/dφ = v = −√(V/(cS)) (D − W)

z is constant along the probability flow of Gaussian data; for any other data it moves by the residual D − W of the
denoiser D alone. Modes outside the support of the reference receive no noise and stay at the mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from physdiff.basis import Basis
from physdiff.gaussian import GaussianField
from physdiff.process import LinearProcess

KEPT = 4  # points of the path that are held for the next call
LATEST = 60.0  # log of the longest physical time that is looked at


class ReferencePath:
    """A process and the reference law of the data, and the range of times that is used.

    Args:
        process: A linear process with a clock.
        reference: The Gaussian reference, on the process's grid.
        t_min: Earliest time, in (0, 1). None: where noise reaches 10⁻³ of the data's variance in its weakest mode.

    Raises:
        ValueError: the grids differ, or t_min is not inside (0, 1).
    """

    def __init__(self, process: LinearProcess, reference: GaussianField, t_min: float | None = None) -> None:
        if not isinstance(process, LinearProcess):
            raise ValueError(
                f"{type(process).__name__} is simulated: no closed form carries a reference through it. Measure a "
                "physdiff.SimulatedPath on fields instead."
            )
        if process.basis.grid != reference.basis.grid or type(process.basis) is not type(reference.basis):
            raise ValueError(
                f"process and reference must share one basis: the process has {type(process.basis).__name__} on "
                f"{process.basis.grid.describe()}, the reference {type(reference.basis).__name__} on "
                f"{reference.basis.grid.describe()}."
            )
        self.process = process
        self.reference = reference
        self.clock = process.running_clock
        if t_min is None:
            t_min = float(self.clock.inverse(torch.tensor(time_of_onset(process, reference), dtype=torch.float64)))
        if not 0 < t_min < 1:
            raise ValueError(f"t_min must lie inside (0, 1); got {t_min}. The clock ends at τ = {self.clock.end:.4g}.")
        self.t_min = t_min
        self._recent: dict[float, PathPoint] = {}

    @property
    def basis(self) -> Basis:
        """The basis that process and reference share."""
        return self.process.basis

    def at(self, t: Tensor | float) -> PathPoint:
        """The Gaussian world at t, shape () or (batch,)."""
        t = torch.as_tensor(t, dtype=torch.float64).cpu()
        if t.ndim:
            return PathPoint(self, self.process.physical_time(t))
        if float(t) not in self._recent:  # a step asks for its two ends several times
            while len(self._recent) >= KEPT:
                self._recent.pop(next(iter(self._recent)))
            self._recent[float(t)] = PathPoint(self, self.process.physical_time(t))
        return self._recent[float(t)]

    def at_time(self, time: Tensor) -> PathPoint:
        """The Gaussian world at a physical time τ, shape ()."""
        return PathPoint(self, time)

    def law(self, t: float) -> GaussianField:
        """The reference carried to t."""
        return self.reference.at(self.process, t)

    def start(self, clean: Tensor, noise: Tensor) -> Tensor:
        """y at t_min of clean modes, with the given unit noise, shapes as `clean`."""
        point = self.at(self.t_min)
        deviation = torch.where(self.reference.support, clean - self.reference.mean, 0.0)
        return point.restore(point.amplitude * deviation + point.noise_variance.sqrt() * noise)

    def without_noise(self, clean: Tensor) -> tuple[Tensor, float]:
        """Clean modes read as a state at t_min, m y_0, and the log-determinant of m on the support."""
        point = self.at(self.t_min)
        deviation = torch.where(self.reference.support, clean - self.reference.mean, 0.0)
        log_volume = point.log_gain.real.expand_as(self.reference.spectrum)[self.reference.support].sum()
        return point.restore(point.amplitude * deviation), float(log_volume)

    @cached_property
    def bias_at_t_min(self) -> float:
        """Nats by which the reference's mean log-density falls when x is scored at t_min as m·x, without the noise."""
        p = self.at(self.t_min)
        support = self.reference.support
        ratio = (p.clean_variance / torch.where(support, p.variance, 1.0))[support]
        return float(0.5 * (ratio - 1 - torch.log(ratio)).sum())

    @cached_property
    def terminal_mismatch(self) -> float:
        """Upper bound in nats of KL(p₁ ‖ reference at t = 1), for any data with the reference's mean and covariance.

        KL = h(Gaussian) − h(y₁) and h(y₁) ≥ h(y₁ | y₀), hence KL ≤ ½ Σ log(V/S).
        """
        p = self.at(1.0)
        support = self.reference.support
        return float(0.5 * torch.log(p.variance[support] / p.noise_variance[support]).sum())


class PathPoint:
    """The Gaussian world at one time, or at one time for each sample of a batch.

    All coefficients are float64 and broadcast against modes of shape (batch, channels, *grid); outside the support
    variances are zero, and so is what multiplies a mode.
    """

    def __init__(self, path: ReferencePath, time: Tensor) -> None:
        self.path = path
        self.time = time
        zero = torch.zeros((), dtype=torch.float64)
        self.log_gain = path.process.log_gain(time, zero)
        self._noise_variance = path.process.noise_variance(time)

    @property
    def _support(self) -> Tensor:
        return self.path.reference.support

    @cached_property
    def amplitude(self) -> Tensor:
        """|m|."""
        return torch.exp(self.log_gain.real)

    @cached_property
    def turn(self) -> Tensor | None:
        """R = m/|m|; None where the process does not rotate."""
        if not self.log_gain.is_complex():
            return None
        return torch.polar(torch.ones_like(self.amplitude), self.log_gain.imag)

    @cached_property
    def clean_variance(self) -> Tensor:
        """|m|²c."""
        return self.amplitude.square() * self.path.reference.spectrum

    @cached_property
    def noise_variance(self) -> Tensor:
        """S on the support."""
        return torch.where(self._support, self._noise_variance, 0.0)

    @cached_property
    def noise_deviation(self) -> Tensor:
        """√S on the support."""
        return self.noise_variance.sqrt()

    @cached_property
    def variance(self) -> Tensor:
        """V."""
        return self.clean_variance + self.noise_variance

    def _per_variance(self, x: Tensor) -> Tensor:
        return torch.where(self._support, x / torch.where(self._support, self.variance, 1.0), 0.0)

    @cached_property
    def wiener_gain(self) -> Tensor:
        """|m|c/V: the Wiener filter in the co-moving frame."""
        return self._per_variance(self.amplitude * self.path.reference.spectrum)

    @cached_property
    def posterior_variance(self) -> Tensor:
        """Var[y_0 | y] = cS/V."""
        return self._per_variance(self.path.reference.spectrum * self.noise_variance)

    @cached_property
    def mean(self) -> Tensor:
        """mμ."""
        return self.path.basis.apply(self.amplitude, self.rotate(self.path.reference.mean))

    def rotate(self, y: Tensor) -> Tensor:
        """R y: from the co-moving frame to the frame of the field at this time."""
        return y if self.turn is None else self.path.basis.apply(self.turn.to(y.device), y)

    def unrotate(self, y: Tensor) -> Tensor:
        """R̄ y."""
        return y if self.turn is None else self.path.basis.apply(self.turn.conj().to(y.device), y)

    def deviation(self, y: Tensor) -> Tensor:
        """R̄(y − mμ): deviation from the mean in the co-moving frame, zero outside the support."""
        return torch.where(self._support.to(y.device), self.unrotate(y - self.mean.to(y)), 0.0)

    def restore(self, deviation: Tensor) -> Tensor:
        """The inverse of `deviation` on the support."""
        return self.mean.to(deviation) + self.rotate(deviation)

    def wiener(self, y: Tensor) -> Tensor:
        """W = E[y_0 | y] under the reference, modes to modes."""
        return self.path.reference.mean.to(y) + self.wiener_gain.to(y) * self.deviation(y)

    @cached_property
    def whitening(self) -> Tensor:
        """1/√V, 1 outside the support."""
        return torch.where(self._support, self.variance, 1.0).rsqrt()

    def whiten(self, y: Tensor) -> Tensor:
        """z, modes to whitened modes."""
        return self.whitening.to(y) * self.deviation(y)

    def unwhiten(self, z: Tensor) -> Tensor:
        """y, whitened modes to modes."""
        return self.restore(self.variance.sqrt().to(z) * z)

    def noised(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """y at this time of clean modes, m y_0 + √S ε with noise on the support only, shape as `clean`."""
        noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64, device=generator.device)
        return self.with_noise(clean, noise)

    def with_noise(self, clean: Tensor, noise: Tensor) -> Tensor:
        """y at this time of clean modes and unit noise of their shape, which outside the support is left out."""
        deviation = self.amplitude.to(clean) * (clean - self.path.reference.mean.to(clean))
        comoving = torch.where(self._support.to(clean.device), deviation, 0.0)
        return self.restore(comoving + self.noise_variance.sqrt().to(clean) * noise.to(clean))

    @cached_property
    def angle(self) -> Tensor:
        """φ ∈ [0, π/2]; 0 outside the support."""
        return torch.atan2(self.noise_variance.sqrt(), self.clean_variance.sqrt()) * self._support

    def push(self, other: PathPoint) -> Tensor:
        """(φ_other − φ) v / (D − W): what a residual frozen here moves z by on the way to another time.

        Written without dividing by c or by φ: modes far weaker than the noise have φ → π/2, and v ∝ 1/√c.
        """
        c_root = self.path.reference.spectrum.sqrt()
        s_here, s_there = self.noise_variance.sqrt(), other.noise_variance.sqrt()
        opposite = s_there * self.amplitude - s_here * other.amplitude
        adjacent = self.amplitude * other.amplitude * c_root.square() + s_here * s_there
        angle = torch.atan2(c_root * opposite, adjacent)
        scale = torch.where(self._support, c_root * s_here, 1.0)
        return torch.where(self._support, -angle * self.variance.sqrt() / scale, 0.0)

    @cached_property
    def pull_rate(self) -> Tensor:
        """dz/dτ / (D − W) = −½ n |m| / (S √V), per unit of physical time."""
        noise_rate = self.path.process.noise_spectrum(self.time)
        scale = torch.where(self._support, self.noise_variance * self.variance.sqrt(), 1.0)
        return torch.where(self._support, -0.5 * noise_rate * self.amplitude / scale, 0.0)


def time_of_onset(process: LinearProcess, reference: GaussianField, noise_level: float | None = None) -> float:
    """Physical time at which the process starts to matter.

    Args:
        process: Any linear process; its clock is not used.
        reference: The data's law.
        noise_level: Standard deviation per cell, relative to the data's. None: noise is 10⁻³ of the data's variance
            in the weakest mode of the support. A process that starts with noise starts to matter where it has taken
            10⁻³ of the variance of some mode.
    """

    def excess(time: Tensor) -> float:
        clean, noise = _clean_and_noise(process, reference, time)
        if not process.starts_clean:
            return float((1 - clean / reference.spectrum[reference.support]).max()) / 1e-3 - 1
        if noise_level is None:
            return float((noise / clean).max()) / 1e-3 - 1
        return float(noise.mean() / clean.mean()) / noise_level**2 - 1

    return _first_time(excess, f"{type(process).__name__} adds no noise")


def time_of_forgetting(process: LinearProcess, reference: GaussianField, remembered: float = 0.02) -> float:
    """Physical time from which |m|²c/V ≤ `remembered` in every mode of the support.

    For a process that never forgets some modes (`forgets` is false), in every mode that it does forget. For one that
    starts with noise, from which |m|² ≤ `remembered`: modes weaker than that noise are forgotten from the start.
    """
    considered = torch.ones(reference.n_support, dtype=torch.bool)
    if not process.forgets:
        clean, _ = _clean_and_noise(process, reference, torch.tensor(math.exp(LATEST), dtype=torch.float64))
        considered = clean < 1e-3 * reference.spectrum[reference.support]
        if not bool(considered.any()):
            raise ValueError(f"{type(process).__name__} forgets no mode of this data: no clock can be chosen for it.")

    def excess(time: Tensor) -> float:
        clean, noise = _clean_and_noise(process, reference, time)
        whole = clean + noise if process.starts_clean else reference.spectrum[reference.support]
        return remembered - float((clean / whole)[considered].max())

    return _first_time(excess, f"{type(process).__name__} never forgets the data")


def _clean_and_noise(process: LinearProcess, reference: GaussianField, time: Tensor) -> tuple[Tensor, Tensor]:
    """|m|²c and S at a physical time, on the support, flat."""
    zero = torch.zeros((), dtype=torch.float64)
    noise = process.noise_variance(time).expand_as(reference.spectrum)[reference.support]
    clean = torch.exp(2 * process.log_gain(time, zero).real) * reference.spectrum
    return clean[reference.support], noise


def _first_time(excess: Callable[[Tensor], float], failure: str) -> float:
    """Where an increasing function of physical time changes sign, to 1 %, by bisection of log τ."""
    low, high = -LATEST, LATEST
    if excess(torch.tensor(math.exp(high), dtype=torch.float64)) < 0:
        raise ValueError(f"{failure}: no clock can be chosen for it; give one, or change its settings.")
    while high - low > 0.01:
        middle = 0.5 * (low + high)
        if excess(torch.tensor(math.exp(middle), dtype=torch.float64)) < 0:
            low = middle
        else:
            high = middle
    return math.exp(high)
