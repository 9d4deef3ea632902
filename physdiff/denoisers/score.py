r"""Scores of simulated processes.

    score = (−z + h)/√V,   z = (y − μ)/√V,     h = s_k(τ) · N_θ

h is zero for a Gaussian field. Noise bounds it: with S the noise that the linear part alone has received the score of
y | x_0 is of the size 1/√S, hence the scale s² = |V − S|/S. It is the scale of a linear denoiser as well: there
h = √V m r/S with r of the size √(cS/V), and V − S = m²c.

The probability flow dy/dτ = A y + N(y) − ½ n · score, in whitened coordinates, is

    dz/dτ = V^{−½} [A y + N(y) − dμ/dτ] + ½ (n/V)(z − h) − ½ (d log V/dτ) z.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from physdiff.condition import Given
from physdiff.denoisers.denoiser import network_in_modes
from physdiff.denoisers.reverse_model import ReverseModel, per_row
from physdiff.simulated_path import SimulatedPath, SimulatedPoint

SMALLEST_SCALE = 0.05  # of the correction, where V is that of the linear noise alone and yet not all is Gaussian


class ScoreModel(ReverseModel):
    """∇ log p_τ under a simulated process, split into the Gaussian part and a correction.

    Args:
        path: Process, reference and moments.
    """

    path: SimulatedPath

    def __init__(self, path: SimulatedPath) -> None:
        super().__init__(path)

    @abstractmethod
    def correction(self, modes: Tensor, t: Tensor, condition: Given | None = None) -> Tensor:
        """h = √V · score + z in modes, zero outside the support.

        Args:
            modes: y at time t, shape (batch, channels, *grid).
            t: Time in [t_min, 1], shape () or (batch,).
            condition: What the law is conditioned on, if anything.
        """

    def score(self, x: Tensor, t: Tensor, condition: Given | None = None) -> Tensor:
        """∇ log p_t(x) on the support, fields of shape (batch, channels, *grid) to the same."""
        basis, point = self.path.basis, self.path.at(t)
        y = basis.forward(x)
        support = self.path.reference.support
        scale = torch.where(support, torch.where(support, point.variance, 1.0).rsqrt(), 0.0)
        return basis.inverse(scale.to(y) * (self.correction(y, t, condition) - point.whiten(y)))

    def velocity(self, z: Tensor, time: Tensor, condition: Given | None = None) -> Tensor:
        time = per_row(time, z)
        point = self.path.at_time(time)
        modes = point.unwhiten(z)
        t = self.path.clock.inverse(time).reshape(time.shape[:1])
        correction = self.correction(modes, t, condition)
        return self._velocity(z, modes, correction, point)

    def _velocity(self, z: Tensor, modes: Tensor, correction: Tensor, point: SimulatedPoint) -> Tensor:
        """dz/dlog τ."""
        process, support = self.path.process, self.path.reference.support
        variance = torch.where(support, point.variance, 1.0)
        noise = (0.5 * point.time * process.noise_spectrum() / variance).to(z)
        drift = self.path.basis.apply(process.drift_symbol().to(z.device), modes)
        if point.time.ndim == 0:
            drift = drift + process.reaction_of_modes(modes, point.time, support)
        else:  # a reaction knows one time
            pairs = zip(modes.split(1), point.time.flatten(), strict=True)
            drift = drift + torch.cat([process.reaction_of_modes(y, time, support) for y, time in pairs])
        moved = (point.time * drift - point.mean_rate.to(z)) / variance.sqrt().to(z)
        rate = moved + noise * (z - correction) - 0.5 * point.log_variance_rate.to(z) * z
        return torch.where(support.to(z.device), rate, 0.0)

    def move(self, modes: Tensor, t: Tensor, s: Tensor, condition: Given | None = None) -> Tensor:
        here, there = self.path.at(t), self.path.at(s)
        rate = self._velocity(here.whiten(modes), modes, self.correction(modes, t, condition), here)
        if s == 0:  # log τ has no end; τ has
            return -rate
        return (there.time.log() - here.time.log()) * rate


class GaussianScore(ScoreModel):
    """The score of the Gaussian fields with the measured moments: what an untrained model is."""

    def correction(self, modes: Tensor, t: Tensor, condition: Given | None = None) -> Tensor:
        return torch.zeros_like(modes)


class NetworkScore(ScoreModel):
    """The score by a network around the Gaussian part.

    Args:
        network: As for `Denoiser`; its output should start at zero.
        path: Process, reference and moments.
        whitened_input: Whether the network is given the whitened field too, as channels after those of the field.
    """

    mode_scaling = 1.0  # the scale is per mode; named as in `Denoiser`

    def __init__(self, network: nn.Module, path: SimulatedPath, whitened_input: bool = True) -> None:
        super().__init__(path)
        self.network = network
        self.whitened_input = whitened_input

    def correction(self, modes: Tensor, t: Tensor, condition: Given | None = None) -> Tensor:
        point = self.path.at(t)
        shape = network_in_modes(self.network, self.path.basis, modes, point, t, self.whitened_input, condition)
        return self.output_scale(point).to(modes) * shape

    def output_scale(self, point: SimulatedPoint) -> Tensor:
        """s_k, broadcasts against modes; zero outside the support."""
        support = self.path.reference.support
        noise = torch.where(support, point.noise_variance, 1.0)
        excess = (point.variance - noise).abs() / noise + SMALLEST_SCALE**2
        return torch.where(support, excess.sqrt(), 0.0)
