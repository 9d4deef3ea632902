r"""A network's denoiser around the reference law.

    D(y, t) = W(y, t) + κ_k(t) · N_θ(c_in(t) · R̄(y − mμ), t)

W is the Wiener filter, exact for the Gaussian part of the data, mode by mode. The network sees a field of unit
variance, c_in² = 1/mean V, in the frame that moves with the process, and adds what is not Gaussian, on the scale
κ² = mean cS/V of what the Wiener filter leaves unknown. Its last layer starts at zero: untrained, the model *is* the
Gaussian random field.

The skip is per mode. `mode_scaling` γ says how much of the network's scale is: κ_k = κ (√(cS/V)_k/κ)^γ. At 0 it is
one number per channel, at 1 the network's noise stays out of modes that are far weaker than κ; replacing the input by
its whitened version would hide from the network what is large and what is small. `whitened_input` therefore *adds* a
whitened copy, in which structure far below the largest scales is as visible as they are (`experiments/denoiser` has
the measurements).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from physdiff.basis import Basis
from physdiff.condition import Condition, Given
from physdiff.denoisers.calibration import Calibration
from physdiff.denoisers.posterior_mean import PosteriorMean
from physdiff.path import PathPoint, ReferencePath
from physdiff.simulated_path import SimulatedPoint


class Denoiser(PosteriorMean):
    """E[x₀ | x_t] by a network, residual to the reference.

    Args:
        network: `network(x, t, condition)`, from fields (batch, channels, *grid) of about unit variance and times
            (batch,) to fields of the same shape. Its output should start at zero.
        path: Process and reference.
        mode_scaling: γ ∈ [0, 1].
        whitened_input: Whether the network is given the whitened field too, as the first channels of its condition.

    Attributes:
        calibration: How far the denoiser is from the clean field, as measured (`physdiff.denoisers.calibrate`); None
            until it is. It scales `posterior_variance`.
    """

    def __init__(
        self, network: nn.Module, path: ReferencePath, mode_scaling: float = 0.0, whitened_input: bool = False
    ) -> None:
        super().__init__(path)
        if not 0 <= mode_scaling <= 1:
            raise ValueError(f"mode_scaling must lie in [0, 1]; got {mode_scaling}.")
        self.network = network
        self.mode_scaling = mode_scaling
        self.whitened_input = whitened_input
        self.calibration: Calibration | None = None

    def posterior_variance(self, modes: Tensor, t: Tensor, condition: Given | None = None) -> Tensor:
        if self.calibration is None:
            raise ValueError(
                "what this model does not know was not measured, so it has no learned variance: run "
                '`physdiff calibrate` or set denoiser.calibration, or take variance = "reference".'
            )
        point = self.path.at(t)
        return (self.calibration.at(point.time) * point.posterior_variance).to(modes).expand_as(modes)

    def residual(self, modes: Tensor, t: Tensor, condition: Given | None = None) -> Tensor:
        point = self.path.at(t)
        return self.output_scale(point).to(modes) * self.network_output(modes, point, t, condition)

    def network_output(self, modes: Tensor, point: PathPoint, t: Tensor, condition: Given | None = None) -> Tensor:
        """N_θ in modes: the residual in units of `output_scale`, shape and dtype of `modes`."""
        return network_in_modes(self.network, self.path.basis, modes, point, t, self.whitened_input, condition)

    def output_scale(self, point: PathPoint) -> Tensor:
        """κ_k, broadcasts against modes; zero outside the support."""
        support = self.path.reference.support
        overall = per_cell(self.path.basis, point.posterior_variance).sqrt()
        if self.mode_scaling == 0:
            return overall * support
        relative = point.posterior_variance.sqrt() / overall
        return torch.where(support, overall * relative.pow(self.mode_scaling), 0.0)


def network_in_modes(
    network: nn.Module,
    basis: Basis,
    modes: Tensor,
    point: PathPoint | SimulatedPoint,
    t: Tensor,
    whitened_input: bool,
    condition: Given | None = None,
) -> Tensor:
    """A network that acts on fields, as a map of modes: its input of unit variance, with a whitened copy if asked."""
    parameter = next(network.parameters(), None)
    dtype = modes.dtype if parameter is None else parameter.dtype
    input_scale = per_cell(basis, point.variance).rsqrt()
    field = basis.inverse(input_scale.to(modes) * point.deviation(modes)).to(dtype)
    if whitened_input:
        white = basis.inverse(point.whiten(modes)).to(dtype)
        condition = white if condition is None else Condition.of(condition).behind(white)
    times = torch.as_tensor(t, dtype=dtype, device=modes.device).expand(modes.shape[0])
    return basis.forward(network(field, times, condition).to(modes.dtype))


def per_cell(basis: Basis, variance: Tensor) -> Tensor:
    """Variance per cell of each channel, from the variance of its modes; broadcasts against modes."""
    return variance.mean(basis.axes, keepdim=True)
