r"""Exact denoisers: laws of data for which E[x₀ | x_t], the score and the density are closed forms.

They are oracles for solvers and likelihoods, and baselines for networks.
"""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor

from physdiff.basis import Basis
from physdiff.condition import Given
from physdiff.denoisers.posterior_mean import PosteriorMean
from physdiff.gaussian import GaussianField
from physdiff.path import PathPoint, ReferencePath


class GaussianDenoiser(PosteriorMean):
    """The denoiser of Gaussian data N(μ', c') that is diagonal in the basis; the reference's own law by default.

    Args:
        path: Process and reference.
        law: The law of the data; None for the reference itself, whose residual is zero.
    """

    def __init__(self, path: ReferencePath, law: GaussianField | None = None) -> None:
        super().__init__(path)
        self.law = law
        self._path_of_law = None if law is None else ReferencePath(path.process, law, path.t_min)

    def residual(self, modes: Tensor, t: Tensor, condition: Given | None = None) -> Tensor:
        if self._path_of_law is None:
            return torch.zeros_like(modes)
        return self._path_of_law.at(t).wiener(modes) - self.path.at(t).wiener(modes)

    def posterior_variance(self, modes: Tensor, t: Tensor, condition: Given | None = None) -> Tensor:
        path = self.path if self._path_of_law is None else self._path_of_law
        return path.at(t).posterior_variance.to(modes).expand_as(modes)


class MixtureDenoiser(PosteriorMean):
    r"""The denoiser of a Gaussian mixture Σ_j w_j N(μ_j, c_j) with components diagonal in the basis.

    Modes are correlated through the mixture, and non-Gaussian: the smallest law on which a wrong residual shows.

    Args:
        path: Process and reference.
        weights: w, shape (components,), positive; normalised to sum 1.
        means: μ_j in modes, shape (components, channels, *grid).
        spectra: c_j ≥ 0, shape (components, channels, *grid); zero for point masses.
    """

    def __init__(self, path: ReferencePath, weights: Tensor, means: Tensor, spectra: Tensor) -> None:
        super().__init__(path)
        self.log_weights = torch.log(weights.to(torch.float64) / weights.sum())
        support = path.reference.support
        self.means = torch.where(support, means.to(torch.float64), path.reference.mean)
        self.spectra = torch.where(support, spectra.to(torch.float64), 0.0)

    @staticmethod
    def reference(basis: Basis, weights: Tensor, means: Tensor, spectra: Tensor) -> GaussianField:
        """The Gaussian with the mixture's mean and its variance per mode."""
        w = (weights / weights.sum()).to(torch.float64).reshape(-1, *[1] * (means.ndim - 1))
        mean = (w * means).sum(0)
        spectrum = (w * (spectra + (means - mean).square())).sum(0)
        return GaussianField(basis, mean, basis.symmetrise(spectrum))

    @classmethod
    def around_itself(cls, process: object, weights: Tensor, means: Tensor, spectra: Tensor, t_min: float) -> Self:
        """The mixture with its own moments as the reference."""
        reference = cls.reference(process.basis, weights, means, spectra)  # type: ignore[attr-defined]
        return cls(ReferencePath(process, reference, t_min), weights, means, spectra)  # type: ignore[arg-type]

    def _components(self, modes: Tensor, point: PathPoint) -> tuple[Tensor, Tensor, Tensor]:
        """Log of weight × density of each component, (batch, K), and its E[y₀ | y] and Var[y₀ | y], (batch, K, ...)."""
        support = self.path.reference.support
        amplitude, noise = (_with_component_axis(x, modes) for x in (point.amplitude, point.noise_variance))
        means = self.means
        u = point.deviation(modes)  # co-moving deviation from the reference's mean
        shifted = u.unsqueeze(1) - amplitude * torch.where(support, means - self.path.reference.mean, 0.0)
        variance = torch.where(support, amplitude.square() * self.spectra + noise, 1.0)
        quadratic = torch.where(support, shifted.square() / variance + torch.log(variance), 0.0)
        joint = self.log_weights - 0.5 * quadratic.flatten(2).sum(2)
        return joint, means + amplitude * self.spectra / variance * shifted, self.spectra * noise / variance

    def residual(self, modes: Tensor, t: Tensor, condition: Given | None = None) -> Tensor:
        point = self.path.at(t)
        joint, posterior, _ = self._components(modes, point)
        expected = (_shares(joint, modes) * posterior).sum(1) - point.wiener(modes)
        return torch.where(self.path.reference.support, expected, 0.0)

    def posterior_variance(self, modes: Tensor, t: Tensor, condition: Given | None = None) -> Tensor:
        joint, posterior, within = self._components(modes, self.path.at(t))
        share = _shares(joint, modes)
        between = posterior - (share * posterior).sum(1, keepdim=True)
        return torch.where(self.path.reference.support, (share * (within + between.square())).sum(1), 0.0)

    def log_prob(self, modes: Tensor, t: float) -> Tensor:
        """log p_t of modes, exact, in nats on the support, shape (batch, channels, *grid) to (batch,)."""
        joint, _, _ = self._components(modes, self.path.at(t))
        return torch.logsumexp(joint, 1) - 0.5 * self.path.reference.n_support * math.log(2 * math.pi)

    def sample_modes(self, n: int, generator: torch.Generator) -> Tensor:
        """Clean modes, shape (n, channels, *grid)."""
        which = torch.multinomial(self.log_weights.exp(), n, replacement=True, generator=generator)
        noise = torch.randn((n, *self.means.shape[1:]), generator=generator, dtype=torch.float64)
        return self.means[which] + self.spectra[which].sqrt() * noise


class EmpiricalDenoiser(MixtureDenoiser):
    """The denoiser of a finite data set, each field with equal weight: a softmax over the data.

    What a network of unlimited capacity learns from that data; sampling with it returns the data.

    Args:
        path: Process and reference.
        fields: The data, shape (n, channels, *grid).
    """

    def __init__(self, path: ReferencePath, fields: Tensor) -> None:
        modes = path.basis.forward(fields.to(torch.float64))
        super().__init__(path, torch.ones(len(fields), dtype=torch.float64), modes, torch.zeros_like(modes))


def _shares(joint: Tensor, modes: Tensor) -> Tensor:
    """Posterior weight of each component, ready to broadcast against (batch, components, channels, *grid)."""
    return torch.softmax(joint, 1).reshape(*joint.shape, *[1] * (modes.ndim - 1))


def _with_component_axis(x: Tensor, modes: Tensor) -> Tensor:
    """A coefficient ready to broadcast against (batch, components, channels, *grid)."""
    return x.unsqueeze(1) if x.ndim == modes.ndim else x
