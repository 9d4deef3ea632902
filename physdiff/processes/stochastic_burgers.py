r"""Stochastic Burgers flow: steepening moves energy between scales, and an Ornstein-Uhlenbeck bath makes it white.

The truncated nonlinearity N(x) = −½ s P ∂(Px)², with P the projection on wavenumbers below a third of the grid's (so
that products are free of aliasing, "fully dealiased"), conserves the energy Σ x² and volume in mode space. White
noise of any variance is therefore a stationary law of it, and of the whole equation if the bath obeys n_k = 2θ_k c with
the same c in every mode: the end is exactly N(0, c), and yet the way there is not linear in any mode.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from physdiff.registry import register
from physdiff.semilinear import SemilinearProcess
from physdiff.settings import require_positive
from physdiff.spectra import below_a_third


@register
@dataclass(frozen=True)
class StochasticBurgers(SemilinearProcess):
    r"""Truncated Burgers equation with a bath, dx = (−θx + ν∇²x − ½ s ∂x²) dτ + √(2(θ + νλ) c) dW.

    Attributes:
        strength: s, length per unit of time and of the field, along every periodic axis. None: a field of unit variance
            crosses a twentieth of the first periodic side in the time 1/θ.
        friction: θ, per unit of time; every mode forgets at least so fast.
        viscosity: ν, length² per unit of time. None: such that the finest mode relaxes twice as fast as the mean.
        standard_deviation: √c, of a cell at the end, in units of the normalised field.

    What to see: fronts steepen while noise rises; the end is white.

    Source: Majda and Timofeyev (2000), eq. 2.3 to 2.6, for the invariant law of the truncated equation.
    """

    strength: float | None = None
    friction: float = 1.0
    viscosity: float | None = None
    standard_deviation: float = 1.0

    refines: ClassVar[bool] = False
    conserves: ClassVar[bool] = True

    def __post_init__(self) -> None:
        grid = self.basis.grid
        if not self._axes:
            raise ValueError(f"StochasticBurgers needs a periodic axis to flow along; the grid is {grid.describe()}.")
        require_positive(self, "friction", "standard_deviation")
        if self.strength is None:
            object.__setattr__(self, "strength", self.friction * grid.extent[self._axes[0]] / 20)
        if self.viscosity is None:
            object.__setattr__(self, "viscosity", self.friction / max(float(self.basis.laplacian.max()), 1e-300))
        require_positive(self, "strength", "viscosity")

    @property
    def _axes(self) -> list[int]:
        return [axis for axis, boundary in enumerate(self.basis.grid.boundary) if boundary == "periodic"]

    @cached_property
    def _kept(self) -> Tensor:
        return below_a_third(self.basis)

    @cached_property
    def _gradient(self) -> Tensor:
        """−½ s Σ ∂ on the kept modes."""
        assert self.strength is not None
        symbols = torch.stack([self.basis.derivative(axis) for axis in self._axes])
        return -0.5 * self.strength * symbols.sum(0) * self._kept

    def drift_symbol(self) -> Tensor:
        assert self.viscosity is not None
        return -self.friction - self.viscosity * self.basis.laplacian

    def noise_spectrum(self) -> Tensor:
        return -2 * self.drift_symbol() * self.standard_deviation**2

    def reaction(self, x: Tensor, time: Tensor) -> Tensor:
        low = self.basis.inverse(self.basis.forward(x) * self._kept.to(x.device))
        flux = self.basis.forward(low.square())
        return self.basis.inverse(self.basis.apply(self._gradient.to(x.device), flux))
