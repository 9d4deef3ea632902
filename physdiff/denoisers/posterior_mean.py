r"""What every denoiser is: E[x₀ | x_t], split into the Wiener filter and a residual.

A subclass states only the residual r = E[y₀ | y] − W(y) in modes; it is zero when data and reference are the same
Gaussian. Everything a solver, a likelihood or a user needs follows from it by Tweedie's formula,
m E[y₀ | y] = y + S · score.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from physdiff.condition import Given
from physdiff.denoisers.reverse_model import ReverseModel, per_row
from physdiff.path import ReferencePath


@dataclass(frozen=True)
class Posterior:
    """What a model says of the clean field in some states, by one evaluation.

    Attributes:
        residual: E[y₀ | y] − W(y), shape (batch, channels, *grid).
        unknown: U = Var[y₀ | y] of each mode, of the same shape. A step to s > 0 adds |B|²U to the bridge's β̃.
        share: How far the variance of such a step lies from β̃ (0) to Σ (1) in log variance instead, for a model that
            says this; of the same shape.
    """

    residual: Tensor
    unknown: Tensor
    share: Tensor | None = None


class PosteriorMean(ReverseModel):
    """E[x₀ | x_t] under some law of the data.

    Args:
        path: The process and the reference law around which the residual is taken.
    """

    path: ReferencePath

    def __init__(self, path: ReferencePath) -> None:
        super().__init__(path)

    @abstractmethod
    def residual(self, modes: Tensor, t: Tensor, condition: Given | None = None) -> Tensor:
        """r = E[y₀ | y] − W(y), zero outside the support.

        Args:
            modes: y at time t, shape (batch, channels, *grid).
            t: Time in (0, 1], shape () or (batch,).
            condition: What the law is conditioned on, if anything.
        """

    def velocity(self, z: Tensor, time: Tensor, condition: Given | None = None) -> Tensor:
        time = per_row(time, z)
        point = self.path.at_time(time)
        rate = (time * point.pull_rate).to(z)
        t = self.path.clock.inverse(time).reshape(time.shape[:1])
        return rate * self.residual(point.unwhiten(z), t, condition)

    def move(self, modes: Tensor, t: Tensor, s: Tensor, condition: Given | None = None) -> Tensor:
        residual = self.residual(modes, t, condition)
        return self.path.at(t).push(self.path.at(s)).to(residual) * residual

    def posterior_variance(self, modes: Tensor, t: Tensor, condition: Given | None = None) -> Tensor:
        """Var[y₀ | y] of each mode, zero outside the support, shape of `modes`; arguments as for `residual`.

        The reference's cS/V, unless a subclass knows its law's own.
        """
        return self.path.at(t).posterior_variance.to(modes).expand_as(modes)

    def posterior(self, modes: Tensor, t: Tensor, condition: Given | None = None) -> Posterior:
        """Residual and variance together, for a model that knows both from one evaluation; arguments as `residual`."""
        return Posterior(self.residual(modes, t, condition), self.posterior_variance(modes, t, condition))

    def forward(self, x: Tensor, t: Tensor, condition: Given | None = None) -> Tensor:
        """E[x₀ | x_t], fields of shape (batch, channels, *grid) at t of shape () or (batch,)."""
        y = self.path.basis.forward(x)
        return self.path.basis.inverse(self.path.at(t).wiener(y) + self.residual(y, t, condition))

    def score(self, x: Tensor, t: Tensor, condition: Given | None = None) -> Tensor:
        """∇ log p_t(x), on the support, shape as x: −R(y − mμ)/V from the reference plus m r/S."""
        basis, point = self.path.basis, self.path.at(t)
        y = basis.forward(x)
        support = self.path.reference.support
        inverse_variance = torch.where(support, 1 / torch.where(support, point.variance, 1.0), 0.0)
        weight = torch.where(support, point.amplitude / torch.where(support, point.noise_variance, 1.0), 0.0)
        comoving = weight.to(y) * self.residual(y, t, condition) - inverse_variance.to(y) * point.deviation(y)
        return basis.inverse(point.rotate(comoving))

    def epsilon(self, x: Tensor, t: Tensor, condition: Given | None = None) -> Tensor:
        """E[ε | x_t], the expected unit noise (in modes −√S · score), shape as x."""
        basis = self.path.basis
        root = self.path.at(t).noise_variance.sqrt()
        score = basis.forward(self.score(x, t, condition))
        return basis.inverse(-root.to(score) * score)
