r"""Semilinear processes: physics with a nonlinear term, which are simulated.

The author states the linear part as for a linear process, and adds a reaction N, a function of the field:

    dx = [A x + N(x, τ)] dτ + √n dW,       A and n diagonal in the basis.

Given x_0 no transition is Gaussian, so there is no closed form to hold; what is Gaussian is one *step*,

    y(τ + Δ) = m_Δ ψ_Δ(y) + √S_Δ ε,

the flow ψ of the reaction alone (by the classical Runge-Kutta rule) and then the linear part, exactly: stiff decay
costs nothing, the reaction alone limits Δ, and a reaction whose flow preserves the linear part's stationary law leaves
the whole scheme with that law. The error of a step is O(Δ²) in its mean.

Two ways to a Gaussian end. The reaction may conserve the stationary law of the linear part (truncated Burgers and Euler
flows do): `conserves`. Or it may fade, N ∝ e^{−τ/fading_time}, so that the physics acts early and the linear part alone
is left at the end.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from physdiff.process import AutonomousProcess, ForwardProcess, Kernel

if TYPE_CHECKING:
    from physdiff.grid import Grid


@dataclass(frozen=True)
class SemilinearProcess(ForwardProcess):
    """A noising physics with a nonlinear drift, in the units of the normalised field (variance 1 per cell).

    A subclass is a frozen dataclass, as for a linear process.
    """

    conserves: ClassVar[bool] = False
    """Whether the reaction leaves the stationary law of the linear part unchanged, which then is the terminal law."""

    @property
    def fades_over(self) -> float | None:
        """Physical time over which the reaction fades by e, from a setting `fading_time`; None if it does not fade."""
        return getattr(self, "fading_time", None)

    # ---- the equation: what an author states

    @abstractmethod
    def drift_symbol(self) -> Tensor:
        """A: rate at which each mode grows under the linear part, real or complex, broadcasts to the grid."""

    @abstractmethod
    def noise_spectrum(self) -> Tensor:
        """n ≥ 0: variance that each mode receives per unit of physical time; broadcasts to the grid."""

    @abstractmethod
    def reaction(self, x: Tensor, time: Tensor) -> Tensor:
        """N(x, τ): the nonlinear part of dx/dτ; fields of shape (batch, channels, *grid) to the same.

        Args:
            x: Fields, float64.
            time: Physical time, shape ().
        """

    # ---- what follows

    @cached_property
    def linear(self) -> LinearPart:
        """The process without its reaction, along the same clock."""
        return (LinearPart if self.refines else LinearPartPerCell)(self.basis, self, clock=self.clock)

    def reaction_of_modes(self, modes: Tensor, time: Tensor, support: Tensor | None = None) -> Tensor:
        """N in modes, on the support, if one is given: a field that lacks some modes does not grow them."""
        x = self.basis.inverse(modes)
        rate = self.reaction(x, time)
        if rate.shape != x.shape:
            raise ValueError(
                f"{type(self).__name__}.reaction returned the shape {tuple(rate.shape)} for fields of shape "
                f"{tuple(x.shape)}; expected the same."
            )
        rate = self.basis.forward(rate)
        return rate if support is None else rate * support.to(rate.device)

    def react(self, modes: Tensor, since: Tensor, time: Tensor, support: Tensor | None = None) -> Tensor:
        """ψ: the flow of the reaction alone, one step of the classical Runge-Kutta rule."""
        step = time - since
        middle = since + 0.5 * step
        k1 = self.reaction_of_modes(modes, since, support)
        k2 = self.reaction_of_modes(modes + 0.5 * step * k1, middle, support)
        k3 = self.reaction_of_modes(modes + 0.5 * step * k2, middle, support)
        k4 = self.reaction_of_modes(modes + step * k3, time, support)
        return modes + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)

    def transition(self, since: Tensor, time: Tensor) -> Kernel:
        """The linear part's kernel over one step: y = m ψ(y_s) + √S ε."""
        return Kernel(self.basis, self.linear.log_gain(time, since), self.linear.variance(time, since))

    def step(
        self, modes: Tensor, since: Tensor, time: Tensor, noise: Tensor | None, support: Tensor | None = None
    ) -> Tensor:
        """Modes at `time` from modes at `since`, shape (batch, channels, *grid); the mean where `noise` is None."""
        kernel = self.transition(since, time)
        moved = self.basis.apply(kernel.gain.to(modes.device), self.react(modes, since, time, support))
        if noise is None:
            return moved
        spread = kernel.variance.sqrt().to(modes.device)
        return moved + (spread if support is None else spread * support.to(modes.device)) * noise

    def simulate(self, x: Tensor, times: Tensor, generator: torch.Generator, substeps: int = 1) -> Tensor:
        """Fields along one noisy run from x at τ = times[0].

        Args:
            x: Fields, shape (batch, channels, *grid).
            times: Increasing physical times, shape (n,).
            generator: Source of the noise.
            substeps: Equal steps between one time and the next.

        Returns:
            Fields at all times, shape (n, batch, channels, *grid), of the dtype of x.

        Raises:
            FloatingPointError: a state is not finite: the steps are too long for the reaction.
        """
        modes = self.basis.forward(x.to(torch.float64))
        states = [x]
        for start, end in pairwise(times):
            for part in range(substeps):
                a, b = (start + (end - start) * (part + k) / substeps for k in (0, 1))
                noise = torch.randn(modes.shape, generator=generator, dtype=torch.float64, device=generator.device)
                modes = self.step(modes, a, b, noise.to(modes.device))
            if not bool(modes.isfinite().all()):
                raise FloatingPointError(
                    f"{type(self).__name__}: a run is not finite at τ = {float(end):.3g}: steps are too long for the "
                    "reaction; take more times or substeps."
                )
            states.append(self.basis.inverse(modes).to(x.dtype))
        return torch.stack(states)


