r"""Sliced score matching: implicit score matching along random directions.

With random v, E[vvᵀ] = 1, drawn in the modes and in units of the noise (`NoiseUnits`),

    plain               E[ ½ (v·s)² + v·∂s v ]                                               (Song et al. 2019, eq. 8)
    variance reduced    E[ ½ |s|² + v·∂s v ]                                                 (eq. 9)

The second takes the mean of (v·s)² over v, which is known for these v; with signs for v it is implicit score matching
with Hutchinson's trace. As there, s = −b + g, and the reference's own part is put in by its mean: what is estimated is

    plain               L = 1 + (2/n) [ ½ (v·g)² − (v·b)(v·g) + v·∂g v ]
    variance reduced    L = 1 + (2/n) [ ½ |g|² − b·g + v·∂g v ]

averaged over the slices; an untrained model scores exactly 1. Signs are the better slices: of v·∂g v only what couples
two modes is then random.

Source: Song, Garg, Shi and Ermon (2019).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Self, get_args

import torch
from torch import Tensor

from physdiff.condition import Given
from physdiff.denoisers.posterior_mean import PosteriorMean
from physdiff.objectives.implicit import Noised, require_count
from physdiff.objectives.objective import Objective, objectives, require_probability
from physdiff.objectives.times import Stratified, TimeSampling
from physdiff.randomness import RowDraws
from physdiff.registry import nearest
from physdiff.trace import Hutchinson

Projections = Literal["signs", "normal"]


@objectives.register
@dataclass(frozen=True)
class SlicedScoreLoss(Objective):
    """Sliced score matching of noised fields over random times.

    Attributes:
        slices: Random directions for each field.
        variance_reduced: Whether the mean over directions is taken of what it is known of.
        projections: "signs" or "normal" directions.
        times: How t is drawn.
        drop_condition: Probability with which a row in training is not told its condition.
    """

    slices: int = 1
    variance_reduced: bool = True
    projections: Projections = "signs"
    times: TimeSampling = field(default_factory=Stratified)
    drop_condition: float = 0.0

    def __post_init__(self) -> None:
        if self.projections not in get_args(Projections):
            raise ValueError(
                f"SlicedScoreLoss: unknown projections '{self.projections}'. "
                f"{nearest(self.projections, get_args(Projections))}"
            )
        require_count("SlicedScoreLoss", "slices", self.slices)
        require_probability(self, "drop_condition")

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return (cls(), cls(2, False), cls(1, True, "normal"))

    def at(
        self, model: PosteriorMean, x: Tensor, t: Tensor, draws: torch.Generator | RowDraws,
        condition: Given | None = None,
    ) -> Tensor:  # fmt: skip
        draws = RowDraws.of(draws, len(x))
        noised = Noised.draw(model, x, t, draws, condition)
        draw = draws.signs if self.projections == "signs" else draws.normal
        v = draw(self.slices, *x.shape[1:]).to(noised.w) * model.path.reference.support.to(noised.w.device)
        g, curvature = noised.remainder(Hutchinson(self.slices), v)
        b = noised.reference
        if self.variance_reduced:
            return noised.loss(0.5 * g.square() - b * g, curvature.mean(1))
        along_g, along_b = ((v * s.unsqueeze(1)).flatten(2).sum(2) for s in (g, b))
        return noised.loss(torch.zeros_like(g), (0.5 * along_g.square() - along_b * along_g + curvature).mean(1))
