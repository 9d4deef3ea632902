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
from physdiff.data import (
    EpochSampler,
    FieldData,
    FieldDataset,
    FieldSet,
    Layout,
    Selection,
    Split,
    Standardise,
    duplicates,
    load_fields,
    open_fields,
    open_splits,
    source_of,
)
from physdiff.decoding import Decoded, decode, draw, encode
from physdiff.denoisers import (
    Denoiser,
    EmpiricalDenoiser,
    GaussianDenoiser,
    GaussianScore,
    Guided,
    LearnedVariance,
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
from physdiff.model import FieldModel, NetworkSettings, build_network
from physdiff.networks import Backbone, DiffusionTransformer, UNet
from physdiff.objectives import (
    ContinuousVariationalLoss,
    DenoisingLoss,
    HybridLoss,
    ImplicitScoreLoss,
    NoiseLevelsLoss,
    Objective,
    SlicedScoreLoss,
    TargetScoreLoss,
    TransitionLoss,
    VariationalLoss,
)
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
from physdiff.training import TrainResult, TrainSettings, train

load = FieldModel.load

__all__ = [
    "DDIM", "AdaptiveODE", "Ancestral", "Angle", "AnnealedLangevin", "Automatic", "AutonomousProcess", "Backbone",
    "Basis", "Bound", "Calibrated", "Chain", "ChurnedHeun", "Clock", "Condition", "ContinuousVariationalLoss",
    "DPMSolver", "Decoded", "Denoiser", "DenoisingLoss", "DiffusionTransformer", "EmpiricalDenoiser",
    "EpochSampler", "Estimate", "Euler", "EulerMaruyama", "ExactTrace", "ExponentialClock", "FieldData",
    "FieldDataset", "FieldModel", "FieldSet", "GaussianDenoiser", "GaussianField", "GaussianScore", "Graph",
    "GraphBasis", "Grid", "Guided", "Heun", "HutchPlusPlus", "Hutchinson", "HybridLoss", "IdentityBasis",
    "ImplicitScoreLoss", "ImportanceWeights", "Karras", "Kernel", "Layout", "LearnedVariance", "LinearClock",
    "LinearProcess", "LinearRateClock", "LogLikelihood", "LogSNR", "LogSpaced", "MixtureDenoiser", "NetworkScore",
    "NetworkSettings", "NoiseLevelsLoss", "Objective", "PhaseSpaceDDIM", "PhaseSpaceProcess", "Phi4Action",
    "PosteriorMean", "PredictorCorrector", "ReferencePath", "ReferenceSplitting", "ReverseModel", "SDEDPMSolver",
    "ScoreModel", "Selection", "SemilinearProcess", "SimulatedPath", "SlicedScoreLoss", "Solver", "SpectralBasis",
    "Sphere", "SphereBasis", "Split", "Standardise", "TargetScoreLoss", "TimeGrid", "TorchSDE", "TrainResult",
    "TrainSettings", "Trajectory", "TransitionLoss", "UNet", "Uniform", "VariationalLoss", "WhitenedAdams",
    "bennett_free_energy", "bits_per_dimension", "build_network", "continuous_elbo", "decode", "dequantise", "draw",
    "duplicates", "elbo", "encode", "find_action", "fit_clock", "importance_weights", "load", "load_fields",
    "log_likelihood", "open_fields", "open_splits", "register", "reverse_free_energy", "sample", "simulated_elbo",
    "source_of", "train", "with_drift",
]  # fmt: skip
