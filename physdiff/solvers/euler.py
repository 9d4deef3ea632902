r"""Euler's rule for the probability flow, in the frame that rotates with the process (`comoving_flow`).

What it steps is the deviation y − mμ of the modes in u = τ^p (√τ where noise is white in time), the rotation being
exact. Stepping y/m in √S/m instead is DDIM.

Source: Song et al. (2021), eq. 13, in u for t.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from physdiff.solvers.comoving_flow import flow_rate, flow_step
from physdiff.solvers.solver import Noise, ReverseDynamics, Solver, last_step, solvers


@solvers.register
@dataclass(frozen=True)
class Euler(Solver):
    """Euler's rule in the rotating frame: the plainest one, a baseline."""

    order: ClassVar[int] = 1
    evaluations: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False
    exact_on_gaussian: ClassVar[bool] = False

    def step(self, dynamics: ReverseDynamics, y: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        here, there = dynamics.path.at(t), dynamics.path.at(s)
        residual = dynamics.residual(y, t)
        if s == 0:
            return last_step(y, residual, here, there)
        start = here.deviation(y)
        return there.restore(start + flow_step(here, there) * flow_rate(start, residual, here))
