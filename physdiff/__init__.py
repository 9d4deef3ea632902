"""physdiff: physics-informed diffusion for scientific fields, with the Gaussian part of everything exact."""

import physdiff.laws
import physdiff.processes  # noqa: F401  registers the physics that comes with the toolkit
from physdiff.actions import Phi4Action, find_action
from physdiff.bases import Graph, GraphBasis, Sphere, SphereBasis
from physdiff.basis import Basis, IdentityBasis, SpectralBasis
from physdiff.bounds import Bound, continuous_elbo, elbo, simulated_elbo
from physdiff.chain import Chain
from physdiff.clock import Clock, ExponentialClock, LinearClock, LinearRateClock
from physdiff.clock_fit import fit_clock
from physdiff.condition import Condition
from physdiff.data.fields import FieldData, load_fields
from physdiff.decoding import Decoded, decode, draw, encode
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
from physdiff.importance import ImportanceWeights, bennett_free_energy, importance_weights, reverse_free_energy
from physdiff.jackknife import Estimate
from physdiff.likelihood import LogLikelihood, log_likelihood
from physdiff.model import FieldModel
from physdiff.objectives import TransitionLoss
from physdiff.path import ReferencePath
from physdiff.phase_space import PhaseSpaceProcess
from physdiff.process import AutonomousProcess, Kernel, LinearProcess
from physdiff.quantised import bits_per_dimension, dequantise
from physdiff.registry import register
from physdiff.semilinear import SemilinearProcess, with_drift
from physdiff.simulated_path import SimulatedPath
from physdiff.solvers import (
    DDIM,
    AdaptiveODE,
    Ancestral,
    Angle,
    AnnealedLangevin,
    Automatic,
    Calibrated,
    ChurnedHeun,
    DPMSolver,
    Euler,
    EulerMaruyama,
    Heun,
    Karras,
    LogSNR,
    LogSpaced,
    PhaseSpaceDDIM,
    PredictorCorrector,
    ReferenceSplitting,
    SDEDPMSolver,
    Solver,
    TimeGrid,
    TorchSDE,
    Trajectory,
    Uniform,
    WhitenedAdams,
    sample,
)
from physdiff.trace import ExactTrace, Hutchinson, HutchPlusPlus

load = FieldModel.load

__all__ = [
    "DDIM", "AdaptiveODE", "Ancestral", "Angle", "AnnealedLangevin", "Automatic", "AutonomousProcess", "Basis",
    "Bound", "Calibrated", "Chain", "ChurnedHeun", "Clock", "Condition", "DPMSolver", "Decoded", "Denoiser",
    "EmpiricalDenoiser",
    "Estimate", "Euler", "EulerMaruyama", "ExactTrace", "ExponentialClock", "FieldData", "FieldModel",
    "GaussianDenoiser", "GaussianField", "GaussianScore", "Graph", "GraphBasis", "Grid", "Heun", "HutchPlusPlus",
    "Hutchinson", "IdentityBasis", "ImportanceWeights", "Karras", "Kernel", "LinearClock", "LinearProcess",
    "LinearRateClock", "LogLikelihood", "LogSNR", "LogSpaced", "MixtureDenoiser", "NetworkScore", "PhaseSpaceDDIM",
    "PhaseSpaceProcess", "Phi4Action", "PosteriorMean", "PredictorCorrector", "ReferencePath", "ReferenceSplitting",
    "ReverseModel", "SDEDPMSolver", "ScoreModel", "SemilinearProcess", "SimulatedPath", "Solver", "SpectralBasis",
    "Sphere", "SphereBasis", "TimeGrid", "TorchSDE", "Trajectory", "TransitionLoss", "Uniform", "WhitenedAdams",
    "bennett_free_energy", "bits_per_dimension", "continuous_elbo", "decode", "dequantise", "draw", "elbo",
    "encode", "find_action", "fit_clock", "importance_weights", "load", "load_fields", "log_likelihood", "register",
    "reverse_free_energy", "sample", "simulated_elbo", "with_drift",
]  # fmt: skip
