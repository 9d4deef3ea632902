r"""A network's denoiser around the reference law.

    D(y, t) = μ + skip·u + out·N_θ(c_in(t)·u, t),    u = R̄(y − mμ)

The network sees a field of unit variance, c_in² = 1/mean V, in the frame that moves with the process. What it is asked
for is a `Prediction`; by default the residual,

    D(y, t) = W(y, t) + κ_k(t) · N_θ(c_in(t)·u, t).

W is the Wiener filter, exact for the Gaussian part of the data, mode by mode, and the network adds what is not
Gaussian, on the scale κ² = mean cS/V of what the Wiener filter leaves unknown. Its last layer starts at zero:
untrained, the model *is* the Gaussian random field. With another prediction an untrained model is what that prediction
says with zeros.

The skip is per mode. `mode_scaling` γ says how much of the network's scale is: κ_k = κ (√(cS/V)_k/κ)^γ. At 0 it is
one number per channel, at 1 the network's noise stays out of modes that are far weaker than κ; replacing the input by
its whitened version would hide from the network what is large and what is small. `whitened_input` therefore *adds* a
whitened copy, in which structure far below the largest scales is as visible as they are (`experiments/denoiser` has
the measurements).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from physdiff.basis import Basis
from physdiff.condition import Given
from physdiff.denoisers.calibration import Calibration
from physdiff.denoisers.learned_variance import LearnedVariance, VarianceHead
from physdiff.denoisers.posterior_mean import Posterior, PosteriorMean
from physdiff.denoisers.prediction import Prediction, Residual, per_cell, prediction_of
from physdiff.path import PathPoint, ReferencePath
from physdiff.simulated_path import SimulatedPoint


@dataclass(frozen=True, eq=False)
class Answer:
    """What a network said.

    Attributes:
        output: N in modes, shape (batch, channels, *grid).
        extra: Its further outputs as fields, shape (batch, extra_channels, *grid).
    """

    output: Tensor
    extra: Tensor


class Denoiser(PosteriorMean):
    """E[x₀ | x_t] by a network, residual to the reference.

    Args:
        network: `network(x, t, condition)`, from fields (batch, channels, *grid) of about unit variance and times
            (batch,) to fields of the same shape, and of further channels for a learned variance. Its output should
            start at zero.
        path: Process and reference.
        mode_scaling: γ ∈ [0, 1], of the prediction "residual"; the others have none.
        whitened_input: Whether the network is given the whitened field too, as channels after those of the field.
        prediction: What the network is asked for: "residual", "x0", "epsilon", "v", "score", "mean", or one of
            `physdiff.denoisers.prediction` with its settings.
        learned_variance: How further outputs of the network are read as a variance; None where it has none.

    Attributes:
        calibration: How far the denoiser is from the clean field, as measured (`physdiff.denoisers.calibrate`); None
            until it is. It scales `posterior_variance` where no variance was learned.
    """

    def __init__(
        self,
        network: nn.Module,
        path: ReferencePath,
        mode_scaling: float = 0.0,
        whitened_input: bool = False,
        prediction: str | Prediction = "residual",
        learned_variance: LearnedVariance | None = None,
    ) -> None:
        super().__init__(path)
        scaling = Residual(mode_scaling)
        self.network = network
        self.whitened_input = whitened_input
        self.prediction = prediction_of(prediction, mode_scaling=mode_scaling)
        told = self.prediction if isinstance(self.prediction, Residual) else scaling
        self.mode_scaling = told.mode_scaling
        self.learned_variance = learned_variance
        self._head = None if learned_variance is None else VarianceHead(learned_variance, path.reference)
        self.calibration: Calibration | None = None

    def posterior_variance(self, modes: Tensor, t: Tensor, condition: Given | None = None) -> Tensor:
        if self._head is not None:
            return self.posterior(modes, t, condition).unknown
        if self.calibration is None:
            raise ValueError(
                "what this model does not know was not measured, so it has no learned variance: run "
                '`physdiff calibrate` or set denoiser.calibration, or take variance = "reference".'
            )
        point = self.path.at(t)
        return (self.calibration.at(point.time) * point.posterior_variance).to(modes).expand_as(modes)

    def posterior(self, modes: Tensor, t: Tensor, condition: Given | None = None) -> Posterior:
        if self._head is None:
            return super().posterior(modes, t, condition)
        point = self.path.at(t)
        deviation = point.deviation(modes)
        answer = self.answer(deviation, point, t, condition)
        residual = self.prediction.rows(point, torch.as_tensor(t)).residual(deviation, answer.output)
        return self._head.posterior(residual, answer.extra, point)

    def residual(self, modes: Tensor, t: Tensor, condition: Given | None = None) -> Tensor:
        point = self.path.at(t)
        deviation = point.deviation(modes)
        output = self.answer(deviation, point, t, condition).output
        return self.prediction.rows(point, torch.as_tensor(t)).residual(deviation, output)

    def answer(self, deviation: Tensor, point: PathPoint, t: Tensor, condition: Given | None = None) -> Answer:
        """What the network says of deviations u in modes, shape (batch, channels, *grid), at t, () or (batch,)."""
        said = _ask(self.network, self.path.basis, deviation, point, t, self.whitened_input, condition)
        channels = deviation.shape[1]
        return Answer(self.path.basis.forward(said[:, :channels].to(deviation.dtype)), said[:, channels:])

    def network_output(self, modes: Tensor, point: PathPoint, t: Tensor, condition: Given | None = None) -> Tensor:
        """N_θ in modes y, shape and dtype of `modes`: the residual in units of `output_scale` if that is predicted."""
        return self.answer(point.deviation(modes), point, t, condition).output

    def output_scale(self, point: PathPoint) -> Tensor:
        """κ_k, broadcasts against modes; zero outside the support."""
        return Residual(self.mode_scaling).unit(point)


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
    said = _ask(network, basis, point.deviation(modes), point, t, whitened_input, condition)
    return basis.forward(said.to(modes.dtype))


def _ask(
    network: nn.Module,
    basis: Basis,
    deviation: Tensor,
    point: PathPoint | SimulatedPoint,
    t: Tensor,
    whitened_input: bool,
    condition: Given | None,
) -> Tensor:
    """The network's fields for deviations in modes."""
    parameter = next(network.parameters(), None)
    dtype = deviation.dtype if parameter is None else parameter.dtype
    seen = per_cell(basis, point.variance).rsqrt().to(deviation) * deviation
    if whitened_input:
        seen = torch.cat((seen, _whitening(point).to(deviation) * deviation), dim=1)
    field = basis.inverse(seen).to(dtype)
    times = torch.as_tensor(t, dtype=dtype, device=deviation.device).expand(len(deviation))
    return network(field, times, condition)


def _whitening(point: PathPoint | SimulatedPoint) -> Tensor:
    """1/√V, 1 outside the support."""
    if isinstance(point, PathPoint):
        return point.whitening
    return torch.where(point.path.reference.support, point.variance, 1.0).rsqrt()