@dataclass(frozen=True)
class LinearPart(AutonomousProcess):
    """The linear part of a semilinear process.

    Attributes:
        whole: The process that it is part of.
    """

    whole: SemilinearProcess

    def drift_symbol(self, time: Tensor) -> Tensor:
        return self.whole.drift_symbol()

    def noise_spectrum(self, time: Tensor) -> Tensor:
        return self.whole.noise_spectrum()

    def on(self, grid: Grid) -> LinearPart:
        return self.whole.on(grid).linear


@dataclass(frozen=True)
class LinearPartPerCell(LinearPart):
    """The linear part of a process whose noise is per cell."""

    refines: ClassVar[bool] = False


@dataclass(frozen=True)
class WithDrift(SemilinearProcess):
    """Any linear, autonomous physics and a drift that is given as a function.

    Attributes:
        linear_physics: Holds the linear part and the noise; see `physdiff.with_drift`.
        drift: N(x, τ), fields of shape (batch, channels, *grid) to the same; must be differentiable by torch where
            likelihoods are wanted.
        fading_time: The drift is multiplied by e^{−τ/fading_time}; None keeps it as it is.
    """

    _: KW_ONLY
    linear_physics: AutonomousProcess
    drift: Callable[[Tensor, Tensor], Tensor]
    fading_time: float | None = None

    def drift_symbol(self) -> Tensor:
        return self.linear_physics.drift_symbol(torch.zeros((), dtype=torch.float64))

    def noise_spectrum(self) -> Tensor:
        return self.linear_physics.noise_spectrum(torch.zeros((), dtype=torch.float64))

    def reaction(self, x: Tensor, time: Tensor) -> Tensor:
        return fading(time, self.fading_time) * self.drift(x, time)

    def on(self, grid: Grid) -> WithDrift:
        moved = self.linear_physics.on(grid)
        return replace(self, basis=moved.basis, linear_physics=moved)


def with_drift(
    linear_physics: AutonomousProcess,
    drift: Callable[[Tensor, Tensor], Tensor],
    fading_time: float | None = None,
) -> WithDrift:
    """A linear, autonomous physics with any drift added to it.

    Args:
        linear_physics: Such as `Heat(basis)`; its clock is kept if it has one.
        drift: N(x, τ), added to dx/dτ.
        fading_time: Over which the drift fades, physical time; None if it does not.
    """
    if not isinstance(linear_physics, AutonomousProcess):
        raise ValueError(
            f"with_drift needs a linear process whose equation does not change with time; got "
            f"{type(linear_physics).__name__}."
        )
    if fading_time is not None and not 0 < fading_time < math.inf:
        raise ValueError(f"fading_time must be positive and finite, or None; got {fading_time}.")
    return WithDrift(
        linear_physics.basis, clock=linear_physics.clock, linear_physics=linear_physics, drift=drift,
        fading_time=fading_time,
    )  # fmt: skip


def saturated_cube(x: Tensor, bound: float | None) -> Tensor:
    """x³/√(1 + (x/bound)⁴): the cube of small x, bound²·x for large; x³ itself without a bound.

    A drift −x³ brings infinity in within finite time, so that the way back leads there from everywhere that noise can
    reach: under any score but the exact one, states blow up.
    """
    return x**3 if bound is None else x**3 * torch.rsqrt(1 + (x / bound) ** 4)


def fading(time: Tensor, fading_time: float | None) -> Tensor:
    """e^{−τ/fading_time}, shape (); 1 for what does not fade."""
    return torch.ones_like(time) if fading_time is None else torch.exp(-time / fading_time)
