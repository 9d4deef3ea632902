r"""Transition score matching: what trains the score of a process that is only simulated.

For any time s before t, ∇ log p_t(y_t) = E[ ∇ log q(y_t | y_s) | y_t ]: the score of a transition is an unbiased target
for the score. One window y_s → y_t of the simulation is Gaussian, y_t = m ψ(y_s) + √S ε, so its score is −ε/√S: *Euler*
windows. Three targets are offered, each as the noise ξ that it stands for, score ≈ −ξ/√S:

    "euler"       ξ = ε. Exact for the chain of windows.
    "linearised"  Each window is run in `substeps`; q is the Gaussian with the mean of the run without noise and the
                  covariance C = Σ_i T_i S_i T_iᵀ of the noise carried by the tangent flow T, ξ = √S C⁻¹(y_t − mean),
                  by conjugate gradients. Exact for any linear drift, however it mixes modes.
    "backward"    ξ = (y_t − m y_s − m[ψ(y_t) − y_t])/√S: the residual of the solver's own step taken back from y_t.
                  Needs no noise, only states; biased by O(window) where the reaction depends on the state.

The loss compares in the whitened coordinates of the path, with the weight S/V at which the target's noise is 1:

    L = Σ_k |√(S/V)(h − z)_k + ξ_k|² / Σ_k (1 − S/V)_k

The Gaussian part scores 1 on average, less is structure. A window's noise tells little of the score of a state that it
hardly moved, so that even the exact score stays near 1 when windows are short.

*Runs.* Consecutive rows share a run, from the field of the first of them, each in a window of its own. All that is
drawn is drawn for the whole batch, so that a batch that is split between runs has the losses of the whole. In a run
that is cut in two, the second part starts from a field of its own: another draw of the same mean.

Source: De Bortoli et al. (2021), section 3.2; Singhal et al. (2024) for windows; Holzschuh et al. (2023) for backward
steps; Ozaki (1992) for linearised ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from physdiff.condition import Given
from physdiff.denoisers.score import ScoreModel
from physdiff.objectives.objective import Evaluated, Objective
from physdiff.randomness import RowDraws
from physdiff.registry import nearest
from physdiff.semilinear import SemilinearProcess
from physdiff.simulated_path import SimulatedPath

Target = Literal["euler", "linearised", "backward"]


@dataclass(frozen=True)
class TransitionLoss(Objective):
    """Error of a score against the windows of noisy runs.

    Attributes:
        target: "euler", "linearised" or "backward".
        windows_per_run: Rows that share a run: it costs as much as its windows.
        substeps: Steps within a window, of "linearised".
    """

    simulated: ClassVar[bool] = True

    target: Target = "euler"
    windows_per_run: int = 8
    substeps: int = 4

    def __post_init__(self) -> None:
        if self.target not in get_args(Target):
            raise ValueError(f"unknown target '{self.target}'. {nearest(self.target, get_args(Target))}")
        if min(self.windows_per_run, self.substeps) < 1:
            raise ValueError(
                f"windows_per_run and substeps must be at least 1; got {self.windows_per_run} and {self.substeps}."
            )

    def evaluate(
        self, model: ScoreModel, x: Tensor, draws: torch.Generator | RowDraws, condition: Given | None = None
    ) -> Evaluated:
        draws, windows = RowDraws.of(draws, len(x)), len(model.path.moments.windows) - 1
        # In random order, so that the windows of a run are anywhere.
        chosen = (draws.stratified() * windows).long().clamp(max=windows - 1)
        found = self._on_runs(model, x, chosen, draws, condition)
        return Evaluated(found, None, found.detach())

    def at(
        self, model: ScoreModel, x: Tensor, t: Tensor, draws: torch.Generator | RowDraws,
        condition: Given | None = None,
    ) -> Tensor:  # fmt: skip
        """The loss of each row in the window that a time lies in; arguments as for `Objective.at`."""
        path = model.path
        ends = path.moments.windows[1:]
        chosen = torch.searchsorted(ends, path.clock.time(t.cpu().to(torch.float64)) * (1 - 1e-12))
        return self._on_runs(model, x, chosen.clamp(max=len(ends) - 1), RowDraws.of(draws, len(x)), condition)

    def _on_runs(
        self, model: ScoreModel, x: Tensor, chosen: Tensor, draws: RowDraws, condition: Given | None
    ) -> Tensor:
        """The loss of a window for each row."""
        path = model.path
        which = torch.arange(draws.total)[draws.rows] // self.windows_per_run
        run, mine = which - which[0], slice(int(which[0]), int(which[-1]) + 1)
        runs = RowDraws(draws.generator, -(-draws.total // self.windows_per_run), mine)
        first = torch.searchsorted(run, torch.arange(len(runs)))  # row of each run
        clean = path.basis.forward(x[first.to(x.device)].to("cpu", torch.float64))  # runs stay where their noise is
        before, after, noise = _states(path, clean, chosen, run, runs)
        given = None if condition is None else condition[first[run].to(condition.device)]
        return self.of_windows(model, before, after, noise, chosen, draws, given)

    def of_windows(
        self, model: ScoreModel, before: Tensor, after: Tensor, noise: Tensor, window: Tensor, draws: RowDraws,
        condition: Given | None = None,
    ) -> Tensor:  # fmt: skip
        """The loss of given windows: states at both ends, the noise between them, and which windows they are."""
        path = model.path
        process, support = path.process, path.reference.support
        lead = [-1] + [1] * (before.ndim - 1)
        start, end = (path.moments.windows[window + k].reshape(lead) for k in (0, 1))
        received = torch.where(support, process.transition(start, end).variance, 0.0)
        if self.target == "linearised":
            after, xi = self._linearised(path, before, window, received, draws)
        elif self.target == "backward":
            xi = _backward(path, before, after, window, received)
        else:
            xi = noise
        t = path.clock.inverse(end.flatten())
        point, device = path.at(t), next((p.device for p in model.parameters()), after.device)
        share = torch.where(support, received / torch.where(support, point.variance, 1.0), 0.0)
        after, weight, noise = after.to(device), share.sqrt().to(device), (xi * support).to(device)
        error = weight * (model.correction(after, t, condition) - point.whiten(after)) + noise
        return error.square().flatten(1).sum(1) / ((1 - share) * support).flatten(1).sum(1).to(device)

    def _linearised(
        self, path: SimulatedPath, before: Tensor, window: Tensor, received: Tensor, draws: RowDraws
    ) -> tuple[Tensor, Tensor]:
        """End states of windows run in substeps, and ξ."""
        noise = draws.normal(self.substeps, *before.shape[1:]).transpose(0, 1)
        ends, targets = torch.empty_like(before), torch.empty_like(before)
        for which in window.unique():  # one window's coefficients at a time
            rows = window == which
            steps = torch.linspace(0, 1, self.substeps + 1, dtype=torch.float64)
            start, end = path.moments.windows[which], path.moments.windows[which + 1]
            flow = _Linearised(path, start + (end - start) * steps, before[rows])
            ends[rows] = flow.noisy(noise[:, rows])
            targets[rows] = received[rows].sqrt() * flow.solve(ends[rows] - flow.mean)
        return ends, targets


def _states(
    path: SimulatedPath, clean: Tensor, chosen: Tensor, run: Tensor, draws: RowDraws
) -> tuple[Tensor, Tensor, Tensor]:
    """States before and after the chosen windows of each row, and the unit noise between them, drawn for each run."""
    process, support, times = path.process, path.reference.support, path.moments.windows
    modes = torch.where(support, clean, path.reference.mean)
    shape = (len(chosen), *clean.shape[1:])
    before, after, drawn = (torch.empty(shape, dtype=torch.float64) for _ in range(3))
    for window in range(len(times) - 1):
        noise = draws.normal(*clean.shape[1:])
        if window > chosen.max():
            continue  # what other rows of the batch need is drawn all the same
        rows = chosen == window
        before[rows] = modes[run[rows]]
        modes = process.step(modes, times[window], times[window + 1], noise, support)
        after[rows], drawn[rows] = modes[run[rows]], noise[run[rows]]
    return before, after, drawn


def _backward(path: SimulatedPath, before: Tensor, after: Tensor, window: Tensor, received: Tensor) -> Tensor:
    """ξ from the states alone: the step back from y_t with the reaction taken there."""
    process, support = path.process, path.reference.support
    xi = torch.empty_like(before)
    for which in window.unique():
        rows = window == which
        since, time = path.moments.windows[which], path.moments.windows[which + 1]
        reacted = process.react(after[rows], since, time, support) - after[rows]
        carried = process.basis.apply(process.transition(since, time).gain, before[rows] + reacted)
        scale = torch.where(support, received[rows], 1.0).rsqrt()
        xi[rows] = scale * (after[rows] - carried)
    return torch.where(support, xi, 0.0)


class _Linearised:
    """The Gaussian law of a window's end: the run without noise, and noise carried by its tangent flow."""

    def __init__(self, path: SimulatedPath, times: Tensor, start: Tensor) -> None:
        self.process: SemilinearProcess = path.process
        self.support = path.reference.support
        self.pairs = list(pairwise(times))
        self.spread = [
            torch.where(self.support, self.process.transition(a, b).variance, 0.0).sqrt() for a, b in self.pairs
        ]
        self.states = [start]
        for a, b in self.pairs:
            self.states.append(self.process.step(self.states[-1], a, b, None, self.support))

    @property
    def mean(self) -> Tensor:
        """The end of the run without noise."""
        return self.states[-1]

    def noisy(self, noise: Tensor) -> Tensor:
        """The end of the run with unit noise of shape (substeps, *start.shape)."""
        y = self.states[0]
        for (a, b), one in zip(self.pairs, noise, strict=True):
            y = self.process.step(y, a, b, one, self.support)
        return y

    def _step(self, index: int) -> Callable[[Tensor], Tensor]:
        a, b = self.pairs[index]
        return lambda y: self.process.step(y, a, b, None, self.support)

    def covariance(self, p: Tensor) -> Tensor:
        """C p = Σ_i T_i S_i T_iᵀ p."""
        pulled = [p]
        for i in range(len(self.pairs) - 1, 0, -1):
            back = torch.func.vjp(self._step(i), self.states[i])[1]
            pulled.append(back(pulled[-1])[0])
        total = torch.zeros_like(p)
        for i, weight in enumerate(reversed(pulled)):
            if i:
                total = torch.func.jvp(self._step(i), (self.states[i],), (total,))[1]
            total = total + self.spread[i].square() * weight
        return torch.where(self.support, total, 0.0)

    def solve(self, deviation: Tensor, tolerance: float = 1e-6, most: int = 100) -> Tensor:
        """C⁻¹ of a deviation on the support, by conjugate gradients preconditioned by the linear part's variance."""
        preconditioner = torch.where(self.support, 1 / self._whole_variance(), 0.0)
        x = torch.zeros_like(deviation)
        r = torch.where(self.support, deviation, 0.0)
        z = preconditioner * r
        p, rho = z, _dot(r, z)
        goal = tolerance**2 * rho
        for _ in range(most):
            going = rho > goal  # a row that has converged is left alone: it is the same in any company
            if not bool(going.any()):
                return x
            cp = self.covariance(p)
            alpha = torch.where(going, rho / _dot(p, cp).clamp(min=torch.finfo(torch.float64).tiny), 0.0)
            x, r = x + alpha * p, r - alpha * cp
            z = preconditioner * r
            rho, previous = _dot(r, z), rho
            p = z + rho / previous.clamp(min=torch.finfo(torch.float64).tiny) * p
        raise FloatingPointError(
            f"{type(self.process).__name__}: a linearised window does not converge in {most} iterations: it is too "
            "long for the reaction; lower the tolerance of the path's windows."
        )

    def _whole_variance(self) -> Tensor:
        received = self.process.transition(self.pairs[0][0], self.pairs[-1][1]).variance
        return torch.where(self.support, received, 1.0)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each row, shape (batch, 1, ..., 1)."""
    return (a * b).flatten(1).sum(1).reshape(-1, *[1] * (a.ndim - 1))
