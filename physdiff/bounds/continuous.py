r"""The bound of infinitely many steps.

The limit of many transitions is an integral over the signal-to-noise ratio SNR = |m|²/S of each mode,

    ½ ∫ Σ_k (−dSNR/dτ) E|y_0 − D|² dτ,      −dSNR/dτ = n|m|²/S²,

from t_min to 1. Under the reference it is known, and the difference |y_0 − D|² − |y_0 − W|² is sampled at times that
are uniform in log τ within strata of equal length. Prior and decoder (from t_min to the clean field) are those of the
discrete bound. The variance of the transitions does not matter in the limit, nor does the clock between t_min and 1.

With the exact denoiser of the data nothing is lost but E[log p_1(y_1) − log p_ref(y_1)], p_1 the law at t = 1, and by
how much the posterior of the clean field at t_min differs from a Gaussian.

Source: Kingma, Salimans, Poole and Ho (2021), eq. 15 to 18, per mode.
"""

from __future__ import annotations

import torch
from torch import Tensor
from tqdm import trange

from physdiff.bounds.bound import Bound
from physdiff.bounds.discrete import expected_cost, sampled_cost
from physdiff.bounds.door import Draws, checked_deviation, require_counts, require_linear, require_variance
from physdiff.bounds.terms import Clean, missed_in_states, transition
from physdiff.condition import Given
from physdiff.denoisers.posterior_mean import PosteriorMean
from physdiff.path import PathPoint

DECODERS = ("reference", "learned")


def continuous_elbo(
    denoiser: PosteriorMean,
    x: Tensor,
    *,
    strata: int = 32,
    variance: str = "reference",
    uncertainty: float = 1.0,
    draws: int = 4,
    seed: int = 0,
    first: int = 0,
    condition: Given | None = None,
    chunk: int = 64,
    progress: bool = False,
) -> Bound:
    """Lower bound on the log-density of clean fields under the reverse stochastic equation of a denoiser.

    Args:
        denoiser: The model or an exact denoiser, under any linear process.
        x: Clean fields in the model's units, shape (n, channels, *grid).
        strata: Parts of equal log τ between t_min and 1; each is a term of the result. The bound does not depend on
            their number, its standard error does.
        variance: Of the decoder, "reference" (cS/V) or "learned" (`denoiser.posterior_variance`).
        uncertainty: Factor of it, above 0.
        draws: Times and states drawn of each field in each of the strata.
        seed: Field i draws its times and noise from (seed, first + i).
        first: Number of the first field, where x is a part of more.
        condition: Passed on to the denoiser, shape (n, ...).
        chunk: States that are computed together.
        progress: Whether to show a bar.

    Raises:
        ValueError: as for `elbo`.
    """
    require_linear(denoiser, "continuous_elbo")
    require_counts(strata=strata, draws=draws, chunk=chunk)
    if variance not in DECODERS:
        raise ValueError(f"variance of a continuous bound is that of its decoder, one of {DECODERS}; got '{variance}'.")
    require_variance(variance, uncertainty)
    path = denoiser.path
    clean = Clean(path, checked_deviation(path, x, condition))
    states = Draws(clean.deviation, condition, draws, seed, chunk, first)
    latest, earliest = path.at(1.0).time.log(), path.at(path.t_min).time.log()
    edges = torch.exp(latest + (earliest - latest) * torch.linspace(0, 1, strata + 1, dtype=torch.float64))
    times = path.clock.inverse(edges)
    times[0], times[-1] = 1.0, path.t_min
    exact, sampled = [clean.prior()], [torch.zeros(len(x), draws, dtype=torch.float64)]
    points = [path.at(1.0), *(path.at_time(time) for time in edges[1:-1]), path.at(path.t_min)]
    for i in trange(strata, desc="bound", unit="stratum", disable=not progress, leave=False):
        exact.append(clean.accumulated(points[i + 1]) - clean.accumulated(points[i]))
        sampled.append(_sampled_integral(denoiser, states, edges[i + 1], edges[i]))
    here = points[-1]
    step = transition(path, here, path.at(0.0), variance)
    exact.append(expected_cost(step, clean, here, uncertainty))
    start = torch.tensor(path.t_min, dtype=torch.float64)
    sampled.append(sampled_cost(step, denoiser, states, here, start, uncertainty, variance == "learned"))
    return Bound.of_draws(
        torch.stack(exact, 1),
        torch.stack(sampled, 2),
        path.reference.log_prob_of_deviation(clean.deviation),
        torch.cat([times, torch.zeros(1, dtype=torch.float64)]),
        evaluations=(strata + 1) * draws,
        n_support=path.reference.n_support,
    )


def _sampled_integral(denoiser: PosteriorMean, states: Draws, low: Tensor, high: Tensor) -> Tensor:
    """½ ∫ Σ (−dSNR/dτ) (|y_0 − D|² − |y_0 − W|²) dτ from `low` to `high`, shape (n, draws)."""
    path, found = denoiser.path, []
    width = torch.log(high / low)
    for rows, deviation, given in states.groups():
        time = low * torch.exp(width * states.uniform(rows))
        t = path.clock.inverse(time)
        point = path.at_time(time.reshape(-1, *[1] * (deviation.ndim - 1)))
        missed = missed_in_states(denoiser, point, t, deviation, states.noise(rows), given, with_variance=False)
        per_log_time = width * point.time * sharpening_rate(point)
        gained = 0.5 * (per_log_time * (missed.by_model - missed.by_reference)).flatten(1).sum(1)
        found.append(gained.reshape(-1, states.draws))
    return torch.cat(found)


def sharpening_rate(point: PathPoint) -> Tensor:
    """−dSNR/dτ = n|m|²/S², zero outside the support."""
    support, noise_rate = point.path.reference.support, point.path.process.noise_spectrum(point.time)
    noise = torch.where(support, point.noise_variance, 1.0)
    return torch.where(support, noise_rate * (point.amplitude / noise).square(), 0.0)
