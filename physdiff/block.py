r"""One mode with a velocity: a linear stochastic equation in two dimensions, and what it remembers of its start.

    dy = A y dτ + √G dW,   y = (x, v),   G = diag(G_xx, G_vv),   v_0 ~ N(0, V₀),

so y_τ | x_0 ~ N(a x_0, Σ) with Φ = exp(Aτ) = (a b), Σ = Σ_n + V₀ b bᵀ and Σ_n = ∫₀^τ e^{Au} G e^{Aᵀu} du. All that y
says of x_0 is u = aᵀΣ⁻¹y / I with the information I = aᵀΣ⁻¹a; it is N(x_0, E), E = 1/I, and

    dI/dτ = −J,   J = aᵀΣ⁻¹GΣ⁻¹a ≥ 0     (the terms of the drift cancel).

At first Σ is nearly singular, its entries of order τ³, τ² and τ; in the end I vanishes like e^{2sτ}. No digit is lost:

- Time is counted in steps h = τ/2^j, in which every rate is at most 1, and v' = A_xv h v has the unit of x: all is of
  order 1 however early it is. The scales of noise and of a are kept as logarithms.
- Σ_n(h) is a Gauss-Legendre sum and Σ_n(2h) = Σ_n(h) + Φ(h) Σ_n(h) Φ(h)ᵀ: only positive semidefinite terms are added.
- V₀ b bᵀ, however much larger than Σ_n, cancels analytically: with b⊥ = (b_v, −b_x) and a × b = det Φ,

    det Σ = det Σ_n + V₀ bᵀ adj(Σ_n) b,   adj(Σ) a = adj(Σ_n) a + V₀ (a × b) b⊥.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]
Entries = tuple[Tensor, Tensor, Tensor]  # xx, xv, vv of a symmetric matrix
NODES, WEIGHTS = (torch.from_numpy(values) for values in np.polynomial.legendre.leggauss(8))


@dataclass(frozen=True)
class Block:
    """The equation of all modes; tensors that broadcast against one another.

    Attributes:
        drift: A, per unit of time, as ((A_xx, A_xv), (A_vx, A_vv)).
        noise: G_xx and G_vv ≥ 0, variance per unit of time.
        start: V₀ ≥ 0, variance of the velocity at τ = 0.

    Raises:
        ValueError: a mode grows.
    """

    drift: tuple[Pair, Pair]
    noise: Pair
    start: Tensor

    def __post_init__(self) -> None:
        growing = (self.trace > 0) | (self.determinant < 0)
        if bool(growing.any()):
            raise ValueError(
                f"the drift block lets {int(growing.sum())} of {growing.numel()} modes grow: its trace must be ≤ 0 and "
                "its determinant ≥ 0."
            )

    @cached_property
    def trace(self) -> Tensor:
        """tr A."""
        return self.drift[0][0] + self.drift[1][1]

    @cached_property
    def determinant(self) -> Tensor:
        """det A."""
        (xx, xv), (vx, vv) = self.drift
        return xx * vv - xv * vx

    @cached_property
    def stationary_precision(self) -> Tensor:
        """q = 1/P_xx of the stationary covariance, A P + P Aᵀ + G = 0; 0 for a mode that has none, or no noise."""
        (_, xv), (_, vv) = self.drift
        received = (self.determinant + vv.square()) * self.noise[0] + xv.square() * self.noise[1]
        settles = (self.trace < 0) & (self.determinant > 0) & (received > 0)
        return torch.where(settles, -2 * self.trace * self.determinant / torch.where(settles, received, 1.0), 0.0)

    @cached_property
    def distinct(self) -> tuple[Block, Tensor]:
        """The same equations, each once, shape (count,); and which of them each mode has, shape of the modes.

        Waves of one length share their block: a square box of 64 x 64 cells has 561 of them.
        """
        entries = (*self.drift[0], *self.drift[1], *self.noise, self.start)
        shape = torch.broadcast_shapes(*(entry.shape for entry in entries))
        which = torch.zeros(shape, dtype=torch.int64)
        for entry in entries:
            values, place = torch.unique(entry, return_inverse=True)
            which = torch.unique(which * len(values) + place, return_inverse=True)[1]
        flat = which.flatten()
        example = torch.zeros(int(flat.max()) + 1, dtype=torch.int64).scatter_(0, flat, torch.arange(len(flat)))
        a, b, c, d, g_x, g_v, start = (entry.expand(shape).flatten()[example] for entry in entries)
        return Block(((a, b), (c, d)), (g_x, g_v), start), which

    def at(self, time: Tensor) -> Memory:
        """The solution after a positive time; where it is 0, after a time of 1 in its stead."""
        time = torch.where(time > 0, time, 1.0)
        (xx, xv), (vx, vv) = self.drift
        half_trace, skew = 0.5 * self.trace, 0.5 * (xx - vv)
        rate = (half_trace.abs() + (skew.square() + xv * vx).abs().sqrt()) * time
        doublings = max(0, math.ceil(math.log2(max(float(rate.max()), 1e-300))))
        h = time / 2.0**doublings
        unit = torch.where(xv == 0, 1.0, xv) * h
        flow = _Flow(half_trace * h, skew * h, torch.where(xv == 0, 0.0, 1.0), vx * h * unit, self.determinant * h * h)
        # log of the variances that h brings, in the unit of x
        received = [self.noise[0].log() + h.log(), self.noise[1].log() + h.log() + 2 * unit.abs().log()]
        log_noise = torch.logaddexp(*received)
        silent = log_noise == -math.inf
        shares = tuple(torch.exp(r - torch.where(silent, 0.0, log_noise)) for r in received)
        assert len(shares) == 2
        start = torch.where(silent, math.inf, self.start.log() + 2 * unit.abs().log() - log_noise)
        covariance = _covariance(flow, shares, doublings)
        idle = (vx == 0) & (self.noise[1] == 0) & ~silent
        slow, (a_x, b_x, a_v, b_v) = flow.at(2.0**doublings)
        alone = vx == 0  # a has no velocity, and falls at a rate of its own
        log_scale, decay = torch.where(alone, xx * time, slow), torch.exp(slow)
        return Memory(
            h=h,
            unit=unit,
            log_noise=log_noise,
            shares=shares,
            log_scale=log_scale,
            signal=(torch.where(alone, 1.0, a_x), torch.where(alone, 0.0, a_v)),
            started=(decay * b_x, decay * b_v),
            cross=torch.exp(self.trace * time - log_scale),
            received=covariance,
            log_start=torch.where(idle, -math.inf, start),
            idle=idle,
        )


@dataclass(frozen=True)
class _Flow:
    """exp(A'n) after n steps of h, A' the drift per step: half trace, half of A_xx − A_vv, A_xv (0 or 1), A_vx, det."""

    half_trace: Tensor
    skew: Tensor
    xv: Tensor
    vx: Tensor
    determinant: Tensor

    @cached_property
    def _roots(self) -> tuple[Tensor, Tensor, Tensor]:
        """Whether the mode turns; its angular frequency, or half the distance of its two rates; its slower rate."""
        square = self.skew.square() + self.xv * self.vx
        turns, root = square < 0, square.abs().sqrt()
        fast = self.half_trace - root
        slow = torch.where(fast < 0, self.determinant / torch.where(fast < 0, fast, 1.0), 0.0)
        return turns, root, torch.where(turns, self.half_trace, slow)

    def at(self, n: Tensor | float) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]:
        """log of the scale of the slower rate, and exp(A'n) without it: entries xx, xv, vx, vv."""
        turns, root, slow = self._roots
        x = root * n
        still = x == 0
        safe = torch.where(still, 1.0, x)
        even = torch.where(turns, torch.cos(x), 0.5 * (1 + torch.exp(-2 * x)))
        odd = n * torch.where(still, 1.0, torch.where(turns, torch.sin(safe), -0.5 * torch.expm1(-2 * safe)) / safe)
        return slow * n, (even + self.skew * odd, self.xv * odd, self.vx * odd, even - self.skew * odd)


def _stacked(values: Tensor, flow: _Flow) -> Tensor:
    """Numbers along a new first axis, ready to broadcast against the modes."""
    return values.reshape(-1, *[1] * flow.determinant.ndim)


def _covariance(flow: _Flow, noise: Pair, doublings: int) -> Entries:
    """Σ_n after 2^doublings steps, noise per step given."""
    slow, (p, q, r, s) = flow.at(_stacked(0.5 * (1 + NODES), flow))
    decay = _stacked(0.5 * WEIGHTS, flow) * torch.exp(2 * slow)
    from_x, from_v = decay * noise[0], decay * noise[1]
    xx = (from_x * p * p + from_v * q * q).sum(0)
    xv = (from_x * p * r + from_v * q * s).sum(0)
    vv = (from_x * r * r + from_v * s * s).sum(0)
    slow, entries = flow.at(_stacked(2.0 ** torch.arange(doublings, dtype=torch.float64), flow))
    decays = torch.exp(slow)
    for p, q, r, s in zip(*(decays * entry for entry in entries), strict=True):
        xx, xv, vv = (
            xx + p * p * xx + 2 * p * q * xv + q * q * vv,
            xv + p * r * xx + (p * s + q * r) * xv + q * s * vv,
            vv + r * r * xx + 2 * r * s * xv + s * s * vv,
        )
    return xx, xv, vv


@dataclass(frozen=True)
class Memory:
    """Φ and Σ after some time, in steps of h and in v' = unit · v, without the scales of a and of the noise.

    Attributes:
        h: The unit of time.
        unit: v'/v.
        log_noise: log w, the variance that h brings: Σ_n is w times `received`.
        shares: G per step, over w.
        log_scale: log of the scale of a.
        signal: a over its scale.
        started: b, of a velocity v' at the start.
        cross: a × b, over the scale of a.
        received: Σ_n/w.
        log_start: log of V₀ in v', over w; −∞ where the velocity is idle.
        idle: Whether nothing moves the velocity, so that it is known, or zero, and says nothing.
    """

    h: Tensor
    unit: Tensor
    log_noise: Tensor
    shares: Pair
    log_scale: Tensor
    signal: Pair
    started: Pair
    cross: Tensor
    received: Entries
    log_start: Tensor
    idle: Tensor

    @cached_property
    def _parts(self) -> tuple[Tensor, Tensor, Pair]:
        """aᵀ adj(Σ) a, det Σ and adj(Σ) a for Σ = (1 − k)Σ_n/w + k b bᵀ, k = V₀/(w + V₀): all of order 1."""
        noise, start = torch.sigmoid(-self.log_start), torch.sigmoid(self.log_start)
        xx, xv, vv = self.received
        vv = torch.where(self.idle, 1.0, vv)  # in place of a velocity that says nothing any variance will do
        by_noise = _adjugate((xx, xv, vv), self.signal)
        weights = (
            noise * by_noise[0] + start * self.cross * self.started[1],
            noise * by_noise[1] - start * self.cross * self.started[0],
        )
        found = noise * _dot(self.signal, by_noise) + start * self.cross.square()
        lost = noise * (xx * vv - xv * xv) + start * _dot(self.started, _adjugate((xx, xv, vv), self.started))
        return found, lost, weights

    @cached_property
    def log_error(self) -> Tensor:
        """log E; −∞ where no noise has been received."""
        found, lost, _ = self._parts
        noisy = (self.log_noise > -math.inf) & (lost > 0)
        return torch.where(noisy, self.log_noise + lost.log() - found.log() - 2 * self.log_scale, -math.inf)

    @cached_property
    def log_rate(self) -> Tensor:
        """log of J/I = d log E/dτ, per unit of time."""
        found, lost, weights = self._parts
        gained = self.shares[0] * weights[0].square() + self.shares[1] * weights[1].square()
        return torch.where(gained > 0, gained.log() - found.log() - lost.log() - self.h.log(), -math.inf)

    @cached_property
    def weights(self) -> Pair:
        """Weights of x and of v in u times the scale of a."""
        found, _, (of_x, of_v) = self._parts
        return of_x / found, of_v / found * self.unit


def _dot(a: Pair, b: Pair) -> Tensor:
    return a[0] * b[0] + a[1] * b[1]


def _adjugate(matrix: Entries, y: Pair) -> Pair:
    """adj(M) y."""
    xx, xv, vv = matrix
    return vv * y[0] - xv * y[1], xx * y[1] - xv * y[0]
