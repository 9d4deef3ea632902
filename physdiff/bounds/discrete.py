r"""The evidence lower bound of a reverse chain, with the Gaussian part in closed form.

The ancestral rule from the reference at t = 1 down to the clean field defines a density p(y_0), and

    log p(y_0) ≥ −KL(q(y_1 | y_0) ‖ p(y_1)) − Σ E KL(q(y_s | y_t, y_0) ‖ p(y_s | y_t)) + E log p(y_0 | y_{t_min}).

If every reverse kernel is the reference's own, its posterior of the trajectory is q, and the bound is log p_ref(y_0)
itself in any number of steps. So each term is the reference's, whose expectation is known (`physdiff.bounds.terms`),
and the difference of the two *in the same states*, which alone is sampled, and vanishes with the residual.

What is bounded is the density of the chain's samples. Its mean over the data is below that of the data's own density,
minus the entropy; for one field the two may lie in any order.

Source: Ho, Jain and Abbeel (2020), eq. 5; Nichol and Dhariwal (2021), eq. 15; Bao, Li, Zhu and Zhang (2022), theorem 1.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from tqdm import tqdm

from physdiff.bounds.bound import Bound
from physdiff.bounds.door import Draws, checked_deviation, require_counts, require_linear, require_variance
from physdiff.bounds.terms import Clean, Transition, Variance, missed_in_states, transition
from physdiff.condition import Given
from physdiff.denoisers.posterior_mean import PosteriorMean
from physdiff.path import PathPoint
from physdiff.solvers.time_grid import LogSpaced, TimeGrid


def elbo(
    denoiser: PosteriorMean,
    x: Tensor,
    *,
    steps: int = 64,
    time_grid: TimeGrid | None = None,
    variance: Variance = "reference",
    uncertainty: float = 1.0,
    draws: int = 4,
    seed: int = 0,
    first: int = 0,
    condition: Given | None = None,
    chunk: int = 64,
    progress: bool = False,
) -> Bound:
    """Lower bound on the log-density of clean fields under the chain that ancestral sampling runs.

    Args:
        denoiser: The model or an exact denoiser, under any linear process.
        x: Clean fields in the model's units, shape (n, channels, *grid).
        steps: Steps of the chain, the last of them to the clean field.
        time_grid: Where they are; `LogSpaced()` when not given (give `Angle()` for the chain that `sample` runs by
            default with `Ancestral`), `chain.time_grid()` for the levels of a chain.
        variance: Of the reverse kernels. With B the weight of the clean field in the mean, β̃ + |B|²U adds what is not
            known of the clean field: "reference" has U = cS/V, "learned" has `denoiser.posterior_variance`. "posterior"
            is DDPM's β̃, "upper" its β; a number in [0, 1], or one per mode, lies between them in log variance. The
            decoder has variance U, the reference's for all but "learned".
        uncertainty: Factor of U, above 0.
        draws: States drawn of each field at each time.
        seed: Field i draws its noise from (seed, first + i).
        first: Number of the first field, where x is a part of more.
        condition: Passed on to the denoiser, shape (n, ...).
        chunk: States that are computed together.
        progress: Whether to show a bar.

    Raises:
        ValueError: the denoiser is that of a simulated process; x is empty, not on the model's grid, not finite, or has
            energy outside the support; a setting is outside its range.
    """
    require_linear(denoiser, "elbo")
    require_counts(steps=steps, draws=draws, chunk=chunk)
    require_variance(variance, uncertainty)
    path = denoiser.path
    clean = Clean(path, checked_deviation(path, x, condition))
    states = Draws(clean.deviation, condition, draws, seed, chunk, first)
    times = (LogSpaced() if time_grid is None else time_grid).times(path, steps)
    exact, sampled = [clean.prior()], [torch.zeros(len(x), draws, dtype=torch.float64)]
    learned = isinstance(variance, str) and variance == "learned"
    for t, s in tqdm(list(pairwise(times)), desc="bound", unit="step", disable=not progress, leave=False):
        here = path.at(t)
        step = transition(path, here, path.at(s), variance)
        exact.append(expected_cost(step, clean, here, uncertainty))
        sampled.append(sampled_cost(step, denoiser, states, here, t, uncertainty, learned))
    return Bound.of_draws(
        torch.stack(exact, 1),
        torch.stack(sampled, 2),
        path.reference.log_prob_of_deviation(clean.deviation),
        times,
        evaluations=steps * draws,
        n_support=path.reference.n_support,
    )


def expected_cost(step: Transition, clean: Clean, here: PathPoint, uncertainty: float) -> Tensor:
    """Of the Wiener filter with the reference's U, in nats, exact, shape (n,)."""
    return step.cost(uncertainty * here.posterior_variance, clean.missed_by_reference(here))


def sampled_cost(
    step: Transition,
    denoiser: PosteriorMean,
    states: Draws,
    here: PathPoint,
    t: Tensor,
    uncertainty: float,
    learned: bool,
) -> Tensor:
    """Cost of the model less that of the Wiener filter in the same states, in nats, shape (n, draws)."""
    found = []
    for rows, deviation, given in states.groups():
        missed = missed_in_states(denoiser, here, t, deviation, states.noise(rows), given, learned)
        of_reference = uncertainty * here.posterior_variance
        unknown = of_reference if missed.unknown is None else uncertainty * missed.unknown
        if step.decodes and not bool((unknown > 0).expand_as(deviation)[:, step.support].all()):
            raise ValueError(
                "the model's posterior_variance is 0 in a mode of the support: a decoder that claims to know a mode "
                "exactly has no density; use variance='reference'."
            )
        difference = step.cost(unknown, missed.by_model, missed.share) - step.cost(of_reference, missed.by_reference)
        found.append(difference.reshape(-1, states.draws))
    return torch.cat(found)
