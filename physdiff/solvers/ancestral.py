r"""Ancestral sampling: draw x_s from the posterior q(y_s | y_t, y_0) with the denoiser in place of y_0.

    mean = m_s D + Ā (y_t − m_t D),   A = Φ S_s/S_t,   Φ = m_t/m_s
    variance = S_s Σ(t,s)/S_t + |B|² Var[y_0 | y_t],   B = m_s Σ(t,s)/S_t

The second term is what the denoiser does not know of y_0; it is left out by DDPM, whose samples are too narrow in few
steps. With the reference's cS/V in its place the variance is exact on Gaussian data in any number of steps.

Source: Ho, Jain and Abbeel (2020), eq. 7, per mode; Bao et al. (2022), theorem 1, for the variance.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from physdiff.bridge import bridge
from physdiff.solvers.solver import Noise, ReverseDynamics, Solver, solvers


@solvers.register
@dataclass(frozen=True)
class Ancestral(Solver):
    """Ancestral sampling with the reference's optimal variance.

    Attributes:
        uncertainty: Fraction of the reference's posterior variance that is added: 1 is right for Gaussian data, 0 is
            DDPM's posterior variance, and E|x₀ − D|²/(cS/V) of a trained model lies between.
    """

    uncertainty: float = 1.0

    order: ClassVar[int] = 1
    evaluations: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True
    exact_on_gaussian: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.uncertainty <= 1:
            raise ValueError(f"Ancestral: 'uncertainty' must lie in [0, 1]; got {self.uncertainty}.")

    def step(self, dynamics: ReverseDynamics, y: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        path = dynamics.path
        here, there = path.at(t), path.at(s)
        expected = here.wiener(y) + dynamics.residual(y, t)
        back = bridge(path.process, there.time, here.time)
        forget = back.on_clean.abs().square()
        spread = (back.variance + self.uncertainty * forget * here.posterior_variance) * path.reference.support
        drawn = noise(tuple(y.shape[1:])).to(y)
        return back.mean(expected, y) + there.rotate(spread.sqrt().to(y) * drawn)
