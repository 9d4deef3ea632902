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
from physdiff.objectives.times import Times, TimeSampling, time_samplings
from physdiff.objectives.transition import TransitionLoss
from physdiff.objectives.variational import VariationalLoss
from physdiff.objectives.weighting import Weighting, weightings

__all__ = [
    "ChainLevels",
    "ContinuousVariationalLoss",
    "DenoisingLoss",
    "Evaluated",
    "HybridLoss",
    "ImplicitScoreLoss",
    "LikelihoodImportance",
    "LogNormal",
    "LossSecondMoment",
    "NoiseLevelsLoss",
    "Objective",
    "SlicedScoreLoss",
    "TargetScoreLoss",
    "TimeSampling",
    "Times",
    "TransitionLoss",
    "VariationalLoss",
    "Weighting",
    "objectives",
    "time_samplings",
    "weightings",
]
