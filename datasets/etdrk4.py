r"""The exponential Runge-Kutta rule of order four for stiff equations whose stiff part is diagonal in Fourier modes.

    du/dt = c u + N(u)

The linear part is exact, whatever c·step is, so that diffusion sets no limit to the step; N is of fourth order. The
rule's coefficients are functions such as (e^z − 1)/z at z = c·step, differences that cancel at small z. Their mean over
a circle around z does not; for an analytic function it is the value at z.

Source: Cox and Matthews (2002), eqs. 26 to 29, with the coefficients of Kassam and Trefethen (2005), section 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

_CONTOUR = 32  # points of the circle; the error is that of a Taylor series after 32 terms

Modes = TypeVar("Modes", np.ndarray, Tensor)


class ETDRK4:
    """The rule for one set of rates and one step.

    Args:
        rates: c per mode, real, 1/time; any shape.
        step: Time step > 0.
        device: Where the modes are tensors; None for modes that are arrays.
    """

    def __init__(self, rates: np.ndarray, step: float, device: str | None = None) -> None:
        decay = rates * step
        z = decay[..., None] + np.exp(2j * math.pi * (np.arange(_CONTOUR) + 0.5) / _CONTOUR)
        e = np.exp(z)
        coefficients = (
            np.expm1(z / 2) / z,
            (-4 - z + e * (4 - 3 * z + z**2)) / z**3,
            (2 + z + e * (z - 2)) / z**3,
            (-4 - 3 * z - z**2 + e * (4 - z)) / z**3,
        )
        arrays: list[Any] = [np.exp(decay), np.exp(decay / 2), *(step * c.mean(-1).real for c in coefficients)]
        if device is not None:
            arrays = [torch.from_numpy(array).to(device) for array in arrays]
        self._whole, self._half, self._midway, self._first, self._middle, self._last = arrays

    def step(self, modes: Modes, nonlinear: Callable[[Modes], Modes]) -> Modes:
        """Modes one step later.

        Args:
            modes: State, of the rates' shape after axes of its own.
            nonlinear: N, from modes to modes.
        """
        start = nonlinear(modes)
        a = self._half * modes + self._midway * start
        at_a = nonlinear(a)
        at_b = nonlinear(self._half * modes + self._midway * at_a)
        at_c = nonlinear(self._half * a + self._midway * (2 * at_b - start))
        return self._whole * modes + self._first * start + 2 * self._middle * (at_a + at_b) + self._last * at_c


def evolve(modes: Tensor, rates: Tensor, nonlinear: Callable[[Tensor], Tensor], duration: float, steps: int) -> Tensor:
    """Modes after `duration`, in `steps` equal steps.

    Raises:
        ValueError: the steps are too long for the nonlinear part, and the numbers overflow.
    """
    rule = ETDRK4(rates.cpu().numpy(), duration / steps, str(modes.device))
    for _ in range(steps):
        modes = rule.step(modes, nonlinear)
    if not torch.view_as_real(modes).isfinite().all():
        raise ValueError(f"the fields overflowed with {steps} steps of {duration / steps:.3g}; take more steps.")
    return modes
