r"""Advection-diffusion: a uniform wind carries the field along periodic axes while heat conducts and noise heats.

The wind turns the phase of every wave, so the drift symbol is complex: −κλ − i v·k. Along an axis with walls there is
no uniform wind.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from physdiff.process import AutonomousProcess
from physdiff.registry import register
from physdiff.settings import require_positive
from physdiff.spectra import balanced_noise


@register
@dataclass(frozen=True)
class AdvectionDiffusion(AutonomousProcess):
    r"""Stochastic advection-diffusion equation, dx = (κ ∇²x − v·∇x) dτ + σ dW.

    Attributes:
        diffusivity: κ, length² per unit of time.
        noise_level: σ, as for Heat. None: as for Heat.
        velocity: v, length per unit of time, one number per axis; one number blows along every periodic axis. Zero
            along axes with walls.

    What to see: heat, drifting. The wind adds no noise of its own: amplitudes are those of Heat.

    Source: Da Prato and Zabczyk (2014), ch. 5.
    """

    diffusivity: float = 1.0
    noise_level: float | None = None
    velocity: float | tuple[float, ...] = 1.0

    def __post_init__(self) -> None:
        grid = self.basis.grid
        require_positive(self, "diffusivity")
        if self.noise_level is None:
            object.__setattr__(self, "noise_level", balanced_noise(self.basis, self.diffusivity * self.basis.laplacian))
        require_positive(self, "noise_level")
        if isinstance(self.velocity, (int, float)):
            wind = tuple(float(self.velocity) if b == "periodic" else 0.0 for b in grid.boundary)
            object.__setattr__(self, "velocity", wind)
        assert isinstance(self.velocity, (tuple, list))
        if len(self.velocity) != grid.ndim:
            raise ValueError(f"AdvectionDiffusion needs {grid.ndim} values of 'velocity'; got {self.velocity}.")
        for dim, boundary, v in zip(grid.dims, grid.boundary, self.velocity, strict=True):
            if v != 0 and boundary != "periodic":
                raise ValueError(
                    f"AdvectionDiffusion: 'velocity' must be 0 along '{dim}', an axis with walls; got {v}."
                )

    def drift_symbol(self, time: Tensor) -> Tensor:
        assert isinstance(self.velocity, (tuple, list))
        symbol = (-self.diffusivity * self.basis.laplacian).to(torch.complex128)
        for axis, v in enumerate(self.velocity):
            if v != 0:
                symbol = symbol - v * self.basis.derivative(axis)
        return symbol

    def noise_spectrum(self, time: Tensor) -> Tensor:
        assert self.noise_level is not None
        return torch.full_like(time, self.noise_level**2 / self.basis.grid.cell_volume)
