"""Denoisers E[x₀ | x_t]: a network around the reference, and exact ones."""

from physdiff.denoisers.denoiser import Denoiser
from physdiff.denoisers.exact import EmpiricalDenoiser, GaussianDenoiser, MixtureDenoiser
from physdiff.denoisers.posterior_mean import PosteriorMean

__all__ = ["Denoiser", "EmpiricalDenoiser", "GaussianDenoiser", "MixtureDenoiser", "PosteriorMean"]
