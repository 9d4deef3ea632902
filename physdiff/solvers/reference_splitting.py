r"""Reference splitting: the reference's flow exactly, the residual by a second-order rule.

In whitened coordinates the flow of Gaussian data stands still and only the residual moves,

    dz_k/dφ_k = v_k = −√(V/(cS)) (D − W)_k,

so a step adds Δφ_k · (mean of v at both ends): Heun's rule, each mode in its own angle. The stiffness of the process is
in the angle, exactly; the step sees only how fast the non-Gaussian part turns. Under a simulated process z moves by the
reaction as well, and the rule is Heun's in log τ.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from physdiff.solvers.solver import Noise, ReverseDynamics, Solver, solvers


@solvers.register
@dataclass(frozen=True)
class ReferenceSplitting(Solver):
    """Heun's rule in whitened coordinates. One step samples Gaussian data exactly."""

    order: ClassVar[int] = 2
    evaluations: ClassVar[int] = 2
    stochastic: ClassVar[bool] = False
    exact_on_gaussian: ClassVar[bool] = True
    any_process: ClassVar[bool] = True

    def step(self, dynamics: ReverseDynamics, y: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        here, there = dynamics.gaussian.at(t), dynamics.gaussian.at(s)
        z, first = here.whiten(y), dynamics.move(y, t, s)
        if s == 0:  # as `last_step`
            return there.unwhiten(z + first)
        second = -dynamics.move(there.unwhiten(z + first), s, t)
        return there.unwhiten(z + 0.5 * (first + second))
