r"""Bits per dimension, for data that is quantised and for no other.

Values offset + k·q stand for cells of width q, and a discrete law gives each field of them a probability P. A density p
gives it the mass of its cell, and by Jensen's inequality, for u uniform in the cell around 0,

    log P(x) = log ∫ p(x + u) du  ≥  E_u log p(x + u) + Σ log q,

so a field with uniform noise added ("dequantised") has a log-density that bounds log P from below in the mean. Measured
fields are real numbers: their density depends on their units, and divided by log 2 it is no number of bits.

Source: Uria, Murray and Larochelle (2013); Theis, van den Oord and Bethge (2016), section 3.1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from physdiff.scored import LogLikelihood


def dequantise(x: Tensor, quantum: float | Tensor, generator: torch.Generator, offset: float | Tensor = 0.0) -> Tensor:
    """Fields with uniform noise in [−q/2, q/2) added, shape as x, float64.

    Args:
        x: Quantised fields, shape (n, channels, *grid).
        quantum: q > 0, one number or one a channel, shape (channels,), in the units of x.
        generator: Source of the noise.
        offset: Of the values that there are, offset + k·q; as quantum.

    Raises:
        ValueError: quantum is not positive, or a value is not offset + k·q.
    """
    q, start = (_per_channel(name, value, x) for name, value in (("quantum", quantum), ("offset", offset)))
    _check_quantum(q)
    steps = (x.to(torch.float64) - start) / q
    rounding = 8 * torch.finfo(x.dtype).eps if x.dtype.is_floating_point else 0.0
    allowed = 1e-9 + rounding * (1 + steps.abs() + (start / q).abs())
    wrong = ~((steps - steps.round()).abs() <= allowed)
    if bool(wrong.any()):
        at = tuple(int(i) for i in wrong.nonzero()[0])
        of = float(q.expand_as(steps)[at])
        raise ValueError(
            f"the data is not quantised with quantum {of:.6g}: the value at index {at} is {float(x[at]):.9g}, "
            f"{float(steps[at]):.6g} quanta from the offset {float(start.expand_as(steps)[at]):.6g}. Bits per "
            "dimension are defined for quantised data only; give nats."
        )
    noise = torch.rand(x.shape, generator=generator, dtype=torch.float64, device=generator.device).to(x.device)
    return start + (steps.round() + noise - 0.5) * q


def bits_per_dimension(scored: LogLikelihood, quantum: float | Tensor) -> Tensor:
    """Upper bound in the mean of −log₂ P(x) per value, shape (n,), of fields that were dequantised.

    Args:
        scored: Log-densities of dequantised fields, `scored="field"`.
        quantum: q > 0 in the units that the density is in: those of the fields that were scored; one number or one a
            channel.

    Raises:
        ValueError: the law lies on fewer modes than a field has values, or noise was added to what was scored.
    """
    size = scored.latent[0].numel()
    if scored.n_support != size:
        raise ValueError(
            f"bits per dimension need a density over all {size} values of a field; this law lies on {scored.n_support} "
            "modes, and gives a cell of quantised values no mass."
        )
    if scored.scored != "field":
        raise ValueError(f"bits per dimension need scored = 'field', the density of x itself; got '{scored.scored}'.")
    q = _per_channel("quantum", quantum, scored.latent)
    _check_quantum(q)
    volume = q.log().expand_as(scored.latent[:1]).sum()
    return -(scored.log_prob + volume) / (size * math.log(2))


def _per_channel(name: str, value: float | Tensor, x: Tensor) -> Tensor:
    """Ready to broadcast against x."""
    value = torch.as_tensor(value, dtype=torch.float64)
    if value.ndim > 1 or (value.ndim and len(value) != x.shape[1]):
        raise ValueError(f"{name} must be one number, or one for each of {x.shape[1]} channels; got {value.tolist()}.")
    return value.reshape(1, -1, *[1] * (x.ndim - 2))


def _check_quantum(q: Tensor) -> None:
    if not bool(((q > 0) & q.isfinite()).all()):
        raise ValueError(f"quantum must be positive and finite; got {q.flatten().tolist()}.")
