r"""The Gaussian world of a simulated process: mean and variance of every mode at every time, measured on runs.

A linear process carries the reference in closed form (`physdiff.path`). Under a nonlinear one the states at τ are no
longer Gaussian even for Gaussian data, but they have a mean μ_τ and a variance V_τ per mode, and

    z = (y − μ_τ)/√V_τ,       score = (−z + h)/√V_τ

splits the score into that of the Gaussian field with these moments and a correction h, which is what a network learns.
The moments are measured on runs from the training fields and interpolated by a cubic spline in log τ. They choose
coordinates, and the Gaussian law at t = 1: between the two, samples and likelihoods are those of the score, whatever
the moments are. Where the reaction conserves the stationary law of the linear part, that is the law at t = 1.

The windows of the simulation are chosen on the same runs: as long as one step and two half steps with the same noise
agree to `tolerance`, in standard deviations of the window's noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from physdiff.basis import Basis
from physdiff.gaussian import GaussianField
from physdiff.semilinear import SemilinearProcess

GROWTH = 1.5  # of the time from one window to the next: what a linear process could do in any number of windows
NODES = 32  # of the spline: fewer than windows, so that it does not follow the noise of the runs
PILOT = 512  # runs on which moments and windows are found, on small grids
PILOT_CELLS = 2**20  # on large ones: so many values in all, but at least an eighth of the runs
MOST_WINDOWS = 2000


@dataclass(frozen=True, eq=False)
class Moments:
    """What the runs had in common.

    Attributes:
        windows: Physical times at which windows start and end, from 0 and t_min's on, shape (n + 1,).
        times: Physical times of the nodes, the first that of t_min, shape (nodes,).
        means: Of the modes, shape (nodes, channels, *grid).
        variances: V on the support, 0 outside, shape (nodes, channels, *grid).
    """

    windows: Tensor
    times: Tensor
    means: Tensor
    variances: Tensor


class SimulatedPath:
    """A semilinear process, the reference law of the data, and the moments of its runs.

    Args:
        process: With a clock.
        reference: The Gaussian law of the clean data, on the process's grid.
        moments: From `measure`.
        t_min: Earliest time, in (0, 1): the first node's.
    """

    bias_at_t_min = 0.0  # a field without its noise is no state of a simulated process, and is not scored
    terminal_mismatch = math.nan  # no bound is known

    def __init__(self, process: SemilinearProcess, reference: GaussianField, moments: Moments, t_min: float) -> None:
        if process.basis.grid != reference.basis.grid or type(process.basis) is not type(reference.basis):
            raise ValueError(
                f"process and reference must share one basis: the process has {type(process.basis).__name__} on "
                f"{process.basis.grid.describe()}, the reference {type(reference.basis).__name__} on "
                f"{reference.basis.grid.describe()}."
            )
        _check_moments(moments, reference)
        self.process = process
        self.reference = reference
        self.moments = moments
        self.clock = process.running_clock
        self.t_min = t_min

    @classmethod
    def measure(
        cls,
        process: SemilinearProcess,
        reference: GaussianField,
        fields: Tensor,
        t_min: float,
        generator: torch.Generator,
        tolerance: float = 0.1,
        homogeneous: bool = False,
    ) -> SimulatedPath:
        """The path whose windows and moments are found on runs from given fields.

        Args:
            process: With a clock.
            reference: The law of the fields.
            fields: Clean fields, shape (n, channels, *grid), n ≥ 2; at most 512 of them are run, few of
                them several times.
            t_min: Earliest time that is used, in (0, 1).
            generator: Source of the runs' noise.
            tolerance: Largest difference between one step and two half steps, in standard deviations of the noise.
            homogeneous: Whether the statistics are the same everywhere along periodic axes.

        Raises:
            ValueError: a setting is outside its range, there are fewer than 2 fields, the reaction is so fast that more
                than 2,000 windows would be needed or that the first one is too long, or runs are not finite.
        """
        if not 0 < t_min < 1:
            raise ValueError(f"t_min must lie inside (0, 1); got {t_min}.")
        if not 0 < tolerance < math.inf:
            raise ValueError(f"the tolerance of windows must be positive and finite; got {tolerance}.")
        if len(fields) < 2:
            raise ValueError(f"moments need at least 2 fields; got {len(fields)}.")
        runs = max(PILOT // 8, min(PILOT, PILOT_CELLS // fields[0].numel()))
        repeats = -(-runs // len(fields))
        clean = process.basis.forward(fields[:runs].to(torch.float64)).repeat(repeats, *[1] * (fields.ndim - 1))
        clean = torch.where(reference.support, clean, reference.mean)
        start = float(process.physical_time(torch.tensor(t_min, dtype=torch.float64)))
        moments = _Pilot(process, reference, clean, generator, tolerance, homogeneous).run(start)
        return cls(process, reference, moments, t_min)

    @property
    def basis(self) -> Basis:
        """The basis that process and reference share."""
        return self.process.basis

    def at(self, t: Tensor | float) -> SimulatedPoint:
        """The Gaussian world at t, shape () or (batch,); that of the clean fields at 0."""
        return SimulatedPoint(self, self.process.physical_time(torch.as_tensor(t, dtype=torch.float64).cpu()))

    def at_time(self, time: Tensor) -> SimulatedPoint:
        """The Gaussian world at a physical time τ, shape ()."""
        return SimulatedPoint(self, time)

    def law(self, t: float) -> GaussianField:
        """The Gaussian field with the moments at t."""
        point = self.at(t)
        return GaussianField(self.basis, point.mean, point.variance, self.reference.floor)

    def start(self, clean: Tensor, noise: Tensor) -> Tensor:
        """y at t_min of clean modes: one step with the given unit noise, shapes as `clean`."""
        support = self.reference.support
        zero, time = torch.zeros((), dtype=torch.float64), self.moments.windows[1]
        return self.process.step(torch.where(support, clean, self.reference.mean), zero, time, noise, support)

    def without_noise(self, clean: Tensor) -> tuple[Tensor, float]:
        """Refused: no linear map takes a field to the states of a simulated process.

        Raises:
            ValueError: always.
        """
        raise ValueError("under a simulated process a density is that of noised fields or of states: scored='noised'.")

    def run(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Modes at the end of each window of a noisy run from clean modes, shape (windows + 1, *clean.shape)."""
        support = self.reference.support
        modes = torch.where(support, clean, self.reference.mean)
        states = [modes]
        for since, time in pairwise(self.moments.windows):
            noise = torch.randn(modes.shape, generator=generator, dtype=torch.float64, device=generator.device)
            modes = self.process.step(modes, since, time, noise.to(modes.device), support)
            states.append(modes)
        return torch.stack(states)

    @cached_property
    def spline(self) -> tuple[Tensor, Tensor]:
        """Nodes in log τ, shape (n,), and coefficients of mean and log V, shape (4, n − 1, 2, channels, *grid)."""
        m = self.moments
        log_variance = torch.log(torch.where(self.reference.support, m.variances, 1.0))
        values = torch.stack([m.means, log_variance], 1)
        spline = CubicSpline(m.times.log().numpy(), values.numpy(), axis=0, bc_type="natural")
        return m.times.log(), torch.from_numpy(spline.c)


