r"""DDIM in phase space: field and velocity carried together, by the R-matrix.

For y = (x, v) with dy = A y dτ + √G dW and y_τ | x_0 ~ N(a x_0, Σ), the probability flow with the denoiser's answer D
frozen is linear in w = y − a D,

    dw/dτ = (A + ½ G Σ⁻¹) w,     y_s = a_s D + R_s R_t⁻¹ (y_t − a_t D),     dR/dτ = (A + ½ G Σ⁻¹) R,   R Rᵀ = Σ.

R is not the Cholesky factor L of Σ, but R = L Q with Q orthogonal: in two dimensions a rotation by an angle of which

    dθ/dτ = ½ G_xx l₂/(l₁² l₃) − A_xv l₃/l₁,     L = (l₁ 0; l₂ l₃),

so that a quadrature gives R_s R_t⁻¹ = L_s Q(θ_s − θ_t) L_t⁻¹, however stiff the block is.

No denoiser of this package needs the pair: its statistic y = m u is all it is given, and is a scalar process of which
any other rule gives samples (`physdiff.phase_space`). This rule is for those who want the pair's own trajectories, and
to compare. At t = 1 the pair is drawn once, given u: y = a u + d ξ, where d dᵀ = Σ − E a aᵀ has rank one.

Source: Zhang, Tao and Chen (2023), eq. 12 and 17, with the denoiser in place of the score.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from physdiff.block import Pair
from physdiff.phase_space import PhaseKernel, PhaseSpaceProcess
from physdiff.process import LinearProcess
from physdiff.solvers.solver import Noise, ReverseDynamics, Solver

NODES, WEIGHTS = (torch.from_numpy(values) for values in np.polynomial.legendre.leggauss(8))
PANEL = 0.5  # of log τ, or of the fastest rate times τ, in a panel of the quadrature: errors below 1e-10


@dataclass(frozen=True)
class PhaseSpaceDDIM(Solver):
    """DDIM of the pair (x, v) under a phase-space process. The first step draws the velocity."""

    order: ClassVar[int] = 1
    evaluations: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True
    exact_on_gaussian: ClassVar[bool] = False
    multistep: ClassVar[bool] = True

    @staticmethod
    def allows(process: LinearProcess) -> bool:
        """Whether the process has a velocity."""
        return isinstance(process, PhaseSpaceProcess)

    def step(self, dynamics: ReverseDynamics, y: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        path = dynamics.path
        process, here = path.process, path.at(t)
        if not isinstance(process, PhaseSpaceProcess):
            raise ValueError(f"PhaseSpaceDDIM needs a phase-space process; {type(process).__name__} has no velocity.")
        if dynamics.past:
            x, v = dynamics.past[-1].value
        else:
            drawn = noise(tuple(y.shape[1:])).to(y) * path.reference.support.to(y.device)
            x, v = pair_given_statistic(process, y, t, drawn)
        clean = here.wiener(y) + dynamics.residual(y, t)
        x, v = carried_pair(process, (x, v), clean, t, s)
        dynamics.remember(s, torch.stack([x, v]), 1)
        return path.basis.forward(process.statistic(path.basis.inverse(x), path.basis.inverse(v), s))


def pair_given_statistic(process: PhaseSpaceProcess, y: Tensor, t: Tensor, noise: Tensor) -> Pair:
    """Modes of x and v at t > 0 from those of the statistic y = m u, with unit noise of the same shape."""
    kernel = process.phase_kernel(t)
    a_x, a_v = kernel.gain
    xx, xv, vv = kernel.covariance
    of_x, of_v = vv * a_x - xv * a_v, xx * a_v - xv * a_x  # adj(Σ) a
    spread = (a_x * of_x + a_v * of_v).rsqrt()  # √(E det Σ)/det Σ
    u = y / torch.exp(process.log_gain(process.physical_time(t), torch.zeros((), dtype=torch.float64))).to(y)
    return a_x.to(y) * u - (spread * of_v).to(y) * noise, a_v.to(y) * u + (spread * of_x).to(y) * noise


def carried_pair(process: PhaseSpaceProcess, pair: Pair, clean: Tensor, t: Tensor, s: Tensor) -> Pair:
    """Modes of x and v at s < t along the probability flow with the clean field frozen, from those at t."""
    late, early = process.phase_kernel(t), process.phase_kernel(s)
    x, v = (part - gain.to(part) * clean for part, gain in zip(pair, late.gain, strict=True))
    l_1, l_2, l_3 = (entry.to(x) for entry in _cholesky(late))
    first = x / l_1
    second = (v - l_2 * first) / l_3
    if s > 0:
        angle = _turned(process, t, s).to(x)
        cos, sin = torch.cos(angle), torch.sin(angle)
        first, second = cos * first - sin * second, sin * first + cos * second
    r_1, r_2, r_3 = (entry.to(x) for entry in _cholesky(early))
    a_x, a_v = (gain.to(x) for gain in early.gain)
    return a_x * clean + r_1 * first, a_v * clean + r_2 * first + r_3 * second


def _cholesky(kernel: PhaseKernel) -> tuple[Tensor, Tensor, Tensor]:
    """l₁, l₂, l₃; at τ = 0, where x has no noise, that of v alone."""
    xx, xv, vv = kernel.covariance
    quiet = xx == 0
    l_1 = xx.sqrt()
    safe = torch.where(quiet, 1.0, l_1)
    return l_1, torch.where(quiet, 0.0, xv / safe), torch.where(quiet, vv.sqrt(), kernel.determinant.sqrt() / safe)


def _turned(process: PhaseSpaceProcess, t: Tensor, s: Tensor) -> Tensor:
    """θ_s − θ_t by Gauss and Legendre's rule over panels of log τ."""
    later, earlier = process.physical_time(t), process.physical_time(s)
    block = process.block
    fastest = float((0.5 * block.trace.abs() + (block.trace.square() / 4 - block.determinant).abs().sqrt()).max())
    edges = [float(later.log())]
    while edges[-1] > float(earlier.log()):
        edges.append(max(edges[-1] - PANEL / max(1.0, fastest * math.exp(edges[-1])), float(earlier.log())))
    total = torch.zeros((), dtype=torch.float64)
    for last, first in pairwise(edges):
        time = torch.exp(0.5 * (first + last) + 0.5 * (first - last) * NODES)
        l_1, l_2, l_3 = _cholesky(process.phase_kernel(process.running_clock.inverse(time)))
        rate = 0.5 * block.noise[0] * l_2 / (l_1.square() * l_3) - block.drift[0][1] * l_3 / l_1
        weight = (0.5 * (first - last) * WEIGHTS * time).reshape(-1, *[1] * (l_1.ndim - 1))
        total = total + (weight * rate).sum(0)
    return total
