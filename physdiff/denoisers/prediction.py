r"""What a network is asked for: one row of coefficients per mode for each of the literature's predictions.

In the co-moving frame, with u = R̄(y − mμ) = m d + √S ε the noisy deviation, d = y_0 − μ the clean one (m stands for
|m|), and c̄, S̄ means over the modes of a channel, a prediction is the affine map between the network's output N and
the denoiser D = E[y_0 | y],

    D − μ = skip·u + out·N,       N's target = on_clean·d + on_noise·ε,

and on_clean = (1 − skip m)/out, on_noise = −skip √S/out, each in a form in which nothing cancels:

    ================  ==============  ======================  ==================  ====================
    prediction        skip            out                     on_clean            on_noise
    ================  ==============  ======================  ==================  ====================
    residual          mc/V            κ_k                     S/(Vκ_k)            −mc√S/(Vκ_k)
    x0                0               √c̄                      1/√c̄                0
    epsilon           1/m             −√S/m                   0                   1
    v                 mc̄/V̂            −√(c̄S/V̂)                −√(S/(c̄V̂))          m√(c̄/V̂)
    score             1/m             S/(m√S̄)                 0                   −√(S̄/S)
    mean              −A/B            √V̄_s/B                  m_s/√V̄_s            A√S/√V̄_s
    ================  ==============  ======================  ==================  ====================

with V̂ = m²c̄ + S; κ_k = κ(√(cS/V)_k/κ)^γ, κ² = mean cS/V; and A, B the weights of y_t and y_0 in the mean of y_s given
both (`physdiff.bridge`), s one of K equal steps of t before.

*v* is Salimans and Ho's αε − σx_0 for c̄ = 1, and with N of the other sign EDM's preconditioning, whose c_skip and c_out
are these with c̄ = σ_data²: they are one prediction. Of untrained networks, "residual" is the exact Gaussian field.

*Forgotten modes.* 1/m has no limit as m → 0: an error δ of the predicted noise is one of √S δ/m in D. A mode with m²c <
10⁻⁸ S is therefore left to the Wiener filter under "epsilon", "score" and "mean": D − W = 0 there. What other modes say
of it is then not in D. The probability flow, to which D counts times m/√S, moves by less than 10⁻⁴ of the noise.
Likewise under "mean" a mode to which the step has added less than 10⁻⁶ of its noise: y_s is then known from y_t alone,
and says nothing of y_0.

Source: Ho, Jain and Abbeel (2020), section 3.2, for ε, x_0 and the mean; Song et al. (2021) for the score; Salimans and
Ho (2022), section 4, for v; Karras et al. (2022), table 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Self
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from physdiff.basis import Basis
from physdiff.bridge import Bridge, bridge
from physdiff.path import PathPoint, ReferencePath
from physdiff.registry import nearest, spelled
from physdiff.settings import is_whole

FORGOTTEN = 1e-8  # m²c/S
UNSAID = 1e-6  # Σ/S_t
LOWEST = -300.0  # of log m, below which nothing changes in any coefficient


@dataclass(frozen=True, eq=False)
class Rows:
    """The coefficients of a prediction at one time, or at one for each row; all broadcast against modes, float64.

    Attributes:
        out: 0 where a mode is forgotten, and outside the support.
        on_clean: Of d in the target.
        on_noise: Of ε in the target.
        excess: skip less the Wiener gain mc/V, 0 where a mode is forgotten; None if that is everywhere.
        heard: Modes in which the output counts; None if that is all of the support.
        log_forgotten: log |out|, that of forgotten modes included; None where there are none.
    """

    out: Tensor
    on_clean: Tensor
    on_noise: Tensor
    excess: Tensor | None = None
    heard: Tensor | None = None
    log_forgotten: Tensor | None = None

    @cached_property
    def log_out(self) -> Tensor:
        """log |out|, that of forgotten modes included; 0 outside the support."""
        return _log(self.out.abs()) if self.log_forgotten is None else self.log_forgotten

    def target(self, clean: Tensor, noise: Tensor) -> Tensor:
        """What N should be, of deviations d and noise ε, shape (batch, channels, *grid)."""
        return self.on_clean.to(clean) * clean + self.on_noise.to(clean) * noise

    def residual(self, deviation: Tensor, output: Tensor) -> Tensor:
        """D − W of u and N."""
        said = self.out.to(deviation) * output
        return said if self.excess is None else said + self.excess.to(deviation) * deviation


@dataclass(frozen=True)
class Prediction(ABC):
    """One of the quantities that a network can predict."""

    @abstractmethod
    def rows(self, point: PathPoint, t: Tensor) -> Rows:
        """The coefficients at a point of the path, which is at t, shape () or (batch,)."""

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Settings on which tests try it: all that differ in kind."""
        return (cls(),)


