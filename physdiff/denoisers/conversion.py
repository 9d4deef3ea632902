r"""The clean field, the noise, v, the score and the posterior mean: each of them says all the others.

At a state y = m y_0 + √S ε, a denoiser's answer D fixes every quantity of the literature, and is fixed by it (Tweedie:
m D = y + S · score). As fields:

    x0         D
    epsilon    (y − m D)/√S
    v          m√c̄ ε − √S (D − μ)/√c̄ over √(m²c̄ + S): αε − σ(D − μ) for VP and c̄ = 1
    score      (m D − y)/S
    mean       E[y_s | y_t, y_0 = D], s one of K equal steps of t before t

Where the process rotates, ε, v and the score are in the frame of the state, and the mean in that of y_s.

There and back is exact, but for what rounding is made into: an error δ of ε is one of √S δ/m in D, so that the way from
ε, the score or the mean has as many digits less as the noise is larger than the signal. A mode that is forgotten
(`physdiff.denoisers.prediction`) comes back as the Wiener filter's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from physdiff.denoisers.prediction import Clean, Mean, Prediction, Score, prediction_of, typical
from physdiff.path import PathPoint, ReferencePath


def express(clean: Tensor, quantity: str | Prediction, path: ReferencePath, x: Tensor, t: Tensor) -> Tensor:
    """A quantity in the place of E[x₀ | x_t].

    Args:
        clean: E[x₀ | x_t], fields of shape (batch, channels, *grid).
        quantity: "x0", "epsilon", "v", "score" or "mean", or a prediction with its settings.
        path: Process and reference.
        x: x_t, shape as `clean`.
        t: Time in [t_min, 1], shape () or (batch,).

    Returns:
        Fields, shape as `clean`; outside the support of the reference a deviation or a noise is 0.
    """
    asked, t = prediction_of(quantity), torch.as_tensor(t, dtype=torch.float64)
    point, support = path.at(t), path.reference.support
    rows = asked.rows(point, t)
    deviation = point.deviation(path.basis.forward(x))
    d = torch.where(support, path.basis.forward(clean) - path.reference.mean, 0.0)
    noise = (deviation - point.amplitude * d) / torch.where(support, point.noise_variance, 1.0).sqrt()
    unit = _unit(asked, point, t)
    return path.basis.inverse(_to_frame(asked, point, t, unit * rows.target(d, noise)))


def recover(value: Tensor, quantity: str | Prediction, path: ReferencePath, x: Tensor, t: Tensor) -> Tensor:
    """E[x₀ | x_t] from a quantity: the inverse of `express`; its other arguments are the same.

    Args:
        value: The quantity, fields of shape (batch, channels, *grid).
    """
    asked, t = prediction_of(quantity), torch.as_tensor(t, dtype=torch.float64)
    point, support = path.at(t), path.reference.support
    y = path.basis.forward(x)
    output = _from_frame(asked, point, t, path.basis.forward(value)) / _unit(asked, point, t)
    residual = asked.rows(point, t).residual(point.deviation(y), output)
    return path.basis.inverse(point.wiener(y) + torch.where(support, residual, 0.0))


def _unit(asked: Prediction, point: PathPoint, t: Tensor) -> Tensor:
    """What a prediction's output is counted in."""
    basis = point.path.basis
    if isinstance(asked, Clean):
        return typical(basis, point.path.reference.spectrum)
    if isinstance(asked, Score):
        return 1 / typical(basis, point.noise_variance)
    if isinstance(asked, Mean):
        return typical(basis, asked.earlier(point, t).variance)
    return torch.ones((), dtype=torch.float64)


def _to_frame(asked: Prediction, point: PathPoint, t: Tensor, comoving: Tensor) -> Tensor:
    """Modes of a field from those of a deviation in the co-moving frame."""
    if isinstance(asked, Clean):
        return point.path.reference.mean + comoving
    if isinstance(asked, Mean):
        return asked.earlier(point, t).restore(comoving)
    return point.rotate(comoving)


def _from_frame(asked: Prediction, point: PathPoint, t: Tensor, modes: Tensor) -> Tensor:
    """The inverse of `_to_frame`."""
    if isinstance(asked, Clean):
        return modes - point.path.reference.mean
    if isinstance(asked, Mean):
        return asked.earlier(point, t).deviation(modes)
    return point.unrotate(modes)
