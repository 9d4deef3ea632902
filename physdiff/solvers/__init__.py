"""Solvers of the reverse process: one step rule a file, time grids, and the sampling loop."""

from physdiff.solvers.adaptive_ode import AdaptiveODE
from physdiff.solvers.ancestral import Ancestral
from physdiff.solvers.angle_grid import Angle
from physdiff.solvers.annealed_langevin import AnnealedLangevin
from physdiff.solvers.automatic_grid import Automatic
from physdiff.solvers.calibrated_grid import Calibrated
from physdiff.solvers.churned import ChurnedHeun
from physdiff.solvers.ddim import DDIM
from physdiff.solvers.dpm_solver import DPMSolver
from physdiff.solvers.euler import Euler
from physdiff.solvers.euler_maruyama import EulerMaruyama
from physdiff.solvers.heun import Heun
from physdiff.solvers.noise_grids import Karras, LogSNR
from physdiff.solvers.phase_space_ddim import PhaseSpaceDDIM
from physdiff.solvers.predictor_corrector import PredictorCorrector
from physdiff.solvers.reference_splitting import ReferenceSplitting
from physdiff.solvers.sample import sample
from physdiff.solvers.sde_dpm_solver import SDEDPMSolver
from physdiff.solvers.solver import Evaluation, ReverseDynamics, Solver, solvers
from physdiff.solvers.suited_grid import suited_grid
from physdiff.solvers.time_grid import LogSpaced, TimeGrid, Uniform, time_grids
from physdiff.solvers.torch_sde import TorchSDE
from physdiff.solvers.trajectory import Trajectory
from physdiff.solvers.whitened_adams import WhitenedAdams

__all__ = [
    "DDIM", "AdaptiveODE", "Ancestral", "Angle", "AnnealedLangevin", "Automatic", "Calibrated", "ChurnedHeun",
    "DPMSolver", "Euler", "EulerMaruyama", "Evaluation", "Heun", "Karras", "LogSNR", "LogSpaced",
    "PhaseSpaceDDIM",
    "PredictorCorrector", "ReferenceSplitting", "ReverseDynamics", "SDEDPMSolver", "Solver", "TimeGrid", "TorchSDE",
    "Trajectory", "Uniform", "WhitenedAdams", "sample", "solvers", "suited_grid", "time_grids",
]  # fmt: skip