@dataclass(frozen=True)
class Residual(Prediction):
    """What the Wiener filter leaves unknown, in units of its size.

    Attributes:
        mode_scaling: γ ∈ [0, 1], how much of the unit is per mode.
    """

    mode_scaling: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.mode_scaling <= 1:
            raise ValueError(f"mode_scaling must lie in [0, 1]; got {self.mode_scaling}.")

    @classmethod
    def examples(cls) -> tuple[Residual, ...]:
        return cls(0.0), cls(0.6), cls(1.0)

    def unit(self, point: PathPoint) -> Tensor:
        """κ_k; zero outside the support."""
        own = _roots(point)[0] * point.noise_deviation * point.whitening
        if self.mode_scaling == 1:
            return own
        overall = per_cell(point.path.basis, point.posterior_variance).sqrt()
        support = point.path.reference.support
        if self.mode_scaling == 0:
            return overall * support
        return torch.where(support, overall * (own / overall).pow(self.mode_scaling), 0.0)

    def rows(self, point: PathPoint, t: Tensor) -> Rows:
        root, inverse = _roots(point)
        left = point.noise_deviation * point.whitening  # √(S/V)
        seen = point.amplitude * root * point.whitening  # m√c/√V
        if self.mode_scaling == 1:  # κ = √c √(S/V)
            return Rows(root * left, left * inverse, -seen)
        unit = self.unit(point)
        ratio = root * left / torch.where(unit > 0, unit, 1.0)
        return Rows(unit, ratio * left * inverse, -ratio * seen)

    def wiener_score(self, point: PathPoint) -> Tensor:
        """Σ_k cS/V / κ_k², shape (batch,) or (): what the Wiener filter scores where every output counts alike."""
        reference = point.path.reference
        if self.mode_scaling == 1:
            return torch.tensor(float(reference.n_support), dtype=torch.float64)
        unit = self.unit(point)
        left = point.posterior_variance / torch.where(unit > 0, unit, 1.0).square()
        return left.flatten(left.ndim - reference.spectrum.ndim).sum(-1)


@dataclass(frozen=True)
class Clean(Prediction):
    """The clean field, x_0, in units of the data's deviation."""

    def rows(self, point: PathPoint, t: Tensor) -> Rows:
        size, support = typical(point.path.basis, point.path.reference.spectrum), point.path.reference.support
        out = size * support
        return Rows(out, support / size, torch.zeros_like(out), -point.wiener_gain)


@dataclass(frozen=True)
class Epsilon(Prediction):
    """The unit noise, ε."""

    def rows(self, point: PathPoint, t: Tensor) -> Rows:
        support, heard = point.path.reference.support, _heard(point)
        inverse = _inverse_gain(point, heard)
        log_out = torch.where(support, 0.5 * _log(point.noise_variance) - log_gain(point), 0.0)
        out = -point.noise_deviation * inverse
        ones = support.to(torch.float64)
        return Rows(out, torch.zeros_like(ones), ones, _noise_share(point) * inverse, heard, log_out)


@dataclass(frozen=True)
class Velocity(Prediction):
    """v = αε − σx_0 of Salimans and Ho with the data's mean variance as σ_data²: also EDM's preconditioning."""

    def rows(self, point: PathPoint, t: Tensor) -> Rows:
        path = point.path
        c, support = path.reference.spectrum, path.reference.support
        white = typical(path.basis, c).square()
        whole = point.amplitude.square() * white + torch.where(support, point.noise_variance, 1.0)
        share = torch.where(support, point.amplitude * (white - c) / whole, 0.0)
        out = -(white * point.noise_variance / whole).sqrt()
        on_noise = torch.where(support, point.amplitude * (white / whole).sqrt(), 0.0)
        return Rows(out, out / white, on_noise, share * _noise_share(point))


@dataclass(frozen=True)
class Score(Prediction):
    """∇ log p_t, in units of 1/√S̄."""

    def rows(self, point: PathPoint, t: Tensor) -> Rows:
        support, heard = point.path.reference.support, _heard(point)
        inverse, size = _inverse_gain(point, heard), typical(point.path.basis, point.noise_variance)
        noise = torch.where(support, point.noise_variance, 1.0)
        log_out = torch.where(support, noise.log() - size.log() - log_gain(point), 0.0)
        on_noise = torch.where(support, -size / noise.sqrt(), 0.0)
        out = point.noise_variance / size * inverse
        return Rows(out, torch.zeros_like(on_noise), on_noise, _noise_share(point) * inverse, heard, log_out)


