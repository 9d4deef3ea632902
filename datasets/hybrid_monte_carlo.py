r"""Hybrid Monte Carlo: samples of a law e^{−S} by Hamiltonian trajectories that are accepted or not.

With momenta p ~ N(0, 1) and H = ½p² + S(φ), the leapfrog rule moves (φ, p) along Hamilton's equations reversibly and
without changing volume, so that accepting with min(1, e^{−ΔH}) leaves e^{−S} unchanged whatever the step ε; the step
sets only ΔH = O(ε²), hence the acceptance. At rest ⟨e^{−ΔH}⟩ = 1. The number of steps varies from one trajectory to
the next: a fixed length that is half a mode's period would only flip its sign.

Many chains run side by side, and errors come from their spread.

Source: Duane, Kennedy, Pendleton and Roweth (1987); Mackenzie (1989) for the random length; Wolff (2004), eqs. 31 to
52, for the autocorrelation time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class HybridMonteCarlo:
    """A Markov chain that leaves e^{−S} unchanged.

    Attributes:
        action: S of states, shape (chains, ...) to (chains,), differentiable.
        step: ε of the leapfrog rule, > 0.
        length: Mean length of a trajectory, in the time of Hamilton's equations.
    """

    action: Callable[[Tensor], Tensor]
    step: float = 0.3
    length: float = 1.5

    def force(self, x: Tensor) -> Tensor:
        """−∂S/∂φ."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.action(x).sum(), x)
        return -gradient

    def leapfrog(self, x: Tensor, p: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """(φ, p) after so many steps; with −p at the end it leads back."""
        p = p + 0.5 * self.step * self.force(x)
        for _ in range(steps - 1):
            x = x + self.step * p
            p = p + self.step * self.force(x)
        x = x + self.step * p
        return x, p + 0.5 * self.step * self.force(x)

    def energy(self, x: Tensor, p: Tensor) -> Tensor:
        """H, shape (chains,)."""
        return 0.5 * p.square().flatten(1).sum(1) + self.action(x)

    def trajectory(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The chains' next states, shape as x, and ΔH of what was proposed, shape (chains,).

        Random numbers are drawn where the generator is, so that a chain is the same on every device to rounding.
        """
        steps = max(round(self.length / self.step), 1)
        taken = int(
            torch.randint((steps + 1) // 2, steps + steps // 2 + 1, (), generator=generator, device=generator.device)
        )
        p = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=generator.device).to(x.device)
        proposed, end = self.leapfrog(x, p, taken)
        change = self.energy(proposed, end) - self.energy(x, p)
        uniform = torch.rand(len(x), generator=generator, dtype=x.dtype, device=generator.device).to(x.device)
        accepted = uniform.log() < -change
        return torch.where(accepted.reshape(-1, *[1] * (x.ndim - 1)), proposed, x), change

    def thermalised(
        self, x: Tensor, trajectories: int, generator: torch.Generator, acceptance: float = 0.85
    ) -> tuple[HybridMonteCarlo, Tensor]:
        """The chain with a step that is accepted so often, and states after so many trajectories.

        The step is tuned in the first half, to at most a quarter of the length, and stays as it is in the second.
        Start from a state of small force, such as 0: from far out a quartic action may never accept.
        """
        chain = self
        for i in range(trajectories):
            x, change = chain.trajectory(x, generator)
            if i < trajectories // 2:
                excess = float(probability(change).mean()) - acceptance
                # A law so smooth that any step is accepted still needs a few, or far-out states become traps.
                chain = replace(chain, step=min(chain.step * math.exp(0.2 * excess), 0.25 * self.length))
        return chain, x


def probability(change: Tensor) -> Tensor:
    """min(1, e^{−ΔH}): how probably a proposal is accepted; never, where it overflowed and ΔH is no number."""
    return torch.where(change.isnan(), 0.0, torch.exp(-change.clamp(min=0.0)))


def autocorrelation_time(series: Tensor) -> float:
    """τ = ½ + Σ_{t≥1} ρ(t) of an observable, in steps of the series: a mean has the variance of n/(2τ) samples.

    The sum ends where what is left out is as small as the noise of what is taken in. ½, at least: a chain that
    alternates counts as independent.

    Args:
        series: The observable along chains of one law, shape (chains, n).

    Source: Wolff (2004), eqs. 31 to 52, with S = 1.5.
    """
    deviation = series.to(torch.float64) - series.to(torch.float64).mean()
    chains, n = deviation.shape
    variance = float(deviation.square().mean())
    tau = 0.5
    for lag in range(1, n // 2):
        tau += float((deviation[:, lag:] * deviation[:, :-lag]).mean()) / variance
        if tau <= 0.5:
            return 0.5
        memory = 1.5 / math.log((2 * tau + 1) / (2 * tau - 1))
        if math.exp(-lag / memory) < memory / math.sqrt(lag * chains * n):
            return tau
    return tau
