r"""Phase-space processes: every mode x has an auxiliary velocity v, and the network never sees it.

An author states the equation of the pair, dy = A y dτ + √G dW with y = (x, v) and 2×2 blocks per mode, and the variance
V₀ of the velocity at the start. The data says nothing about v_0, so it is integrated out: y_τ | x_0 ~ N(a x_0, Σ).

**One number per mode is enough.** The noise being Gaussian and known, u = aᵀΣ⁻¹y/I, I = aᵀΣ⁻¹a, is a sufficient
statistic for x_0: u | x_0 ~ N(x_0, E), E = 1/I, and given u the rest of y is noise whatever x_0 is. An earlier y knows
all that a later one knows, so Cov(u_s, u_τ | x_0) = E_s for s ≤ τ: u is x_0 plus a Brownian motion that runs in E, a
scalar Markov process. Denoisers, likelihoods and solvers of the pair are therefore those of a `LinearProcess` per mode,
stated here in the gauge in which it has the stationary variance 1/q of x,

    y = m u,    m² = 1/(1 + qE),    S = E/(1 + qE),
    A_eff = −½ (J/I) qE/(1 + qE),   n_eff = (J/I) E/(1 + qE),   J/I = d log E/dτ,

with q = 0 for a mode that never becomes stationary. `physdiff.block` has E and J/I, accurate at all times.

Source: Dockhorn, Vahdat and Kreis (2022) integrate v_0 out ("hybrid score matching") for one process; they train and
sample in phase space.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from physdiff.basis import Basis
from physdiff.block import Block, Entries, Pair
from physdiff.process import LinearProcess

ZERO = torch.zeros((), dtype=torch.float64)


@dataclass(frozen=True)
class PhaseSpaceProcess(LinearProcess):
    """A noising physics of a field x and its velocity v, diagonal in a basis but for 2×2 blocks.

    Everything that is inherited (gain, variance, kernel, drift symbol, noise spectrum) is that of the statistic
    y = m u, which is all that a denoiser is given. `phase_kernel` has the pair itself.
    """

    amplitude_exponent: ClassVar[float] = 1.5
    """E ~ A_xv² G_vv τ³/3 where noise enters through the velocity alone (τ³/12 if V₀ = 0); ½ where x has noise of its
    own."""

    # ---- the equation: what an author states

    @abstractmethod
    def drift_block(self) -> tuple[Pair, Pair]:
        """A as ((A_xx, A_xv), (A_vx, A_vv)), per unit of physical time; each real and broadcasts to the grid."""

    @abstractmethod
    def noise_block(self) -> Pair:
        """(G_xx, G_vv) ≥ 0: variance that x and v receive per unit of physical time; each broadcasts to the grid."""

    @property
    @abstractmethod
    def start_velocity_variance(self) -> Tensor:
        """V₀ ≥ 0: variance of the velocity at τ = 0, per mode."""

    # ---- the statistic: its equation and its solution

    @cached_property
    def block(self) -> Block:
        """The equation of all modes."""
        return Block(self.drift_block(), self.noise_block(), self.start_velocity_variance)

    def drift_symbol(self, time: Tensor) -> Tensor:
        log_error, log_rate = self._lost(time)
        share = torch.nn.functional.logsigmoid(self.block.stationary_precision.log() + log_error)
        # At τ = 0 dE/dτ is the noise that x itself receives.
        start = -0.5 * self.block.stationary_precision * self.block.noise[0]
        return torch.where(time > 0, -0.5 * torch.exp(log_rate + share), start)

    def noise_spectrum(self, time: Tensor) -> Tensor:
        log_error, log_rate = self._lost(time)
        return torch.where(time > 0, torch.exp(log_rate + self._log_variance(log_error)), self.block.noise[0])

    def log_gain(self, time: Tensor, since: Tensor) -> Tensor:
        log_q = self.block.stationary_precision.log()
        after, before = (torch.logaddexp(ZERO, log_q + self._lost(tau)[0]) for tau in (time, since))
        return 0.5 * (before - after)

    def variance(self, time: Tensor, since: Tensor) -> Tensor:
        after, before = (self._lost(tau)[0] for tau in (time, since))
        known = torch.where(before == after, 0.0, before - after)  # no noise yet: −∞ on both sides
        return -torch.expm1(known) * torch.exp(self._log_variance(after))

    def _lost(self, time: Tensor) -> Pair:
        """log E and log J/I of each mode; −∞ at τ = 0."""
        if not bool(time.any()):
            nothing = torch.full_like(time, -math.inf)
            return nothing, nothing
        # Gain, variance, drift and noise of one time are asked for one after the other.
        if not (self._last and torch.equal(self._last[0], time)):
            distinct, which = self.block.distinct
            flat = time.reshape(*time.shape[:1], 1) if time.ndim else time
            memory, shape = distinct.at(flat), (*time.shape[:1], *[1] * (time.ndim - 1 - which.ndim), *which.shape)
            found = (torch.where(flat > 0, log, -math.inf) for log in (memory.log_error, memory.log_rate))
            self._last[:] = [time.clone(), *(log[..., which].reshape(shape) for log in found)]
        return self._last[1], self._last[2]

    @cached_property
    def _last(self) -> list[Tensor]:
        """The last time that was asked for, and what was found."""
        return []

    def _log_variance(self, log_error: Tensor) -> Tensor:
        """log S = log E/(1 + qE)."""
        return -torch.logaddexp(self.block.stationary_precision.log(), -log_error)

    # ---- the pair itself

    def phase_kernel(self, t: Tensor) -> PhaseKernel:
        """The law of (x_t, v_t) given the clean field.

        Args:
            t: Time in [0, 1], shape () or (batch,).
        """
        time = self.physical_time(t)
        now, memory = time > 0, self.block.at(time)
        scale, unit = memory.log_scale.exp(), memory.unit
        (a_x, a_v), (b_x, b_v) = memory.signal, memory.started
        # By logarithms: the square of a unit of v at the first instant is no float.
        powers = (memory.log_noise - n * unit.abs().log() for n in (0, 1, 2))
        xx, xv, vv = (torch.where(now, p.exp() * e, 0.0) for p, e in zip(powers, memory.received, strict=True))
        return PhaseKernel(
            basis=self.basis,
            gain=(torch.where(now, scale * a_x, 1.0), torch.where(now, scale * a_v / unit, 0.0)),
            start_gain=(torch.where(now, b_x * unit, 0.0), torch.where(now, b_v, 1.0)),
            noise=(xx, unit.sign() * xv, vv),
            start_variance=self.start_velocity_variance,
        )

    def statistic(self, x: Tensor, v: Tensor, t: Tensor) -> Tensor:
        """All that fields and their velocities say of the clean field: what a denoiser of this process is given.

        Args:
            x: Fields at t, shape (batch, channels, *grid).
            v: Their velocities.
            t: Time in [0, 1], shape () or (batch,).
        """
        time = self.physical_time(t)
        memory = self.block.at(time)
        # m and the scale of a vanish together
        scale = torch.exp(self.log_gain(time, ZERO) - memory.log_scale)
        of_x, of_v = (scale * weight for weight in memory.weights)
        of_x, of_v = torch.where(time > 0, of_x, 1.0), torch.where(time > 0, of_v, 0.0)
        modes = of_x.to(x.device) * self.basis.forward(x) + of_v.to(v.device) * self.basis.forward(v)
        return self.basis.inverse(modes).to(x.dtype)


@dataclass(frozen=True)
class PhaseKernel:
    """x_t and v_t given the clean field: N(a x_0, Σ) in modes, Σ = Σ_n + V₀ b bᵀ.

    Attributes:
        basis: The basis of the modes.
        gain: a, of x and of v.
        start_gain: b, what remains of a velocity at the start in x and in v.
        noise: Σ_n, entries xx, xv and vv, from noise on the way.
        start_variance: V₀.
    """

    basis: Basis
    gain: Pair
    start_gain: Pair
    noise: Entries
    start_variance: Tensor

    @cached_property
    def covariance(self) -> Entries:
        """Σ: entries xx, xv and vv."""
        b_x, b_v = self.start_gain
        xx, xv, vv = self.noise
        v = self.start_variance
        return xx + v * b_x * b_x, xv + v * b_x * b_v, vv + v * b_v * b_v

    @cached_property
    def determinant(self) -> Tensor:
        """det Σ."""
        (xx, xv, vv), (b_x, b_v) = self.noise, self.start_gain
        return xx * vv - xv * xv + self.start_variance * (vv * b_x * b_x - 2 * xv * b_x * b_v + xx * b_v * b_v)

    def sample(self, x: Tensor, generator: torch.Generator) -> Pair:
        """Fields at t and their velocities.

        Args:
            x: Clean fields, shape (batch, channels, *grid).
            generator: Source of the noise.
        """
        clean = self.basis.forward(x)
        white = [
            self.basis.forward(torch.randn(x.shape, generator=generator, dtype=x.dtype, device=generator.device).to(x))
            for _ in range(2)
        ]
        xx, xv, vv = self.covariance
        quiet = xx == 0  # then x and v are not correlated
        width = torch.where(quiet, 1.0, xx).sqrt()
        along, across = torch.where(quiet, 0.0, xv / width), torch.where(quiet, vv, self.determinant / width.square())
        noise_x = xx.sqrt().to(x.device) * white[0]
        noise_v = along.to(x.device) * white[0] + across.sqrt().to(x.device) * white[1]
        x_t, v_t = (
            self.basis.inverse(gain.to(x.device) * clean + noise).to(x.dtype)
            for gain, noise in zip(self.gain, (noise_x, noise_v), strict=True)
        )
        return x_t, v_t

    def score(self, x: Tensor, v: Tensor, clean: Tensor) -> Pair:
        """Gradient of log p_t(x, v) with respect to x and to v, −Σ⁻¹(y − a E[x_0 | y]), at t > 0 with Σ > 0.

        Args:
            x: Fields at t, shape (batch, channels, *grid).
            v: Their velocities.
            clean: E[x_0 | x, v], a denoiser's answer to `PhaseSpaceProcess.statistic`.
        """
        modes = self.basis.forward(clean)
        off = [self.basis.forward(y) - gain.to(y.device) * modes for y, gain in zip((x, v), self.gain, strict=True)]
        (xx, xv, vv), (b_x, b_v) = ([e.to(x.device) for e in entries] for entries in (self.noise, self.start_gain))
        # adj(Σ) = adj(Σ_n) + V₀ b⊥b⊥ᵀ
        across = self.start_variance.to(x.device) * (b_v * off[0] - b_x * off[1])
        of_x = vv * off[0] - xv * off[1] + across * b_v
        of_v = xx * off[1] - xv * off[0] - across * b_x
        lost = self.determinant.to(x.device)
        return self.basis.inverse(-of_x / lost), self.basis.inverse(-of_v / lost)
