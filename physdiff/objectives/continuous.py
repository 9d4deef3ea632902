r"""The variational bound of infinitely many steps as a loss, in nats per degree of freedom.

    L = (1/n) [ prior + ½ ∫ Σ_k (−dSNR_k/dt) |y_0 − D|²_k dt + decoder ],      SNR = |m|²/S,

the integral from t_min to 1 (`physdiff.continuous_elbo`). No schedule and no variance is in it: the weight of each mode
is the rate at which its signal emerges. That is the denoising loss weighted "elbo" up to a factor, and this class says
which, in nats, with all that is constant: an untrained model scores −log p_ref(x)/n for each field, and of a model only
the difference to the Wiener filter in the same state is drawn.

The decoder is a step of its own, from t_min to the clean field. A share of the rows is spent on it, and counts for all;
a uniform or stratified t makes the rest the low-discrepancy estimate of the paper.

Source: Kingma, Salimans, Poole and Ho (2021), eq. 15 to 18 and appendix I.1, per mode.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Self, get_args

import torch
from torch import Tensor

from physdiff.bounds.continuous import sharpening_rate
from physdiff.bounds.door import require_linear
from physdiff.condition import Given
from physdiff.denoisers.posterior_mean import PosteriorMean
from physdiff.objectives.chain_states import ChainStates, deviation_of
from physdiff.objectives.objective import Evaluated, Objective, objectives, require_probability
from physdiff.objectives.times import Stratified, TimeSampling
from physdiff.randomness import RowDraws

Decoder = Literal["reference", "learned"]


@objectives.register
@dataclass(frozen=True)
class ContinuousVariationalLoss(Objective):
    """Minus the variational bound of infinitely many steps, in nats per degree of freedom.

    Attributes:
        decoder: Variance of the decoder: "reference" (cS/V) or "learned" (the model's own).
        decoder_share: Share of the rows that are spent on the decoder, in (0, 1).
        times: How t is drawn.
        drop_condition: Probability with which a row in training is not told its condition.

    Raises:
        ValueError: a setting is outside its range.
    """

    decoder: Decoder = "reference"
    decoder_share: float = 0.1
    times: TimeSampling = field(default_factory=Stratified)
    drop_condition: float = 0.0

    def __post_init__(self) -> None:
        require_probability(self, "drop_condition")
        if self.decoder not in get_args(Decoder):
            known = ", ".join(get_args(Decoder))
            raise ValueError(f"ContinuousVariationalLoss: 'decoder' is one of {known}; got {self.decoder!r}.")
        if not 0 < self.decoder_share < 1:
            raise ValueError(
                f"ContinuousVariationalLoss: 'decoder_share' must lie in (0, 1), or the decoder is not trained; got "
                f"{self.decoder_share}."
            )

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return cls(), cls(decoder="learned")

    def at(
        self, model: PosteriorMean, x: Tensor, t: Tensor, draws: torch.Generator | RowDraws,
        condition: Given | None = None,
    ) -> Tensor:  # fmt: skip
        """The loss without its decoder."""
        noise = RowDraws.of(draws, len(x)).normal(*x.shape[1:])
        states = ChainStates.decoded(model.path, t, deviation_of(model, x), noise)
        return _known(states) + _integrand(states, model.residual(states.modes, states.t, condition))

    def evaluate(
        self, model: PosteriorMean, x: Tensor, draws: torch.Generator | RowDraws, condition: Given | None = None
    ) -> Evaluated:
        require_linear(model, type(self).__name__)
        draws = RowDraws.of(draws, len(x))
        times = self.times.draw(model.path, draws)
        decodes = draws.uniform().cpu() < self.decoder_share
        condition = self.told(model, condition, draws)
        t = torch.where(decodes, model.path.t_min, times.t)
        states = ChainStates.decoded(model.path, t, deviation_of(model, x), draws.normal(*x.shape[1:]))
        said = states.said(model, condition, self.decoder == "learned")
        integrand = _integrand(states, said.residual)
        decoder = states.extra_cost(said) / model.path.reference.n_support
        drawn = torch.where(
            decodes.to(decoder.device),
            decoder / self.decoder_share,
            integrand * times.weight.to(integrand) / (1 - self.decoder_share),
        )
        return Evaluated(_known(states) + drawn, states.t, integrand.detach())


def _known(states: ChainStates) -> Tensor:
    """−log p_ref(x)/n of each field, the reference's own loss."""
    law = states.here.path.reference
    return -law.log_prob_of_deviation(states.deviation) / law.n_support


def _integrand(states: ChainStates, residual: Tensor) -> Tensor:
    """What the integral costs beyond the Wiener filter's, if t is uniform on [t_min, 1], shape (batch,)."""
    path, missed = states.here.path, states.missed_by_reference
    speed = (1 - path.t_min) * path.clock.rate(states.t).reshape(-1, *[1] * (missed.ndim - 1))
    weight = (0.5 * speed * sharpening_rate(states.here)).to(missed)
    more = (missed - residual).square() - missed.square()
    return (weight * more).flatten(1).sum(1) / path.reference.n_support
