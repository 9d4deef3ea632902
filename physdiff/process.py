r"""Forward processes: the physics that turns a field into noise.

A linear process is solved mode by mode in a basis (`physdiff.basis`). Its author states the **equation** in physical
time τ,

    dy_k = A_k(τ) y_k dτ + √n_k(τ) dW_k,

with a drift symbol A (complex where the physics rotates, as advection does) and a noise spectrum n ≥ 0. Everything
else follows: y_τ = m y_0 + √S ε with

    log m(τ) = ∫₀^τ A du,        S(τ) = ∫₀^τ exp(2 Re[log m(τ) − log m(u)]) n(u) du,

and the diffusion's time t ∈ [0, 1] enters only through a clock τ(t). If A and n do not depend on time the two
integrals are known (`AutonomousProcess`); otherwise they are computed by quadrature, or stated in closed form by the
author as a second, independent statement that a law holds to the first.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Tensor

from physdiff import quadrature
from physdiff.basis import Basis
from physdiff.clock import Clock
from physdiff.registry import processes

if TYPE_CHECKING:
    from physdiff.gaussian import GaussianField
    from physdiff.grid import Grid


@dataclass(frozen=True)
class ForwardProcess(ABC):
    """A noising physics: where it lives, and the clock it runs along.

    Attributes:
        basis: The basis in which its linear part is diagonal, and with it the grid.
        clock: Physical time as a function of t ∈ [0, 1]; None until one is chosen from the data's spectrum
            (`physdiff.fit_clock`).
        refines: Whether refining the grid leaves the physics of the resolved modes alone. True for a stochastic
            PDE, whose noise is divided by the cell volume; false for noise that is defined per cell.
    """

    basis: Basis
    _: KW_ONLY
    clock: Clock | None = None

    refines: ClassVar[bool] = True

    @property
    def running_clock(self) -> Clock:
        """The clock, for a process that has one."""
        if self.clock is None:
            raise ValueError(
                f"{type(self).__name__} has no clock yet: give clock=..., or choose one from the data with "
                "physdiff.fit_clock(process, reference)."
            )
        return self.clock

    def physical_time(self, t: Tensor) -> Tensor:
        """τ(t) ready to broadcast against fields: shape () for t of shape (), (batch, 1, 1, ...) for (batch,)."""
        time = self.running_clock.time(t.to(torch.float64))
        return time.reshape(*t.shape, *[1] * (1 + self.basis.grid.ndim)) if t.ndim else time

    def with_reference(self, reference: GaussianField) -> Self:
        """The process with what it takes from the data's law; most take nothing."""
        return self

    def on(self, grid: Grid) -> Self:
        """The same physics, all settings kept, on another grid."""
        return replace(self, basis=self.basis.on(grid))

    def with_clock(self, clock: Clock) -> Self:
        """The same physics run along another clock."""
        return replace(self, clock=clock)


