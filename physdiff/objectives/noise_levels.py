r"""Denoising score matching over noise levels, as noise-conditional score networks are trained.

    ½ E λ(σ) |s(x̃, σ) + (x̃ − x)/σ²|²,      λ(σ) = σ²,      σ one of σ_1 ... σ_K, equally often      (eq. 5, 6)

With any linear process in the place of x̃ = x + σ ε the target is −ε/√S per mode, and in units of the noise

    L = (1/n) Σ_k |√S s + ε|²_k = (1/n) Σ_k (|m|²/S) |D − y_0|²_k,        n modes of the support,

by Tweedie's formula: the error of the denoiser weighted by the signal-to-noise ratio m²/S, which is the error of the
predicted noise. It is the same number whatever the network predicts; Song and Ermon's predicts the score. A Gaussian
field scores 1 − mean of S/V, which is near 1 where there is little noise and near 0 where there is much.

Source: Song and Ermon (2019); Vincent (2011) for the target.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from physdiff.condition import Given
from physdiff.denoisers.posterior_mean import PosteriorMean
from physdiff.objectives.noise_units import NoiseUnits
from physdiff.objectives.objective import Objective, objectives, require_probability
from physdiff.objectives.times import Levels, Times, TimeSampling, time_samplings
from physdiff.randomness import RowDraws
from physdiff.schedules import TableClock


@time_samplings.register
@dataclass(frozen=True)
class ChainLevels(TimeSampling):
    """The levels of the chain that the process runs along, all equally often; stratified over the batch."""

    def draw(self, path: Any, draws: RowDraws) -> Times:
        if not isinstance(path.clock, TableClock):
            raise ValueError(
                f"the process runs along a {type(path.clock).__name__}, which has no levels: make a chain of it "
                "(physdiff.Chain), or say how many with times = Levels(100), in words {name: levels, steps: 100}."
            )
        return Levels(path.clock.steps).draw(path, draws)


@objectives.register
@dataclass(frozen=True)
class NoiseLevelsLoss(Objective):
    """Denoising score matching over discrete noise levels.

    Attributes:
        times: The levels: those of the process's own chain (`Chain.ncsn` has Song and Ermon's), or `Levels(steps)` at
            t = 1/K, 2/K ... 1, which the default clock spaces evenly in log noise.
        drop_condition: Probability with which a row in training is not told its condition.
    """

    times: TimeSampling = ChainLevels()
    drop_condition: float = 0.0

    def __post_init__(self) -> None:
        require_probability(self, "drop_condition")

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return (cls(Levels(10)),)

    def at(
        self, model: PosteriorMean, x: Tensor, t: Tensor, draws: torch.Generator | RowDraws,
        condition: Given | None = None,
    ) -> Tensor:  # fmt: skip
        path = model.path
        point = path.at(t)
        units = NoiseUnits(point)
        clean = path.basis.forward(x.to(torch.float64))
        noise = RowDraws.of(draws, len(x)).normal(*x.shape[1:]).to(clean)
        noisy = point.with_noise(clean, noise)
        score = units.remainder(model.residual(noisy, t, condition)) - units.noise_share.to(clean) * units.of(noisy)
        error = torch.where(path.reference.support.to(clean.device), score + noise, 0.0)
        return error.square().flatten(1).sum(1) / path.reference.n_support