class SimulatedPoint:
    """Mean and variance at one physical time, or at one for each sample of a batch; float64."""

    def __init__(self, path: SimulatedPath, time: Tensor) -> None:
        self.path = path
        self.time = time
        reference = path.reference
        if time.ndim == 0 and time == 0:
            self.mean, self.variance = reference.mean, reference.spectrum
            self.mean_rate = self.log_variance_rate = torch.zeros_like(reference.mean)
            return
        nodes, coefficients = path.spline
        log_time = time.log().reshape(-1)
        within = log_time.clamp(nodes[0], nodes[-1])  # adaptive solvers look beyond the ends: a straight line there
        interval = (torch.searchsorted(nodes, within.contiguous(), right=True) - 1).clamp(0, len(nodes) - 2)
        lead = [-1] + [1] * (coefficients.ndim - 2)
        rest, beyond = (within - nodes[interval]).reshape(lead), (log_time - within).reshape(lead)
        a, b, c, d = coefficients[:, interval]
        rate = (3 * a * rest + 2 * b) * rest + c
        value = ((a * rest + b) * rest + c) * rest + d + rate * beyond
        if time.ndim == 0:
            value, rate = value[0], rate[0]
        (self.mean, log_variance), (self.mean_rate, self.log_variance_rate) = (
            x.unbind(-2 - reference.basis.grid.ndim) for x in (value, rate)
        )
        self.variance = torch.where(reference.support, log_variance.exp(), 0.0)

    @cached_property
    def noise_variance(self) -> Tensor:
        """S on the support: the noise that the linear part alone has received."""
        zero = torch.zeros((), dtype=torch.float64)
        return torch.where(self.path.reference.support, self.path.process.linear.variance(self.time, zero), 0.0)

    def deviation(self, y: Tensor) -> Tensor:
        """y − μ_τ, zero outside the support."""
        return torch.where(self.path.reference.support.to(y.device), y - self.mean.to(y), 0.0)

    def whiten(self, y: Tensor) -> Tensor:
        """z, modes to whitened modes."""
        return torch.where(self.path.reference.support, self.variance, 1.0).rsqrt().to(y) * self.deviation(y)

    def unwhiten(self, z: Tensor) -> Tensor:
        """y, whitened modes to modes."""
        return self.mean.to(z) + self.variance.sqrt().to(z) * z