@dataclass(frozen=True)
class LinearProcess(ForwardProcess):
    """A noising physics that is diagonal in a basis.

    A subclass is a frozen dataclass: its fields are the settings, `basis` comes first and is given by the toolkit.
    """

    starts_clean: ClassVar[bool] = True
    """Whether x_0 is the clean field. If not, the data is given noise of `start_variance` before the process starts."""
    forgets: ClassVar[bool] = True
    """Whether every mode forgets the data in the end. If not, the terminal law is that of the data, and says so."""
    amplitude_exponent: ClassVar[float] = 0.5
    """p for which the noise amplitude √S starts as τ^p: ½ for white noise in time. Solvers step evenly in τ^p."""

    # ---- the equation: what an author states

    @abstractmethod
    def drift_symbol(self, time: Tensor) -> Tensor:
        """A(τ): rate at which each mode grows, per unit of physical time; real or complex, broadcasts to the grid.

        Args:
            time: Physical time, shape () or (batch, 1, ..., 1), float64.
        """

    @abstractmethod
    def noise_spectrum(self, time: Tensor) -> Tensor:
        """n(τ) ≥ 0: variance that each mode receives per unit of physical time; broadcasts to the grid."""

    # ---- its solution: stated in closed form by an author who wants speed, else by quadrature

    def log_gain(self, time: Tensor, since: Tensor) -> Tensor:
        """log of the factor by which modes are multiplied from physical time `since` to `time`."""
        return self._with_batch_axis(quadrature.log_gain, self.drift_symbol, time=time, since=since)

    def variance(self, time: Tensor, since: Tensor) -> Tensor:
        """Variance that modes have received from physical time `since` to `time`."""
        return self._with_batch_axis(
            quadrature.variance, self.drift_symbol, self.noise_spectrum, time=time, since=since
        )

    def _with_batch_axis(
        self, integral: Callable[..., Tensor], *symbols: object, time: Tensor, since: Tensor
    ) -> Tensor:
        """An integral at one time by way of a batch of one, for which all nodes are evaluated in one call."""
        if time.ndim or since.ndim:
            return integral(*symbols, time, since)
        lead = [1] * (2 + self.basis.grid.ndim)
        found = integral(*symbols, time.reshape(lead), since.reshape(lead))
        return found.reshape(found.shape[-self.basis.grid.ndim - 1 :]).squeeze(0)

    @property
    def start_variance(self) -> Tensor:
        """Variance per mode of the noise that data is given before the process starts; 0 where it starts clean."""
        return torch.zeros((), dtype=torch.float64)

    def noise_variance(self, time: Tensor) -> Tensor:
        """S(τ): all noise at physical time τ, the start's included; 0 at τ = 0, which stands for the clean field."""
        zero = torch.zeros((), dtype=torch.float64)
        received = self.variance(time, zero)
        if self.starts_clean:
            return received
        return received + (time > 0) * torch.exp(2 * self.log_gain(time, zero).real) * self.start_variance

    # ---- in the diffusion's time t

    def kernel(self, t: Tensor, s: Tensor | None = None) -> Kernel:
        """The law of x_t given x_s; given the clean field when s is not given."""
        time = self.physical_time(t)
        if s is None:
            zero = torch.zeros((), dtype=torch.float64)
            return Kernel(self.basis, self.log_gain(time, zero), self.noise_variance(time))
        since = self.physical_time(s)
        return Kernel(self.basis, self.log_gain(time, since), self.variance(time, since))

    def perturb(self, x: Tensor, t: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Fields noised to time t, and the unit white noise that did it.

        Args:
            x: Clean fields, shape (batch, channels, *grid).
            t: Time in [0, 1], shape () or (batch,).
            generator: Source of the noise.

        Returns:
            x_t and the noise ε, both of the shape of x; in modes x_t = m x + √S ε.
        """
        kernel = self.kernel(t)
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=generator.device).to(x.device)
        modes = self.basis.apply(kernel.gain.to(x.device), self.basis.forward(x))
        modes = modes + kernel.variance.sqrt().to(x.device) * self.basis.forward(noise)
        return self.basis.inverse(modes).to(x.dtype), noise


class AutonomousProcess(LinearProcess):
    r"""A linear process whose equation does not change with time; solved exactly by

    m = e^{AΔ},   S = nΔ · (1 − e^{−2θΔ}) / (2θΔ),   θ = −Re A,   Δ = τ − τ_s,

    which is nΔ at θ = 0 (a mean mode under heat conduction) and finite for any θΔ.
    """

    def log_gain(self, time: Tensor, since: Tensor) -> Tensor:
        return self.drift_symbol(time) * (time - since)

    def variance(self, time: Tensor, since: Tensor) -> Tensor:
        duration = time - since
        decay = -2 * self.drift_symbol(time).real * duration
        return self.noise_spectrum(time) * duration * _mean_decay(decay)


def _mean_decay(x: Tensor) -> Tensor:
    """(1 − e^{−x})/x, the mean of e^{−u} over 0 ≤ u ≤ x; 1 at x = 0."""
    at_zero = x == 0
    return torch.where(at_zero, 1.0, -torch.expm1(-x) / torch.where(at_zero, 1.0, x))


@dataclass(frozen=True)
class Kernel:
    """A Gaussian transition in modes: y_t = m y_s + √Σ ε.

    Attributes:
        basis: The basis of the modes.
        log_gain: log m, real or complex, broadcasts against (batch, channels, *grid).
        variance: Σ ≥ 0.
    """

    basis: Basis
    log_gain: Tensor
    variance: Tensor

    @cached_property
    def gain(self) -> Tensor:
        """m."""
        return torch.exp(self.log_gain)

    def then(self, later: Kernel) -> Kernel:
        """This transition followed by another one."""
        gain = torch.exp(2 * later.log_gain.real)
        return Kernel(self.basis, self.log_gain + later.log_gain, gain * self.variance + later.variance)

    def sample(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Fields drawn from the transition, given the fields x, shape (batch, channels, *grid)."""
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=generator.device).to(x.device)
        return self.basis.inverse(self.basis.apply(self.gain, self.basis.forward(x)) + self.variance.sqrt() * noise)


def _unfit(cls: type) -> str | None:
    """What a class lacks to be a process, for a message."""
    if not issubclass(cls, ForwardProcess):
        return "is not a subclass of physdiff.LinearProcess or physdiff.SemilinearProcess"
    if missing := sorted(cls.__abstractmethods__):
        return f"is abstract; it must define {' and '.join(missing)}"
    if "__dataclass_fields__" not in vars(cls):
        return "is no dataclass; put @dataclass(frozen=True) above it"
    return None


processes.unfit = _unfit
