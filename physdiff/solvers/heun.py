r"""Heun's rule for the probability flow, in the frame that rotates with the process.

    dy/dτ = Re A (y − mμ) + ½ n ((y − mμ)/V − |m| r/S)      (co-moving; the rotation is exact)

integrated in u = τ^p, in which the noise amplitude grows evenly at first (p = ½ for noise that is white in time).
Nothing else is assumed about the data: the plain second-order default, and the yardstick for the reference splitting.

Source: Karras et al. (2022), algorithm 1, per mode.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from physdiff.path import PathPoint
from physdiff.solvers.solver import Noise, ReverseDynamics, Solver, last_step, solvers


@solvers.register
@dataclass(frozen=True)
class Heun(Solver):
    """Heun's rule in the rotating frame; the step to the clean field is along the reference's flow."""

    order: ClassVar[int] = 2
    evaluations: ClassVar[int] = 2
    stochastic: ClassVar[bool] = False
    exact_on_gaussian: ClassVar[bool] = False

    def step(self, dynamics: ReverseDynamics, y: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        here, there = dynamics.path.at(t), dynamics.path.at(s)
        residual = dynamics.residual(y, t)
        if s == 0:
            return last_step(y, residual, here, there)
        start = here.deviation(y)
        power = dynamics.path.process.amplitude_exponent
        step = there.time**power - here.time**power
        first = _slope(start, residual, here)
        predicted = start + step * first
        second = _slope(predicted, dynamics.residual(there.restore(predicted), s), there)
        return there.restore(start + 0.5 * step * (first + second))


def _slope(deviation: Tensor, residual: Tensor, point: PathPoint) -> Tensor:
    """d(y − mμ)/du in the co-moving frame, u = τ^p."""
    process, support = point.path.process, point.path.reference.support
    drift = process.drift_symbol(point.time).real
    noise_rate = process.noise_spectrum(point.time)
    linear = drift + 0.5 * noise_rate / torch.where(support, point.variance, 1.0)
    pull = 0.5 * noise_rate * point.amplitude / torch.where(support, point.noise_variance, 1.0)
    rate = torch.where(support, linear, 0.0).to(deviation) * deviation
    rate = rate - torch.where(support, pull, 0.0).to(residual) * residual
    return point.time ** (1 - process.amplitude_exponent) / process.amplitude_exponent * rate
