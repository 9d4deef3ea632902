r"""Langevin steps at one noise level: they draw a state nearer to the law at time t, whatever it came from.

    y ← y + ε P · score + √(2εP) ξ

leaves the law at t as it is, but for errors of the first order in ε. Two preconditioners P:

- *One number for all modes*, as published. The size of a step is measured in the norms of noise and score; their ratio
  in a batch is replaced by the one that the reference expects, so that a sample does not depend on its batch-mates:
  P = V̄, the harmonic mean of V over the support, which is the noise's variance where that is white and the data weak.
- *The noise variance of each mode*, P = S. No law at t is narrower than its noise in any direction, −∇² log p ≤ 1/S, so
  that steps with ε < 1 are stable on any data. The Gaussian part of the step is the exact Ornstein-Uhlenbeck one: with
  z = (y − mμ)/√V, a = ε S/V and q = √V |m| r/S,

      z ← e^{−a} z + (1 − e^{−a}) q + √(1 − e^{−2a}) ξ,

  in which N(0, I), the law of Gaussian data, stays as it is to rounding.

Source: Song and Ermon (2019), algorithm 1 (their α is 2εP); Song et al. (2021), algorithms 4 and 5 (their ε is εP).
"""

from __future__ import annotations

import torch
from torch import Tensor

from physdiff.path import PathPoint
from physdiff.solvers.solver import Noise, ReverseDynamics


def langevin_step(
    dynamics: ReverseDynamics, y: Tensor, t: Tensor, size: Tensor | float, preconditioned: bool, noise: Noise
) -> Tensor:
    """One step of size ε at time t > 0, one evaluation; modes of shape (batch, channels, *grid) to the same.

    Args:
        dynamics: The reverse process.
        y: State.
        t: Time, shape ().
        size: ε > 0, a number or one per mode.
        preconditioned: Whether each mode is stepped by its own noise variance.
        noise: Unit normal noise, one call.
    """
    point = dynamics.path.at(t)
    support = dynamics.path.reference.support
    residual, drawn = dynamics.residual(y, t), noise(tuple(y.shape[1:])).to(y)
    variance = torch.where(support, point.variance, 1.0)
    received = torch.where(support, point.noise_variance, 1.0)
    pull = variance.sqrt() * point.amplitude / received
    if preconditioned:
        rate = torch.where(support, size * received / variance, 0.0)
        moved = -torch.expm1(-rate)
        spread = (-torch.expm1(-2 * rate)).sqrt()
    else:
        moved = torch.where(support, size * typical_variance(point) / variance, 0.0)
        spread = (2 * moved).sqrt()
    z = point.whiten(y)
    return point.unwhiten((1 - moved).to(y) * z + (moved * pull).to(y) * residual + spread.to(y) * drawn)


def typical_variance(point: PathPoint) -> Tensor:
    """V̄, the harmonic mean of V over the support."""
    support = point.path.reference.support
    inverse = torch.where(support, 1 / torch.where(support, point.variance, 1.0), 0.0)
    return support.sum() / inverse.sum()
