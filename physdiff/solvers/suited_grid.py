"""The time grid that a step rule goes best with, as measured on mixtures of Gaussians.

Rules in whitened coordinates do best where their own trajectories call for steps; uncalibrated, on equal angles, as do
those that draw noise. Rules that interpolate the denoiser in log SNR were made for equal steps of it, and the other
deterministic ones hold up best on Karras's grid. Under simulated processes rules step in log τ.
"""

from __future__ import annotations

from physdiff.path import ReferencePath
from physdiff.solvers.angle_grid import Angle
from physdiff.solvers.calibrated_grid import Calibrated
from physdiff.solvers.noise_grids import Karras, LogSNR
from physdiff.solvers.solver import Solver
from physdiff.solvers.time_grid import LogSpaced, Path, TimeGrid


def suited_grid(solver: Solver, path: Path, calibrated: Calibrated | None = None) -> TimeGrid:
    """Where a rule is to stop when nobody says.

    Args:
        solver: The step rule.
        path: The process and its reference.
        calibrated: The grid that was calibrated on the model, if there is one.
    """
    if not isinstance(path, ReferencePath):
        return calibrated or LogSpaced()
    if solver.exact_on_gaussian and not solver.stochastic:
        return calibrated or Angle()
    if solver.multistep:
        return LogSNR()
    return Angle() if solver.stochastic else Karras()
