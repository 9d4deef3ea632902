"""What training minimises."""

from physdiff.objectives.adaptive_times import LossSecondMoment
from physdiff.objectives.continuous import ContinuousVariationalLoss
from physdiff.objectives.denoising import DenoisingLoss
from physdiff.objectives.hybrid import HybridLoss
from physdiff.objectives.implicit import ImplicitScoreLoss
from physdiff.objectives.noise_levels import ChainLevels, NoiseLevelsLoss
from physdiff.objectives.objective import Evaluated, Objective, objectives
from physdiff.objectives.sliced import SlicedScoreLoss
from physdiff.objectives.tabulated_times import LikelihoodImportance, LogNormal
from physdiff.objectives.target import TargetScoreLoss
from physdiff.objectives.times import Levels, Stratified, Times, TimeSampling, Uniform, time_samplings
from physdiff.objectives.transition import TransitionLoss
from physdiff.objectives.variational import VariationalLoss
from physdiff.objectives.weighting import (
    EDM,
    SNR,
    Elbo,
    Likelihood,
    MinSNR,
    ModeLikelihood,
    Relative,
    Simple,
    Weighting,
    weightings,
)

__all__ = [
    "EDM",
    "SNR",
    "ChainLevels",
    "ContinuousVariationalLoss",
    "DenoisingLoss",
    "Elbo",
    "Evaluated",
    "HybridLoss",
    "ImplicitScoreLoss",
    "Levels",
    "Likelihood",
    "LikelihoodImportance",
    "LogNormal",
    "LossSecondMoment",
    "MinSNR",
    "ModeLikelihood",
    "NoiseLevelsLoss",
    "Objective",
    "Relative",
    "Simple",
    "SlicedScoreLoss",
    "Stratified",
    "TargetScoreLoss",
    "TimeSampling",
    "Times",
    "TransitionLoss",
    "Uniform",
    "VariationalLoss",
    "Weighting",
    "objectives",
    "time_samplings",
    "weightings",
]
