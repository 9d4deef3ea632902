"""physdiff: physics-informed diffusion for scientific fields, with the Gaussian part of everything exact."""

import physdiff.laws
import physdiff.processes  # noqa: F401  registers the physics that comes with the toolkit
from physdiff.bases import Graph, GraphBasis, Sphere, SphereBasis
from physdiff.basis import Basis, IdentityBasis, SpectralBasis
from physdiff.chain import Chain
from physdiff.clock import Clock, ExponentialClock, LinearClock, LinearRateClock
from physdiff.clock_fit import fit_clock
from physdiff.data.fields import FieldData, load_fields
from physdiff.denoisers import (
    Denoiser,
    EmpiricalDenoiser,
    GaussianDenoiser,
    GaussianScore,
    MixtureDenoiser,
    NetworkScore,
    PosteriorMean,
    ReverseModel,
    ScoreModel,
)
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.likelihood import LogLikelihood, log_likelihood
from physdiff.model import FieldModel
from physdiff.objectives import TransitionLoss
from physdiff.path import ReferencePath
from physdiff.phase_space import PhaseSpaceProcess
from physdiff.process import AutonomousProcess, Kernel, LinearProcess
from physdiff.registry import register
from physdiff.semilinear import SemilinearProcess, with_drift
from physdiff.simulated_path import SimulatedPath
from physdiff.solvers import Ancestral, Heun, LogSpaced, ReferenceSplitting, Solver, Uniform, sample
from physdiff.trace import ExactTrace, Hutchinson

load = FieldModel.load

__all__ = [
    "Ancestral", "AutonomousProcess", "Basis", "Chain", "Clock", "Denoiser", "EmpiricalDenoiser", "ExactTrace",
    "ExponentialClock", "FieldData", "FieldModel", "GaussianDenoiser", "GaussianField", "GaussianScore", "Graph",
    "GraphBasis", "Grid", "Heun", "Hutchinson", "IdentityBasis", "Kernel", "LinearClock", "LinearProcess",
    "LinearRateClock", "LogLikelihood", "LogSpaced", "MixtureDenoiser", "NetworkScore", "PhaseSpaceProcess",
    "PosteriorMean", "ReferencePath", "ReferenceSplitting", "ReverseModel", "ScoreModel", "SemilinearProcess",
    "SimulatedPath", "Solver", "SpectralBasis", "Sphere", "SphereBasis", "TransitionLoss", "Uniform", "fit_clock",
    "load", "load_fields", "log_likelihood", "register", "sample", "with_drift",
]  # fmt: skip
