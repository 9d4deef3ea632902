"""Exact log-densities: error against evaluations, and what the probes of a trace estimate cost in variance.

1. The first mixture of `few_steps` (64 modes, eight Gaussians) under Song's variance-preserving noise; 16 states at t
   = 1e-5, whose log-density is known in closed form. Error in nats, root mean square; calls of the network per field.
   All take the exact trace, so that nothing but the integration and the end at t = 1 is compared.
   - score_sde's recipe, written again: RK45 of scipy on states and log-density together, in x and t, N(0, I) at t =
     1; its drift and its divergence each call the network.
   - flow_matching's `ODESolver.compute_likelihood` (dopri5, exact divergence) on the same law as a rectified flow.
   - k-diffusion's `log_likelihood` has no exact trace; as it is, with its one probe.
2. The variance of one probe. Peers draw ±1 in cells and estimate the divergence of the whole drift. With the
   reference as control variate only the residual's is estimated, and probes drawn in modes see no diagonal part at
   all.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from experiments.benchmarks._peers import k_diffusion
from experiments.benchmarks._writing import curves, keep, table
from experiments.benchmarks.few_steps import CLOCK, denoise_of, mixture_model
from physdiff import (
    GaussianDenoiser,
    GaussianField,
    Grid,
    Hutchinson,
    LinearRateClock,
    MixtureDenoiser,
    SpectralBasis,
    log_likelihood,
)  # fmt: skip
from physdiff.denoisers import PosteriorMean
from physdiff.path import ReferencePath
from physdiff.processes.variance_preserving import VariancePreserving

HERE = Path(__file__).parent
FIELDS, T_MIN = 16, 1e-5
TOLERANCES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
GOALS = (1e-1, 1e-2, 1e-3, 1e-4)
PROBES = 400


def measure() -> str:
    """The report, in Markdown."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    model, states = problem()
    truth = model.log_prob(states, T_MIN)
    methods: dict[str, Callable[[MixtureDenoiser, Tensor, float], tuple[Tensor, float]]] = {
        "ours": ours, "ours, β to 40": ours_later, "score_sde's recipe": score_sde,
        "flow_matching": flow_matching, "k-diffusion, one probe": k_diff,
    }  # fmt: skip
    found: dict[str, list[tuple[float, float]]] = {}
    for name, method in methods.items():
        found[name] = []
        for tolerance in TOLERANCES:
            values, calls = method(model, states, tolerance)
            found[name].append((calls, float((values.detach() - truth).square().mean().sqrt())))
    variances = {name: probe_spreads(*case()) for name, case in FIELD_LAWS.items()}
    keep("likelihood", {"errors": found, "tolerances": TOLERANCES, "probe_spreads": variances})
    curves(
        HERE / "likelihood.png", {f"{'ours: ' if n.startswith('ours') else ''}{n}": dict(v) for n, v in found.items()},  # type: ignore[misc]
        "calls of the network per field", "error, nats",
    )  # fmt: skip
    return "\n".join([
        "# Log-densities\n", "`python -m experiments.benchmarks likelihood` writes this page.\n",
        (__doc__ or "").split("\n", 1)[1].strip() + "\n", "## Error against evaluations\n",
        _errors(found), _goals(found),
        "![Errors](likelihood.png)\n", "## One probe\n", _spreads(variances),
    ])  # fmt: skip


def problem() -> tuple[MixtureDenoiser, Tensor]:
    """The mixture with its earliest time at score_sde's, and states there."""
    wide = mixture_model("flat")
    path = ReferencePath(wide.path.process, wide.path.reference, T_MIN)
    model = MixtureDenoiser(path, wide.log_weights.exp(), wide.means, wide.spectra)
    g = torch.Generator().manual_seed(3)
    clean = model.sample_modes(FIELDS, g)
    return model, path.start(clean, torch.randn(clean.shape, generator=g, dtype=torch.float64))


# ---- the methods