class _Pilot:
    """Runs on which windows and moments are found."""

    def __init__(
        self,
        process: SemilinearProcess,
        reference: GaussianField,
        clean: Tensor,
        generator: torch.Generator,
        tolerance: float,
        homogeneous: bool,
    ) -> None:
        self.process, self.reference, self.clean = process, reference, clean
        self.generator, self.tolerance = generator, tolerance
        self.constant = process.basis.constant_along_periodic if homogeneous else torch.ones((), dtype=torch.bool)

    def run(self, start: float) -> Moments:
        """Windows from 0 to `start` and on to the end of the clock, and the moments at no more than 32 of them."""
        end = self.process.running_clock.end
        windows, means, variances = [0.0], [self.reference.mean], [self.reference.spectrum]
        modes, step = self.clean, start
        while windows[-1] < end * (1 - 1e-9):
            now = windows[-1]
            longest = start if now == 0 else min((GROWTH - 1) * now, 1.5 * step)
            remaining = end - now
            step = min(longest, remaining) if longest > 0.6 * remaining else min(longest, 0.5 * remaining)
            step, modes, mean, variance = self._advance(modes, now, step, shorten=now > 0)
            windows.append(end if end - now - step < 1e-9 * end else now + step)
            means.append(mean)
            variances.append(variance)
            if len(windows) > MOST_WINDOWS:
                raise ValueError(
                    f"{type(self.process).__name__}: its reaction is too fast to be simulated in {MOST_WINDOWS} "
                    f"windows (τ = {windows[-1]:.3g} of {end:.3g} reached): weaken it, shorten the clock, or raise the "
                    "tolerance."
                )
        if self.process.conserves:
            linear, zero = self.process.linear, torch.zeros((), dtype=torch.float64)
            last = torch.tensor(end, dtype=torch.float64)
            forgotten = linear.variance(last, zero) / -torch.expm1(2 * linear.log_gain(last, zero).real)
            variances[-1] = torch.where(self.reference.support, forgotten, 0.0)
            carried = self.process.basis.apply(torch.exp(linear.log_gain(last, zero)), self.reference.mean)
            means[-1] = torch.where(self.reference.support, torch.zeros_like(carried), carried)
        chosen = _spread(windows)
        times = torch.tensor(windows, dtype=torch.float64)
        return Moments(
            times, times[chosen], torch.stack([means[i] for i in chosen]), torch.stack([variances[i] for i in chosen])
        )

    def _advance(self, modes: Tensor, now: float, step: float, shorten: bool) -> tuple[float, Tensor, Tensor, Tensor]:
        """One window no longer than `step` with an error below the tolerance: its length, the states after it, and
        their mean and variance. The window's own noise is added to the variance exactly, so that it is not sampled."""
        p, support = self.process, self.reference.support
        noises = [torch.randn(modes.shape, generator=self.generator, dtype=torch.float64) for _ in range(2)]
        while True:
            since, middle, time = (torch.tensor(now + share * step, dtype=torch.float64) for share in (0, 0.5, 1))
            first, second = p.transition(since, middle), p.transition(middle, time)
            received = torch.where(support, p.transition(since, time).variance, 0.0)
            halves = p.step(p.step(modes, since, middle, noises[0], support), middle, time, noises[1], support)
            carried = p.basis.apply(second.gain, first.variance.sqrt() * noises[0]) + second.variance.sqrt() * noises[1]
            moved = p.step(modes, since, time, None, support)
            whole = moved + torch.where(support, carried, 0.0)
            defect = torch.where(support, (halves - whole) / torch.where(support, received, 1.0).sqrt(), 0.0)
            error = float(defect.square().sum((0, *range(1, defect.ndim))) / (len(modes) * self.reference.n_support))
            error = math.sqrt(error) if error >= 0 else math.nan
            if not shorten and not error <= 10 * self.tolerance:
                raise ValueError(
                    f"{type(p).__name__}: its reaction is too fast for the first window, up to t_min (τ = {step:.3g}): "
                    "start earlier, with a smaller noise_level, or weaken the reaction."
                )
            if not math.isfinite(error):
                raise ValueError(
                    f"{type(p).__name__}: a run is not finite at τ = {now + step:.3g}: its reaction blows up on fields "
                    "of unit variance; change its settings."
                )
            if error <= self.tolerance or not shorten:
                break
            step = step * max(0.2, min(0.8, 0.9 * self.tolerance / error))
        basis = p.basis
        mean = torch.where(self.constant | ~support, moved.mean(0), 0.0)
        between = (moved - mean).square().sum(0) / (len(moved) - 1)
        variance = torch.where(support, basis.symmetrise(between) + received, 0.0)
        return step, whole, mean, variance


