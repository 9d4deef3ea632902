r"""Langevin dynamics of a lattice φ⁴ theory, whose interaction fades into the free field.

With φ the field on the sites of the grid and the action

    S(φ) = Σ_x [ −2κ Σ_μ φ_x φ_{x+μ} + (1 − 2λ) φ_x² + λ φ_x⁴ ],

dφ = −∂S/∂φ dτ + √2 dW has the law e^{−S} at rest: configurations of the theory are where the process starts, and as
long as the interaction stands it leaves their law alone. The interaction (λ, and what of κ exceeds the free field's κ₀)
fades as e^{−τ/fading_time}; the end is the free field, Gaussian with c_k = 1/(2(1 − 2κ₀ Σ_μ cos k_μ)) in units of φ².
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from physdiff.basis import SpectralBasis
from physdiff.registry import register
from physdiff.semilinear import SemilinearProcess, fading, saturated_cube
from physdiff.settings import require_positive


@register
@dataclass(frozen=True)
class LatticePhi4(SemilinearProcess):
    r"""Langevin dynamics of a φ⁴ action that fades into a free one, dx = −∂_x S(ax; κ(τ), λ(τ)) dτ + √2 dW.

    Attributes:
        hopping: κ, the coupling of neighbours.
        coupling: λ ≥ 0, of the quartic term.
        free_hopping: κ₀ of the free field at the end, below 1/(2d). None: κ, if that is below 0.9/(2d), else that.
        scale: a, how much of φ one unit of the normalised field is: its standard deviation in the data.
        fading_time: Over which the interaction fades, in units of Langevin time.
        saturation: b of x³/√(1 + (x/b)⁴) in place of the force's x³, in units of the normalised field, because a cubic
            drift cannot be run backwards with a score that is learned. None: the action's own force.

    What to see: at first the same theory, another configuration of it; then the phases dissolve into free noise.

    Source: Smit (2002), chapter 3, for the action; Parisi and Wu (1981) for the dynamics.
    """

    hopping: float = 0.2
    coupling: float = 0.1
    free_hopping: float | None = None
    scale: float = 1.0
    fading_time: float = 0.5
    saturation: float | None = 3.0

    refines: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_positive(self, "hopping", "scale", "fading_time")
        if self.saturation is not None:
            require_positive(self, "saturation")
        if not isinstance(self.coupling, (int, float)) or not 0 <= self.coupling < 1e6:
            raise ValueError(f"LatticePhi4 needs a finite 'coupling' ≥ 0; got {self.coupling}.")
        critical = 0.5 / self.basis.grid.ndim
        if self.free_hopping is None:
            object.__setattr__(self, "free_hopping", min(self.hopping, 0.9 * critical))
        assert self.free_hopping is not None
        if not 0 < self.free_hopping < critical:
            raise ValueError(
                f"LatticePhi4 needs a 'free_hopping' between 0 and {critical:g} = 1/(2d), where the free field is "
                f"stable; got {self.free_hopping}."
            )

    @cached_property
    def _neighbours(self) -> Tensor:
        """Σ_μ 2 cos k_μ: what the sum over neighbours multiplies a mode by."""
        if not isinstance(self.basis, SpectralBasis):
            raise ValueError("LatticePhi4 lives on a box of cells; this process needs SpectralBasis.")
        total = torch.zeros(self.basis.grid.shape, dtype=torch.float64)
        for axis, h in enumerate(self.basis.grid.spacing):
            total = total + 2 * torch.cos(self.basis.wavenumber(axis) * h)
        return total

    def drift_symbol(self) -> Tensor:
        assert self.free_hopping is not None
        return -2 * self.scale**2 * (1 - self.free_hopping * self._neighbours)

    def noise_spectrum(self) -> Tensor:
        return torch.tensor(2.0, dtype=torch.float64)

    def reaction(self, x: Tensor, time: Tensor) -> Tensor:
        assert self.free_hopping is not None
        excess = self.hopping - self.free_hopping
        rate = 4 * self.coupling * (x - self.scale**2 * saturated_cube(x, self.saturation))
        if excess:
            basis = self.basis
            rate = rate + 2 * excess * basis.inverse(self._neighbours.to(x.device) * basis.forward(x))
        return fading(time, self.fading_time) * self.scale**2 * rate

    def action(self, x: Tensor) -> Tensor:
        """S(ax) of fields of shape (batch, channels, *grid), summed over channels, shape (batch,)."""
        y = self.basis.forward(x)
        hopping = self.hopping * (self._neighbours.to(x.device) * y.square()).flatten(1).sum(1)
        phi2 = self.scale**2 * x.square()
        local = ((1 - 2 * self.coupling) * phi2 + self.coupling * phi2.square()).flatten(1).sum(1)
        return local - self.scale**2 * hopping