def ours(model: MixtureDenoiser, states: Tensor, tolerance: float) -> tuple[Tensor, float]:
    """`physdiff.log_likelihood` with its default method."""
    x = model.path.basis.inverse(states)
    found = log_likelihood(model, x, trace="exact", scored="state", rtol=tolerance, atol=tolerance)
    return found.log_prob, float(found.evaluations_per_field.double().mean())


def ours_later(model: MixtureDenoiser, states: Tensor, tolerance: float) -> tuple[Tensor, float]:
    """The same from the same states, with noise that runs on to β = 40: the end at t = 1 is then forgotten."""
    path = model.path
    clock = LinearRateClock(0.1, 40.0)
    t_min = float(clock.inverse(path.at(T_MIN).time))
    later = ReferencePath(VariancePreserving(path.basis, clock=clock), path.reference, t_min)
    return ours(MixtureDenoiser(later, model.log_weights.exp(), model.means, model.spectra), states, tolerance)


def score_sde(model: MixtureDenoiser, states: Tensor, tolerance: float) -> tuple[Tensor, float]:
    """`likelihood.py` of score_sde_pytorch: a batch is one system, and every evaluation is two calls."""
    path, shape = model.path, states.shape
    calls = 0

    def score(x: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return model.score(x, t)

    def right_hand_side(t: float, state: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(state[: states.numel()].reshape(shape)).requires_grad_()
        time = torch.tensor(t, dtype=torch.float64)
        beta = CLOCK.rate(time)
        drift = -0.5 * beta * (x.detach() + score(x.detach(), time))
        divergence = _trace(lambda y: -0.5 * beta * (y + score(y, time)), x)
        return np.concatenate([drift.detach().flatten().numpy(), divergence.numpy()])

    start = np.concatenate([path.basis.inverse(states).flatten().numpy(), np.zeros(len(states))])
    solution = solve_ivp(right_hand_side, (T_MIN, 1.0), start, rtol=tolerance, atol=tolerance, method="RK45")
    end = torch.from_numpy(solution.y[:, -1])
    x, gained = end[: states.numel()].reshape(len(states), -1), end[states.numel() :]
    prior = -0.5 * x.square().sum(1) - 0.5 * x.shape[1] * math.log(2 * math.pi)
    return prior + gained, float(calls)


def _trace(drift: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The exact divergence, one product a dimension."""
    with torch.enable_grad():
        v = drift(x).flatten(1)
        total = torch.zeros(len(x), dtype=x.dtype)
        for k in range(v.shape[1]):
            (row,) = torch.autograd.grad(v[:, k].sum(), x, retain_graph=True)
            total += row.flatten(1)[:, k]
    return total.detach()


def flow_matching(model: MixtureDenoiser, states: Tensor, tolerance: float) -> tuple[Tensor, float]:
    """Its own solver, on x_t = t x₁ + (1 − t) x₀ up to the noise of T_MIN."""
    from flow_matching.solver import ODESolver
    from flow_matching.utils import ModelWrapper

    denoise = denoise_of(model)
    calls = 0
    point = model.path.at(T_MIN)
    gain, smallest = float(point.amplitude), float((point.noise_variance / point.amplitude.square()).max().sqrt())
    span = 1 / (1 + smallest)  # t of the flow at which the noise-to-signal ratio is that of T_MIN

    class Velocity(ModelWrapper):
        def forward(self, x: Tensor, t: Tensor, **_: Any) -> Tensor:
            nonlocal calls
            calls += 1
            share = span * t
            if float(share) < 1e-12:
                return span * (model.path.reference.mean.flatten() - x)
            clean = denoise(x / share, float((1 - share) / share))
            noise = (x - share * clean) / (1 - share)
            return span * (clean - noise)

    def prior(x: Tensor) -> Tensor:
        return -0.5 * x.square().sum(1) - 0.5 * x.shape[1] * math.log(2 * math.pi)

    scaled = (states / gain * span).flatten(1)
    _, values = ODESolver(Velocity(torch.nn.Identity())).compute_likelihood(
        scaled, prior, step_size=None, method="dopri5", rtol=tolerance, atol=tolerance, exact_divergence=True,
        time_grid=torch.tensor([1.0, 0.0], dtype=torch.float64),
    )  # fmt: skip
    return values.detach() + scaled.shape[1] * math.log(span / gain), float(calls)


def k_diff(model: MixtureDenoiser, states: Tensor, tolerance: float) -> tuple[Tensor, float]:
    """Its own function, with its one probe."""
    path = model.path
    low, high = (math.sqrt(math.expm1(float(path.at(t).time))) for t in (T_MIN, 1.0))
    gain = float(path.at(T_MIN).amplitude)
    denoise = denoise_of(model)
    torch.manual_seed(0)
    values, information = k_diffusion().log_likelihood(
        lambda x, sigma: denoise(x, float(sigma[0])),
        (states / gain).flatten(1),
        low,
        high,
        atol=tolerance,
        rtol=tolerance,
    )
    return values - states[0].numel() * math.log(gain), float(information["fevals"])


# ---- probes

FIELD_LAWS: dict[str, Callable[[], tuple[PosteriorMean, Tensor]]] = {}


def _field_law(name: str) -> Callable[[Callable[[], tuple[PosteriorMean, Tensor]]], Any]:
    def enter(case: Callable[[], tuple[PosteriorMean, Tensor]]) -> Any:
        FIELD_LAWS[name] = case
        return case

    return enter


def _correlated() -> GaussianField:
    return GaussianField.power_law(SpectralBasis(Grid((8, 8), (1.0, 1.0), "periodic")), 3.0)


@_field_law("Gaussian field, power k⁻³")
def gaussian_field() -> tuple[PosteriorMean, Tensor]:
    """64 cells; one state at t_min."""
    reference = _correlated()
    path = ReferencePath(VariancePreserving(reference.basis, clock=CLOCK), reference, 1e-3)
    g = torch.Generator().manual_seed(5)
    clean = reference.basis.forward(reference.sample(1, g))
    return GaussianDenoiser(path), path.start(clean, torch.randn(clean.shape, generator=g, dtype=torch.float64))


@_field_law("mixture of eight, power k⁻³")
def mixture_field() -> tuple[PosteriorMean, Tensor]:
    """64 cells; one state at t_min."""
    smooth = _correlated().spectrum
    g = torch.Generator().manual_seed(6)
    means = 0.8 * smooth.sqrt() * torch.randn(8, *smooth.shape, generator=g, dtype=torch.float64)
    spread = torch.exp(0.7 * torch.randn(8, *smooth.shape, generator=g, dtype=torch.float64))
    weights = torch.rand(8, generator=g, dtype=torch.float64) + 0.5
    process = VariancePreserving(_correlated().basis, clock=CLOCK)
    model = MixtureDenoiser.around_itself(process, weights, means, 0.36 * smooth * spread, 1e-3)
    clean = model.sample_modes(1, g)
    return model, model.path.start(clean, torch.randn(clean.shape, generator=g, dtype=torch.float64))


def probe_spreads(model: PosteriorMean, state: Tensor) -> dict[str, float]:
    """Standard deviation over probes of one estimate of the log-density, in nats, by where probes live and of what."""
    basis, shape = model.path.basis, state.shape[1:]
    signs = 2.0 * torch.randint(0, 2, (PROBES, *shape), generator=torch.Generator().manual_seed(7)).double() - 1
    in_modes = {"cells": basis.forward(signs), "modes": signs}
    found = {f"whole drift, probes in {where}": float(_whole_drift(model, state, p).std())
             for where, p in in_modes.items()}  # fmt: skip
    x = basis.inverse(state).expand(PROBES, *basis.inverse(state).shape[1:])
    for where in ("cells", "modes"):
        scored = log_likelihood(model, x, trace=Hutchinson(1, where), method="rk4", steps=48, scored="state", seed=8)
        found[f"residual, probes in {where}"] = float(scored.log_prob.std())
    return found


def _whole_drift(model: PosteriorMean, state: Tensor, probes: Tensor, steps: int = 48) -> Tensor:
    """∫ εᵀJε dlog τ for every probe ε along one flow, J the Jacobian of the drift, as peers have it; shape (probes,).

    By the classical fourth-order rule. Of the residual alone the library itself is asked.
    """
    path = model.path
    log_times = torch.linspace(
        float(path.at(path.t_min).time.log()), float(path.at(1.0).time.log()), steps + 1
    ).double()

    def rate(log_time: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        point = path.at_time(log_time.exp())
        half = 0.5 * point.time * path.process.noise_spectrum(point.time)
        with torch.enable_grad():
            u = y.detach().requires_grad_()
            t = path.clock.inverse(point.time)
            score = path.basis.forward(model.score(path.basis.inverse(u), t))
            drift = point.time * path.process.drift_symbol(point.time) * u - half * score
            rows = torch.stack([_row(drift, u, e) for e in probes])
        return drift.detach(), (rows * probes).flatten(1).sum(1)

    y, total = state, torch.zeros(len(probes), dtype=torch.float64)
    for a, b in pairwise(log_times):
        h = b - a
        k1, d1 = rate(a, y)
        k2, d2 = rate(a + h / 2, y + h / 2 * k1)
        k3, d3 = rate(a + h / 2, y + h / 2 * k2)
        k4, d4 = rate(b, y + h * k3)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        total = total + h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
    return total


def _row(v: Tensor, at: Tensor, e: Tensor) -> Tensor:
    """eᵀJ."""
    (row,) = torch.autograd.grad(v, at, e[None], retain_graph=True, allow_unused=True, materialize_grads=True)
    return row[0]


# ---- words


def _errors(found: dict[str, list[tuple[float, float]]]) -> str:
    rows = []
    for i, tolerance in enumerate(TOLERANCES):
        cells = [f"{found[name][i][0]:.0f} calls, {found[name][i][1]:.1e}" for name in found]
        rows.append([f"{tolerance:g}", *cells])
    return table(["rtol = atol", *found], rows)


def calls_to(points: list[tuple[float, float]], goal: float) -> float:
    """Calls at which the error first is below a goal, between measurements by the straight line of logarithms."""
    if points[0][1] <= goal:
        return points[0][0]
    for (calls, error), (more, smaller) in pairwise(points):
        if smaller <= goal < error:
            share = math.log(error / goal) / math.log(error / smaller)
            return math.exp(math.log(calls) + share * math.log(more / calls))
    return math.inf


def _goals(found: dict[str, list[tuple[float, float]]]) -> str:
    rows = []
    for goal in GOALS:
        needed = {name: calls_to(points, goal) for name, points in found.items()}
        ours_needs = min(n for name, n in needed.items() if name.startswith("ours"))
        cells = []
        for name, n in needed.items():
            share = "" if name.startswith("ours") or math.isinf(n) else f" (ours {ours_needs / n:.2f} of it)"
            cells.append("never" if math.isinf(n) else f"{n:.0f}{share}")
        rows.append([f"{goal:g} nats", *cells])
    head = "Calls to an error, between tolerances on a straight line of logarithms; shares are of the better of ours:"
    return f"{head}\n\n" + table(["error", *found], rows)


def _spreads(variances: dict[str, dict[str, float]]) -> str:
    names = list(next(iter(variances.values())))
    rows = [[name, *(f"{v[n]:.2g}" for n in names)] for name, v in variances.items()]
    peers, best = names[0], names[-1]
    lines = []
    for name, v in variances.items():
        gain = (v[peers] / v[best]) ** 2 if v[best] > 1e-12 else math.inf
        spread = math.sqrt(8 / PROBES)  # relative standard error of a ratio of two variances of normal numbers
        lines.append(f"{name}: no variance left" if math.isinf(gain) else
                     f"{name}: variance {gain:.1f} ± {gain * spread:.1f} times smaller")  # fmt: skip
    return (
        f"Standard deviation of one estimate in nats, over {PROBES} probes along one flow.\n\n"
        + table(["law", *names], rows)
        + f"\nOurs ({best}) against peers' way ({peers}): {'; '.join(lines)}.\n"
    )
