r"""Heun's rule for the probability flow, in the frame that rotates with the process (`comoving_flow`).

Nothing else is assumed about the data: the plain second-order default, and the yardstick for the reference splitting.

Source: Karras et al. (2022), algorithm 1, per mode.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from physdiff.solvers.comoving_flow import flow_rate, flow_step
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
        start, step = here.deviation(y), flow_step(here, there)
        first = flow_rate(start, residual, here)
        predicted = start + step * first
        second = flow_rate(predicted, dynamics.residual(there.restore(predicted), s), there)
        return there.restore(start + 0.5 * step * (first + second))
