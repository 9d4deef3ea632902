"""Solvers of the reverse process: one step rule a file, time grids, and the sampling loop."""

from physdiff.solvers.ancestral import Ancestral
from physdiff.solvers.heun import Heun
from physdiff.solvers.reference_splitting import ReferenceSplitting
from physdiff.solvers.sample import sample
from physdiff.solvers.solver import Evaluation, ReverseDynamics, Solver, solvers
from physdiff.solvers.time_grid import LogSpaced, TimeGrid, Uniform, time_grids

__all__ = [
    "Ancestral", "Evaluation", "Heun", "LogSpaced", "ReferenceSplitting", "ReverseDynamics", "Solver", "TimeGrid",
    "Uniform", "sample", "solvers", "time_grids",
]  # fmt: skip
