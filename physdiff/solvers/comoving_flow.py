r"""The probability flow in the frame that rotates with the process, as Euler's and Heun's rules step it.

    dy/dτ = Re A (y − mμ) + ½ n ((y − mμ)/V − |m| r/S),     r = D − W

in u = τ^p, in which the noise amplitude grows evenly at first (p = ½ for noise that is white in time). The rotation is
left out, for it is exact at both ends of a step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from physdiff.path import PathPoint


def flow_rate(deviation: Tensor, residual: Tensor, point: PathPoint) -> Tensor:
    """d(y − mμ)/du in the co-moving frame, u = τ^p.

    Args:
        deviation: y − mμ in the co-moving frame, shape (batch, channels, *grid).
        residual: r of the denoiser there.
        point: The time.
    """
    process, support = point.path.process, point.path.reference.support
    drift = process.drift_symbol(point.time).real
    noise_rate = process.noise_spectrum(point.time)
    linear = drift + 0.5 * noise_rate / torch.where(support, point.variance, 1.0)
    pull = 0.5 * noise_rate * point.amplitude / torch.where(support, point.noise_variance, 1.0)
    rate = torch.where(support, linear, 0.0).to(deviation) * deviation
    rate = rate - torch.where(support, pull, 0.0).to(residual) * residual
    return point.time ** (1 - process.amplitude_exponent) / process.amplitude_exponent * rate


def flow_step(here: PathPoint, there: PathPoint) -> Tensor:
    """u_there − u_here."""
    power = here.path.process.amplitude_exponent
    return there.time**power - here.time**power
