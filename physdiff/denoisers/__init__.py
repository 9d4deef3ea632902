"""Denoisers E[x₀ | x_t]: a network around the reference, and exact ones; scores of simulated processes."""

from physdiff.denoisers.calibration import Calibration, calibrate
from physdiff.denoisers.denoiser import Denoiser
from physdiff.denoisers.exact import EmpiricalDenoiser, GaussianDenoiser, MixtureDenoiser
from physdiff.denoisers.guided import Guided, GuidedScore, guided
from physdiff.denoisers.learned_variance import LearnedVariance
from physdiff.denoisers.posterior_mean import PosteriorMean
from physdiff.denoisers.reverse_model import ReverseModel
from physdiff.denoisers.score import GaussianScore, NetworkScore, ScoreModel

__all__ = [
    "Calibration", "Denoiser", "EmpiricalDenoiser", "GaussianDenoiser", "GaussianScore", "Guided", "GuidedScore",
    "LearnedVariance", "MixtureDenoiser", "NetworkScore", "PosteriorMean", "ReverseModel", "ScoreModel", "calibrate",
    "guided",
]  # fmt: skip