def _check_moments(moments: Moments, reference: GaussianField) -> None:
    """Raise unless moments are those of this reference: shapes, increasing times, variances above 0."""
    shape = tuple(reference.spectrum.shape)
    nodes = len(moments.times)
    rising = all(bool((x.diff() > 0).all()) and len(x) > 1 for x in (moments.windows, moments.times))
    whole = all(tuple(x.shape) == (nodes, *shape) for x in (moments.means, moments.variances))
    if not rising or not whole or not bool((moments.variances > 0)[:, reference.support].all()):
        raise ValueError(
            f"moments must hold rising times and, for each of {nodes}, means and positive variances of shape {shape}; "
            f"got means of shape {tuple(moments.means.shape)} and variances of shape {tuple(moments.variances.shape)}."
        )


def _spread(windows: list[float]) -> list[int]:
    """At most NODES indices of windows that lie about evenly in log τ, the first and the last among them."""
    logs = torch.tensor(windows[1:], dtype=torch.float64).log()
    if len(logs) <= NODES:
        return list(range(1, len(windows)))
    wanted = torch.linspace(float(logs[0]), float(logs[-1]), NODES, dtype=torch.float64)
    nearest = (logs.unsqueeze(0) - wanted.unsqueeze(1)).abs().argmin(1)
    return sorted({int(i) + 1 for i in nearest})
