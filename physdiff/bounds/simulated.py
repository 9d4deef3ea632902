r"""The bound of a simulated process, path by path.

Forward, a window is Gaussian: x_t = m ψ(x_s) + √S ε. For any Gaussian kernels p(x_s | x_t) run backward,

    log p(x_0) ≥ E_q [log p(x_1) + Σ log p(x_s | x_t) − log q(x_t | x_s)],

whatever the windows are. The kernels are Tweedie's: with y = ψ(x_s) and x_t = m y + √S ε, exactly

    m E[y | x_t] = x_t + S · score(x_t),     score = (−z + h)/√V.

Let y have the variance V_y = (V − S)/|m|², and κ² = |m|²V_y/V be the share of x_t that is not noise of the window. Then

    E[y | x_t] = (κ²/m) x_t + (1 − κ²) μ_y + √V_y (1 − κ²)/κ · R̄h,      variance V_y (1 − κ²) if Gaussian,

and x_s is drawn around that mean with the reaction run back, with that variance. What is lost falls with the length of
the windows; Gaussian data under a linear process loses nothing in any, path by path. Modes that a window forgets
(κ² < ½) take V_y from the moments at s, and h with a weight that stays bounded: V − S is rounding there, and 1/κ grows.

Source: Sohl-Dickstein, Weiss, Maheswaranathan and Ganguli (2015), eq. 10 to 13; Vargas et al. (2024), for paths.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from tqdm import tqdm

from physdiff.bounds.bound import Bound
from physdiff.bounds.door import Draws, checked_deviation, require_counts
from physdiff.condition import Given
from physdiff.denoisers.score import ScoreModel
from physdiff.simulated_path import SimulatedPath


def simulated_elbo(
    model: ScoreModel,
    x: Tensor,
    *,
    substeps: int = 1,
    draws: int = 4,
    seed: int = 0,
    first: int = 0,
    condition: Given | None = None,
    chunk: int = 64,
    progress: bool = False,
) -> Bound:
    """Lower bound on the log-density of clean fields under the score of a simulated process.

    Args:
        model: The score.
        x: Clean fields in the model's units, shape (n, channels, *grid).
        substeps: Parts of equal log τ into which each window of the path but the first is divided: the bound rises, and
            so does its cost.
        draws: Runs of each field.
        seed: Field i draws the noise of its runs from (seed, first + i).
        first: Number of the first field, where x is a part of more.
        condition: Passed on to the model, shape (n, ...).
        chunk: Runs that are computed together.
        progress: Whether to show a bar.

    Returns:
        Bound. Its prior term is minus the expected log-density at t = 1, a transition's is E[log q − log p]: neither is
        a divergence, and both may be negative.

    Raises:
        ValueError: the model is not the score of a simulated process; x is empty, not on the model's grid, not finite,
            or has energy outside the support; a setting is outside its range; a mode of the support has no noise.
        FloatingPointError: a run is not finite.
    """
    if not isinstance(model, ScoreModel):
        raise ValueError(
            f"simulated_elbo needs the score of a simulated process (a ScoreModel); got {type(model).__name__}. For a "
            "denoiser under a linear process use elbo."
        )
    require_counts(substeps=substeps, draws=draws, chunk=chunk)
    path, support = model.path, model.path.reference.support
    deviation = checked_deviation(path, x, condition)
    runs = Draws(path.reference.mean + deviation, condition, draws, seed, chunk, first)
    states = [modes for _, modes, _ in runs.groups()]
    times = _divided(path.moments.windows, substeps)
    costs: list[Tensor] = []
    for since, time in tqdm(list(pairwise(times)), desc="bound", unit="window", disable=not progress, leave=False):
        window, found = _Window.of(path, since, time), []
        for i, (rows, _, given) in enumerate(runs.groups()):
            noise = torch.where(support, runs.noise(rows), 0.0)
            later = path.process.step(states[i], since, time, noise, support)
            if not bool(later.isfinite().all()):
                raise FloatingPointError(
                    f"{type(path.process).__name__}: a run is not finite at τ = {float(time):.3g}."
                )
            mean = window.mean(model, later, given)
            missed = torch.where(support, states[i] - mean, 0.0).square() / window.variance
            ratio = torch.log(window.variance / window.received) + missed - noise.square()
            found.append(0.5 * torch.where(support, ratio, 0.0).flatten(1).sum(1).reshape(-1, draws))
            states[i] = later
        costs.append(torch.cat(found))
    end = path.law(1.0)
    last = torch.cat([end.log_prob_of_deviation(torch.where(support, y - end.mean, 0.0)) for y in states])
    sampled = torch.stack([-last.reshape(-1, draws), *reversed(costs)], 2)
    return Bound.of_draws(
        torch.zeros_like(sampled[:, 0]),
        sampled,
        path.reference.log_prob_of_deviation(deviation),
        torch.cat([path.clock.inverse(times[1:].flip(0)), torch.zeros(1, dtype=torch.float64)]),
        evaluations=len(costs) * draws,
        n_support=path.reference.n_support,
    )


@dataclass(frozen=True)
class _Window:
    """The way back through one window, per mode; outside the support variances are 1.

    Attributes:
        path: Process and moments.
        since: Physical time of x_s.
        time: Of x_t.
        received: S.
        variance: Of x_s around its mean given x_t.
        on_state: Symbol that acts on x_t.
        constant: (1 − κ²) μ_y.
        on_correction: Symbol that acts on h.
    """

    path: SimulatedPath
    since: Tensor
    time: Tensor
    received: Tensor
    variance: Tensor
    on_state: Tensor
    constant: Tensor
    on_correction: Tensor

    @classmethod
    def of(cls, path: SimulatedPath, since: Tensor, time: Tensor) -> _Window:
        """Between two physical times.

        Raises:
            ValueError: a mode of the support receives no noise.
        """
        process, support = path.process, path.reference.support
        kernel = process.transition(since, time)
        received = torch.where(support, kernel.variance, 1.0)
        if not bool((received > 0).all()):
            raise ValueError(
                f"{type(process).__name__} gives no noise to {int((received <= 0).sum())} modes of the data: a bound "
                "needs noise in every mode that varies."
            )
        kept = torch.exp(2 * kernel.log_gain.real)
        here, there = path.at_time(time), path.at_time(since)
        before, after = (torch.where(support, point.variance, 1.0) for point in (there, here))
        seen = torch.where(kept * before > received, (after - received) / kept.clamp(min=1e-300), before)
        # Moments are measured, and interpolated: they may not say that a window changed a variance twofold.
        spread = torch.minimum(torch.maximum(seen, 0.5 * before), 2 * before)
        total = kept * spread + received
        forgotten = received / total  # 1 − κ²
        known = (kept * spread / total).sqrt()
        turn = torch.exp(0.5 * (kernel.log_gain.conj() - kernel.log_gain))  # R̄, as m̄ = |m|R̄
        mean = process.react(there.mean.unsqueeze(0), since, time, support)[0]
        return cls(
            path, since, time, received,
            variance=spread * forgotten,
            on_state=turn * (kept.sqrt() * spread / total),
            constant=forgotten * mean,
            on_correction=turn * (spread.sqrt() * forgotten / known.clamp(min=math.sqrt(0.5))),
        )  # fmt: skip

    def mean(self, model: ScoreModel, later: Tensor, condition: Given | None) -> Tensor:
        """E[x_s | x_t], modes of shape (batch, channels, *grid)."""
        device = model.device
        given = None if condition is None else condition.to(device)
        path, basis = self.path, self.path.basis
        with torch.no_grad():
            correction = model.correction(later.to(device), path.clock.inverse(self.time), given)
        correction = torch.where(path.reference.support, correction.to("cpu", torch.float64), 0.0)
        mean = basis.apply(self.on_state, later) + self.constant + basis.apply(self.on_correction, correction)
        return path.process.react(mean, self.time, self.since, path.reference.support)


def _divided(windows: Tensor, substeps: int) -> Tensor:
    """Windows with all but the first in parts of equal log τ, shape (2 + substeps · (n − 1),)."""
    share = torch.arange(1, substeps + 1, dtype=torch.float64) / substeps
    parts = [since * (time / since) ** share for since, time in pairwise(windows[1:])]
    times = torch.cat([windows[:2], *parts])
    times[1 + substeps :: substeps] = windows[2:]  # to the last bit
    return times
