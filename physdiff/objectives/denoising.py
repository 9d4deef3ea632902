r"""Denoising loss: the squared error of E[x₀ | x_t] in units of what the Wiener filter leaves unknown.

    L = Σ_k |(D(y_t, t) − y_0)_k / κ_k|² / Σ_k (cS/V)_k / κ_k²,   t uniform (equal shares of log noise by default)

The exact posterior mean minimises it at every t, whatever κ is. The Wiener filter scores 1 on average: below 1 is
structure that a Gaussian field does not have.
"""

from __future__ import annotations

import torch
from torch import Tensor

from physdiff.condition import Given
from physdiff.denoisers.denoiser import Denoiser
from physdiff.randomness import RowDraws


class DenoisingLoss:
    """Denoising error over random times, drawn stratified over the batch.

    Called with a denoiser, clean fields of shape (batch, channels, *grid) in the model's units and a generator;
    returns the loss of each sample, shape (batch,).
    """

    def __call__(
        self, denoiser: Denoiser, x: Tensor, draws: torch.Generator | RowDraws, condition: Given | None = None
    ) -> Tensor:
        draws = RowDraws.of(draws, len(x))
        t = denoiser.path.t_min + (1 - denoiser.path.t_min) * draws.stratified()
        return self.at(denoiser, x, t, draws, condition)

    def at(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, draws: torch.Generator | RowDraws,
        condition: Given | None = None,
    ) -> Tensor:  # fmt: skip
        """The loss of each sample at given times, t of shape (batch,)."""
        path = denoiser.path
        clean = path.basis.forward(x.to(torch.float64))
        point = path.at(t)
        noisy = point.with_noise(clean, RowDraws.of(draws, len(x)).normal(*x.shape[1:]).to(clean))
        on = path.reference.support
        scale = torch.where(on, denoiser.output_scale(point), 1.0)
        target = torch.where(on, (clean - point.wiener(noisy)) / scale, 0.0)
        error = denoiser.network_output(noisy, point, t, condition) * on - target
        expected = (point.posterior_variance / scale.square()).flatten(1).sum(1)
        return error.square().flatten(1).sum(1) / expected
