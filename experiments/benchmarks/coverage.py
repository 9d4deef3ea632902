"""Do error bars cover? 1,000 estimates of one log-density, each with its own probes and its own interval.

Two laws with exact scores: a mixture of sixteen Gaussians, whose residual has many comparable directions, and one of
three, whose residual has two. The integration is the same for all (fourth order, fixed steps), and the truth is the
exact trace of it: what is left is the probes' error alone. An interval covers if the truth is in it; with 1,000 repeats
a rate is known to ±1.4 % at 95 % (two standard errors).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from experiments.benchmarks._writing import keep, table
from physdiff import GaussianField, Grid, Hutchinson, MixtureDenoiser, SpectralBasis, fit_clock, log_likelihood
from physdiff.processes.variance_preserving import VariancePreserving

REPEATS = 1000
LEVELS = (0.5, 0.8, 0.95)
PROBES = (2, 4, 8, 16)


def measure() -> str:
    """The report, in Markdown."""
    torch.set_num_threads(1)
    rows, numbers = [], []
    for components in (16, 3):
        model, x = problem(components)
        settings = {"method": "rk4", "steps": 12, "scored": "state"}
        truth = float(log_likelihood(model, x, trace="exact", **settings).log_prob)
        for probes in PROBES:
            repeated = x.expand(REPEATS, *x.shape[1:])
            found = log_likelihood(model, repeated, trace=Hutchinson(probes), seed=5, chunk=250, **settings)
            spread = float(found.log_prob.std())
            stated = float(found.standard_error.square().mean().sqrt())
            rates = [_covered(found.interval(level), truth) for level in LEVELS]
            bias = float(found.log_prob.mean()) - truth
            rows.append([
                str(components), str(probes), f"{spread:.3f}", f"{stated:.3f}",
                f"{bias / (spread / math.sqrt(REPEATS)):+.1f}", *(f"{100 * r:.1f} %" for r in rates),
            ])  # fmt: skip
            numbers.append({"components": components, "probes": probes, "spread": spread, "stated": stated,
                            "bias": bias, "rates": dict(zip(map(str, LEVELS), rates, strict=True))})  # fmt: skip
    keep("coverage", {"rows": numbers})
    head = ["components", "probes", "spread of estimates", "stated standard error", "bias in its standard errors",
            *(f"covers at {level:.0%}" for level in LEVELS)]  # fmt: skip
    return "\n".join([
        "# Coverage of error bars\n", "`python -m experiments.benchmarks coverage` writes this page.\n",
        (__doc__ or "").split("\n", 1)[1].strip() + "\n", "Spreads and errors in nats, of one field:\n",
        table(head, rows),
    ])  # fmt: skip


def problem(components: int) -> tuple[MixtureDenoiser, Tensor]:
    """A mixture on 36 modes around its own moments, and one state of it at t_min."""
    basis = SpectralBasis(Grid((6, 6)))
    generator = torch.Generator().manual_seed(components)
    weights = torch.rand(components, generator=generator, dtype=torch.float64) + 0.5
    smooth = GaussianField.matern(basis, 0.3).spectrum
    means = smooth.sqrt() * torch.randn(components, 1, 6, 6, generator=generator, dtype=torch.float64)
    spectra = 0.5 * smooth.expand(components, 1, 6, 6)
    reference = MixtureDenoiser.reference(basis, weights, means, spectra)
    process = fit_clock(VariancePreserving(basis), reference, 0.05)
    model = MixtureDenoiser.around_itself(process, weights, means, spectra, 0.05)
    state = model.path.start(model.sample_modes(1, generator), torch.randn(means[:1].shape, generator=generator,
                                                                           dtype=torch.float64))  # fmt: skip
    return model, basis.inverse(state)


def _covered(interval: tuple[Tensor, Tensor], truth: float) -> float:
    low, high = interval
    return float(((low <= truth) & (truth <= high)).double().mean())
