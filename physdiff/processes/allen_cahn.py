r"""Allen-Cahn bath: the field is pulled towards two phases and coarsens, then a heat bath takes over.

dx = κ∇²x + r(x − x³) has the two stable states ±1, in units of the normalised field; domains of either grow, separated
by interfaces of width √(2κ/r), and noise moves them. That law is not Gaussian, so the reaction fades, and what is left
is conduction with a friction that binds every mode:

    dx = [κ∇²x − θx + f(τ) ((r + θ) x − r x³)] dτ + σ dW,      f = e^{−τ/fading_time}.

At f = 1 this is Allen and Cahn's equation with noise, at f = 0 a Gaussian bath with its known end. Beyond `saturation`
the cube grows as x does, because a cubic drift cannot be run backwards with a score that is learned.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from physdiff.registry import register
from physdiff.semilinear import SemilinearProcess, fading, saturated_cube
from physdiff.settings import require_positive
from physdiff.spectra import balanced_noise


@register
@dataclass(frozen=True)
class AllenCahn(SemilinearProcess):
    r"""Stochastic Allen-Cahn equation that fades, dx = (κ∇²x − θx + f(τ)[(r + θ)x − r x³]) dτ + σ dW.

    Attributes:
        diffusivity: κ, length² per unit of time. None: such that interfaces, √(2κ/r), are a twentieth of the longest
            side of the box.
        reaction_rate: r, per unit of time: how fast a point falls into one of the phases ±1.
        friction: θ, per unit of time: what binds the field once the reaction has faded.
        noise_level: σ, field units · length^{d/2} / time^{1/2}. None: such that the bath ends at unit variance per
            cell.
        fading_time: Over which the reaction fades, units of time.
        saturation: b of x³/√(1 + (x/b)⁴) in place of x³, in units of the normalised field. None: x³ itself.

    What to see: contrast grows and interfaces sharpen at first; then noise and conduction win.

    Source: Allen and Cahn (1979), eq. 11, with space-time white noise.
    """

    diffusivity: float | None = None
    reaction_rate: float = 1.0
    friction: float = 1.0
    noise_level: float | None = None
    fading_time: float = 0.5
    saturation: float | None = 1.5

    def __post_init__(self) -> None:
        require_positive(self, "reaction_rate", "friction", "fading_time")
        if self.saturation is not None:
            require_positive(self, "saturation")
        if self.diffusivity is None:
            width = max(self.basis.grid.extent) / 20
            object.__setattr__(self, "diffusivity", 0.5 * self.reaction_rate * width**2)
        require_positive(self, "diffusivity")
        if self.noise_level is None:
            object.__setattr__(self, "noise_level", balanced_noise(self.basis, -self.drift_symbol()))
        require_positive(self, "noise_level")

    def drift_symbol(self) -> Tensor:
        assert self.diffusivity is not None
        return -self.diffusivity * self.basis.laplacian - self.friction

    def noise_spectrum(self) -> Tensor:
        assert self.noise_level is not None
        return torch.tensor(self.noise_level**2 / self.basis.grid.cell_volume, dtype=torch.float64)

    def reaction(self, x: Tensor, time: Tensor) -> Tensor:
        growth, cube = self.reaction_rate + self.friction, saturated_cube(x, self.saturation)
        return fading(time, self.fading_time) * (growth * x - self.reaction_rate * cube)