@dataclass(frozen=True)
class Mean(Prediction):
    """The mean of y_s given y_t and y_0, s one of K equal steps of t before t; in units of the deviation of y_s.

    Attributes:
        steps: K, at least 1. A step from t ≤ 1/K ends at the clean field, and predicts x_0.
    """

    steps: int = 1000

    def __post_init__(self) -> None:
        if not is_whole(self.steps, 1):
            raise ValueError(f"the posterior mean needs 'steps', a whole number of at least 1; got {self.steps!r}.")

    @classmethod
    def examples(cls) -> tuple[Mean, ...]:
        return cls(), cls(8)

    def earlier(self, point: PathPoint, t: Tensor) -> PathPoint:
        """The Gaussian world at s."""
        t = torch.as_tensor(t, dtype=torch.float64)
        return point.path.at((t - 1 / self.steps).clamp(min=0))

    def bridge(self, point: PathPoint, before: PathPoint) -> Bridge:
        """The law of y_s given y_t and y_0."""
        return bridge(point.path.process, before.time, point.time)

    def rows(self, point: PathPoint, t: Tensor) -> Rows:
        support, before = point.path.reference.support, self.earlier(point, t)
        law = self.bridge(point, before)
        on_clean, on_noisy = law.on_clean.abs(), law.on_noisy.abs()
        noise = torch.where(support, point.noise_variance, 1.0)
        received = torch.where(before.time == 0, 1.0, law.upper_variance / noise)
        heard = _heard(point) & (received >= UNSAID)
        safe = torch.where(heard, on_clean, 1.0)
        size = typical(point.path.basis, before.variance)
        excess = torch.where(heard, -on_noisy / safe - point.wiener_gain, 0.0)
        # By logarithms: B has underflown where a mode is long forgotten.
        log_out = torch.where(support, size.log() - log_gain(before) - received.clamp(min=UNSAID**2).log(), 0.0)
        of_noise = torch.where(support, on_noisy * noise.sqrt() / size, 0.0)
        out = torch.where(heard, size / safe, 0.0)
        return Rows(out, torch.where(support, before.amplitude / size, 0.0), of_noise, excess, heard, log_out)


PREDICTIONS: dict[str, type[Prediction]] = {
    "residual": Residual, "x0": Clean, "epsilon": Epsilon, "v": Velocity, "score": Score, "mean": Mean,
}  # fmt: skip


def described(prediction: Prediction) -> dict[str, Any]:
    """Name and settings as plain values; `prediction_of(**described(prediction))` is the prediction."""
    name = next(name for name, cls in PREDICTIONS.items() if type(prediction) is cls)
    return {"given": name, **asdict(prediction)}


def prediction_of(given: str | Prediction, **settings: Any) -> Prediction:
    """A prediction by its name, or as it is.

    Args:
        given: One of PREDICTIONS, or a prediction.
        settings: Of those named, for which it has a setting; the others have none to take.

    Raises:
        ValueError: there is none of that name, or a setting is outside its range.
    """
    if isinstance(given, Prediction):
        return given
    given = spelled(given, PREDICTIONS)
    if given not in PREDICTIONS:
        raise ValueError(f"unknown prediction '{given}'. {nearest(str(given), PREDICTIONS)}")
    cls = PREDICTIONS[given]
    return cls(**{name: value for name, value in settings.items() if name in cls.__dataclass_fields__})


# ---- per mode and per cell


def per_cell(basis: Basis, variance: Tensor) -> Tensor:
    """Variance per cell of each channel, from the variance of its modes; broadcasts against modes."""
    return variance.mean(basis.axes, keepdim=True)


def _roots(point: PathPoint) -> tuple[Tensor, Tensor]:
    """√c and 1/√c, both zero outside the support."""
    if point.path not in _known_roots:
        spectrum, support = point.path.reference.spectrum, point.path.reference.support
        root = spectrum.sqrt()
        _known_roots[point.path] = root, torch.where(support, 1 / torch.where(support, root, 1.0), 0.0)
    return _known_roots[point.path]


_known_roots: WeakKeyDictionary[ReferencePath, tuple[Tensor, Tensor]] = WeakKeyDictionary()


def log_gain(point: PathPoint) -> Tensor:
    """log m, not below LOWEST."""
    return point.log_gain.real.clamp(min=LOWEST)


def typical(basis: Basis, variance: Tensor) -> Tensor:
    """Standard deviation per cell of each channel; 1 in a channel without any variance."""
    mean = per_cell(basis, variance)
    return torch.where(mean > 0, mean, 1.0).sqrt()


def _heard(point: PathPoint) -> Tensor:
    """Modes of the support that the noise has not hidden."""
    kept = point.clean_variance >= FORGOTTEN * point.noise_variance
    return kept & point.path.reference.support


def _inverse_gain(point: PathPoint, heard: Tensor) -> Tensor:
    """1/m where a mode is heard, else 0."""
    return torch.where(heard, 1 / torch.where(heard, point.amplitude, 1.0), 0.0)


def _noise_share(point: PathPoint) -> Tensor:
    """S/V, zero outside the support."""
    return point.noise_variance / torch.where(point.path.reference.support, point.variance, 1.0)


def _log(x: Tensor) -> Tensor:
    """log x, 0 where x is 0."""
    return torch.where(x > 0, x, 1.0).log()
