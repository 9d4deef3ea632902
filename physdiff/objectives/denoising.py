r"""Denoising loss: the squared error of E[x₀ | x_t], weighted per mode and time.

    L = Σ_k w_k(t) |D(y_t, t) − y_0|²_k / Z

The exact posterior mean minimises it at every t, whatever the weights are. Z is the mean over t of what the Wiener
filter scores, Σ_k w_k cS/V, so that it scores 1 on average: below 1 is structure that a Gaussian field does not have.
By default every mode counts as it does in the likelihood, and times are drawn where that is lost: of the weightings it
has the best log-densities, and better samples than the simple loss (`experiments/objectives`). With `Simple` of the
prediction "residual", Z is taken at each t, and the unit of every mode is the network's:

    L = Σ_k |(D(y_t, t) − y_0)_k / κ_k|² / Σ_k (cS/V)_k / κ_k².

The error is computed as that of the network's output, w out² |N − target|², in which nothing cancels at either end of
time. Coefficients are float64; fields and noise are of the network's own type, the transform of the clean field aside:
single precision would lose modes that are weaker than the strongest by seven digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from physdiff.condition import Given
from physdiff.denoisers.denoiser import Denoiser
from physdiff.denoisers.posterior_mean import PosteriorMean
from physdiff.denoisers.prediction import Prediction, Residual, Rows
from physdiff.objectives.objective import Objective, objectives, require_probability
from physdiff.objectives.tabulated_times import AT_ONCE, LikelihoodImportance, LogNormal
from physdiff.objectives.times import Stratified, TimeSampling
from physdiff.objectives.weighting import Elbo, Likelihood, ModeLikelihood, Simple, Weighting
from physdiff.path import PathPoint, ReferencePath
from physdiff.randomness import RowDraws

NODES = 128  # of the mean over t


@objectives.register
@dataclass(frozen=True)
class DenoisingLoss(Objective):
    """Denoising error over random times.

    Attributes:
        weighting: How much each mode counts at each time.
        times: How t is drawn; what suits the weighting if not given: as often as the likelihood is lost for weights
            that are the likelihood's, else evenly.
        drop_condition: Probability with which a row in training is not told its condition, in [0, 1): the same network
            then answers for all fields, and samples can be guided (Ho and Salimans, 2022).
        normalised: Whether the Wiener filter scores 1 on average. If not, weights are as published; those of
            likelihoods are in nats.
    """

    weighting: Weighting = ModeLikelihood()  # noqa: RUF009  frozen
    times: TimeSampling = None  # pyright: ignore[reportAssignmentType]  # never after it is made
    drop_condition: float = 0.0
    normalised: bool = True

    def __post_init__(self) -> None:
        if self.times is None:
            of_likelihood = isinstance(self.weighting, (Likelihood, ModeLikelihood, Elbo))
            object.__setattr__(self, "times", LikelihoodImportance() if of_likelihood else Stratified())
        for name, kind in (("weighting", Weighting), ("times", TimeSampling)):
            if not isinstance(getattr(self, name), kind):
                raise ValueError(
                    f"DenoisingLoss: '{name}' must be a physdiff.objectives.{kind.__name__}; got "
                    f"{getattr(self, name)!r}."
                )
        require_probability(self, "drop_condition")

    @classmethod
    def examples(cls) -> tuple[DenoisingLoss, ...]:
        return (
            cls(),
            cls(Simple()),
            cls(times=LogNormal(-0.5, 1.0), normalised=False),
        )

    def at(
        self, model: PosteriorMean, x: Tensor, t: Tensor, draws: torch.Generator | RowDraws,
        condition: Given | None = None,
    ) -> Tensor:  # fmt: skip
        path, support = model.path, model.path.reference.support
        like = _kind(model, x)
        point, prediction = path.at(t), prediction_of_model(model)
        rows = prediction.rows(point, t)
        clean = path.basis.forward(x.to(like.device, torch.float64)) - path.reference.mean.to(like.device)
        clean = torch.where(support.to(like.device), clean, 0.0).to(like)
        noise = RowDraws.of(draws, len(x)).normal(*x.shape[1:], dtype=like.dtype).to(like)
        noisy = point.amplitude.to(like) * clean + point.noise_deviation.to(like) * noise
        if isinstance(model, Denoiser):
            output = model.answer(noisy, point, t, condition).output
        else:
            found = model.residual(point.restore(noisy.to(torch.float64)), t, condition).to(like)
            output = found / torch.where(support, rows.out, 1.0).to(like)
        weight, forgotten = self._weights(point, t, prediction, rows)
        if rows.heard is None:  # the weight is 0 outside the support
            return (weight.to(like) * (output - rows.target(clean, noise)).square()).flatten(1).sum(1)
        heard = rows.heard.to(like.device)
        error = torch.where(heard, output - rows.target(clean, noise), 0.0)
        left = (weight.to(like) * error.square()).flatten(1).sum(1)
        # A forgotten mode is left to the Wiener filter, whose error no parameter changes.
        missed = clean - point.wiener_gain.to(like) * noisy
        return left + (forgotten.to(like) * missed.square()).flatten(1).sum(1)

    def of_error(self, model: PosteriorMean, point: PathPoint, t: Tensor, error: Tensor) -> Tensor:
        """The loss of each row from an error y_0 − D that is known, in modes of the co-moving frame, float64."""
        prediction = prediction_of_model(model)
        rows = prediction.rows(point, t)
        weight, forgotten = self._weights(point, t, prediction, rows)
        of_clean = weight / torch.where(rows.out == 0, 1.0, rows.out).square() + forgotten
        return (of_clean.to(error) * error.square()).flatten(1).sum(1)

    def _weights(self, point: PathPoint, t: Tensor, prediction: Prediction, rows: Rows) -> tuple[Tensor, Tensor]:
        """Of the squared error of the output, and of that of the clean field in forgotten modes, divided by Z."""
        support = point.path.reference.support
        if isinstance(self.weighting, Simple) and isinstance(prediction, Residual):
            if not self.normalised:
                return support.to(torch.float64), torch.zeros(())
            return support / prediction.wiener_score(point).reshape(-1, *[1] * support.ndim), torch.zeros(())
        scale = 1.0
        if self.normalised and not self.weighting.per_time:
            scale = 1 / expected_by_wiener(point.path, self.weighting, prediction)
        heard = support if rows.heard is None else rows.heard
        log_weight = self.weighting.log_weight(point, t, rows)
        weight = torch.where(heard, torch.exp(torch.where(heard, log_weight + 2 * rows.log_out, 0.0)), 0.0)
        if rows.heard is None:
            return scale * weight, torch.zeros(())
        forgotten = support & ~heard
        of_clean = torch.where(forgotten, torch.exp(torch.where(forgotten, log_weight, 0.0)), 0.0)
        return scale * weight, scale * of_clean


def prediction_of_model(model: PosteriorMean) -> Prediction:
    """What a denoiser predicts; the residual per mode for one that is no network's."""
    return model.prediction if isinstance(model, Denoiser) else Residual(1.0)


