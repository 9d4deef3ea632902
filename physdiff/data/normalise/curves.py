r"""One-parameter curves that make a skewed or heavy-tailed law more like a normal one, with inverse and slope.

With s = log u (Box and Cox, 1964, for u > 0), or s = ±log(1 + |u|) with the sign of u (Yeo and Johnson, 2000),

    f(u) = (exp(p s) − 1)/p,  s where p = 0;    log f′(u) = (p − 1)|s|, or (λ − 1) s for Box-Cox,

where p = λ for u ≥ 0 and p = 2 − λ for u < 0, where the value is negated. Yeo-Johnson with λ ∈ [0, 2] maps all numbers
onto all numbers, so that whatever is sampled has an inverse; beyond, it maps onto a half-line (M). Box-Cox maps u > 0
onto z > −1/λ if λ > 0, onto z < −1/λ if λ < 0, and onto all numbers only if λ = 0. asinh is linear near 0 and
logarithmic far from it, on both sides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

Map = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Curve:
    """An increasing curve f(u; λ).

    Attributes:
        forward: f(u; λ); both broadcast, float64.
        inverse: u of f; NaN where there is none.
        log_slope: log f′(u; λ).
        exponents: Range in which λ is sought by maximum likelihood; None for a curve without one.
        is_positive: Whether u must be > 0.
    """

    forward: Map
    inverse: Map
    log_slope: Map
    exponents: tuple[float, float] | None = None
    is_positive: bool = False


def _stretched(s: Tensor, p: Tensor) -> Tensor:
    """(exp(p s) − 1)/p, and s where p = 0."""
    none = p == 0
    return torch.where(none, s, torch.expm1(p * s) / torch.where(none, 1.0, p))


def _shrunk(f: Tensor, p: Tensor) -> Tensor:
    """The inverse, log(1 + p f)/p."""
    none = p == 0
    return torch.where(none, f, torch.log1p(p * f) / torch.where(none, 1.0, p))


def _sinh(size: Tensor) -> Tensor:
    # Not torch.sinh, whose last bit differs between its loop over vectors and what is left of an array beyond them: a
    # value would depend on what it is normalised with.
    grown = torch.expm1(size)
    return 0.5 * (grown + grown / (grown + 1))


def _size(u: Tensor) -> Tensor:
    # Not abs: its derivative at 0 is 0, and that of f is 1.
    return torch.where(u < 0, -u, u)


def _signed(size: Tensor, like: Tensor) -> Tensor:
    return torch.where(like < 0, -size, size)


def _side(u: Tensor, exponent: Tensor) -> Tensor:
    return torch.where(u < 0, 2 - exponent, exponent)


CURVES: dict[str, Curve] = {
    "log": Curve(
        lambda u, _: u.log(),
        lambda f, _: f.exp(),
        lambda u, _: -u.log(),
        is_positive=True,
    ),
    "box-cox": Curve(
        lambda u, p: _stretched(u.log(), p),
        lambda f, p: _shrunk(f, p).exp(),
        lambda u, p: (p - 1) * u.log(),
        exponents=(-5.0, 5.0),
        is_positive=True,
    ),
    "yeo-johnson": Curve(
        lambda u, p: _signed(_stretched(torch.log1p(_size(u)), _side(u, p)), u),
        lambda f, p: _signed(torch.expm1(_shrunk(_size(f), _side(f, p))), f),
        lambda u, p: (_side(u, p) - 1) * torch.log1p(_size(u)),
        exponents=(0.0, 2.0),
    ),
    "asinh": Curve(
        lambda u, _: torch.asinh(u),
        lambda f, _: _signed(_sinh(_size(f)), f),
        lambda u, _: -0.5 * torch.log1p(u * u),
    ),
}


def fit_exponent(curve: Curve, values: np.ndarray) -> float:
    """λ of the greatest likelihood of values whose images are independent normal numbers, in the curve's range.

    Maximises −(m/2) log var f(u) + Σ log f′(u) over λ; 1 for a curve without λ.

    Args:
        curve: The curve.
        values: Numbers u, shape (m,), float64.
    """
    if curve.exponents is None:
        return 1.0
    u = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64))

    def cost(exponent: float) -> float:
        p = torch.tensor(exponent, dtype=torch.float64)
        slopes, image = curve.log_slope(u, p).numpy(), curve.forward(u, p).numpy()
        with np.errstate(all="ignore"):  # an exponent under which numbers overflow is no candidate
            found = 0.5 * np.log(image.var()) - slopes.mean()
        return float(found) if np.isfinite(found) else np.inf

    low, high = curve.exponents
    found = minimize_scalar(cost, bounds=(low, high), method="bounded", options={"xatol": 1e-10})
    # The search stays inside its bounds, and the likelihood may be greatest on one.
    return min((float(found.x), low, high), key=cost)  # pyright: ignore[reportAttributeAccessIssue]