def expected_by_wiener(path: ReferencePath, weighting: Weighting, prediction: Prediction) -> float:
    """Z, the mean over t ∈ [t_min, 1] of Σ_k w_k cS/V, by the midpoint rule."""
    known = _expected.setdefault(path, {})
    if (weighting, prediction) not in known:
        places = (torch.arange(NODES, dtype=torch.float64) + 0.5) / NODES
        nodes, support, total = path.t_min + (1 - path.t_min) * places, path.reference.support, 0.0
        for t in nodes.split(max(1, AT_ONCE // support.numel())):
            point = path.at(t)
            log_left = torch.where(support, point.posterior_variance, 1.0).log()
            log_left = log_left + weighting.log_weight(point, t, prediction.rows(point, t))
            total += float(torch.where(support, log_left.exp(), 0.0).sum()) / NODES
        known[weighting, prediction] = total
    return known[weighting, prediction]


_expected: WeakKeyDictionary[ReferencePath, dict[tuple[Weighting, Prediction], float]] = WeakKeyDictionary()


def _kind(model: PosteriorMean, x: Tensor) -> Tensor:
    """An empty tensor of the type and on the device in which a loss is computed."""
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    if parameter is None:
        return torch.zeros((), dtype=torch.float64, device=x.device)
    dtype = parameter.dtype if parameter.dtype in (torch.float32, torch.float64) else torch.float32
    return torch.zeros((), dtype=dtype, device=parameter.device)
