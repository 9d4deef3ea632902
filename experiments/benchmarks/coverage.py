"""Do error bars cover? 1,000 estimates of one log-density, each with its own probes and its own interval.

Three models: a U-Net with random weights, whose residual has many comparable directions, and exact scores of mixtures
of sixteen and of three Gaussians, whose residual has few: where two components compete, one. The integration is the
same for all (fourth order, fixed steps), and the truth is the exact trace of it: what is left is the probes' error
alone. An interval covers if the truth is in it; with 1,000 repeats a rate is known to ±1.4 % at 95 % (two standard
errors).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from experiments.benchmarks._writing import keep, table
from physdiff import (
    Denoiser,
    GaussianField,
    Grid,
    Hutchinson,
    MixtureDenoiser,
    PosteriorMean,
    ReferencePath,
    SpectralBasis,
    fit_clock,
    log_likelihood,
)  # fmt: skip
from physdiff.networks import UNet
from physdiff.processes.variance_preserving import VariancePreserving

REPEATS = 1000
LEVELS = (0.5, 0.8, 0.95)
PROBES = (2, 4, 8, 16)


def measure() -> str:
    """The report, in Markdown."""
    torch.set_num_threads(1)
    rows, numbers = [], []
    for name, (model, x) in problems().items():
        settings: dict[str, Any] = {"method": "rk4", "steps": 8, "scored": "state"}
        truth = float(log_likelihood(model, x, trace="exact", **settings).log_prob)
        for probes in PROBES:
            repeated = x.expand(REPEATS, *x.shape[1:])
            found = log_likelihood(model, repeated, trace=Hutchinson(probes), seed=5, chunk=250, **settings)
            spread = float(found.log_prob.std())
            stated = float(found.standard_error.square().mean().sqrt())
            rates = [_covered(found.interval(level), truth) for level in LEVELS]
            bias = float(found.log_prob.mean()) - truth
            rows.append([
                name, str(probes), f"{spread:.3f}", f"{stated:.3f}",
                f"{bias / (spread / math.sqrt(REPEATS)):+.1f}", *(f"{100 * r:.1f} %" for r in rates),
            ])  # fmt: skip
            numbers.append({"model": name, "probes": probes, "spread": spread, "stated": stated,
                            "bias": bias, "rates": dict(zip(map(str, LEVELS), rates, strict=True))})  # fmt: skip
    keep("coverage", {"rows": numbers})
    head = ["model", "probes", "spread of estimates", "stated standard error", "bias in its standard errors",
            *(f"covers at {level:.0%}" for level in LEVELS)]  # fmt: skip
    return "\n".join([
        "# Coverage of error bars\n", "`python -m experiments.benchmarks coverage` writes this page.\n",
        (__doc__ or "").split("\n", 1)[1].strip() + "\n", "Spreads and errors in nats, of one field:\n",
        table(head, rows),
    ])  # fmt: skip


def problems() -> dict[str, tuple[PosteriorMean, Tensor]]:
    """Models, and one state of each at t_min."""
    return {"random U-Net, 144 modes": _network(), "16 Gaussians, 36 modes": _mixture(16),
            "3 Gaussians, 36 modes": _mixture(3)}  # fmt: skip


def _network() -> tuple[PosteriorMean, Tensor]:
    basis = SpectralBasis(Grid((12, 12)))
    reference = GaussianField.matern(basis, 0.3)
    path = ReferencePath(fit_clock(VariancePreserving(basis), reference, 0.05), reference)
    network = UNet(basis.grid, 1, width=4, multipliers=(1, 2), blocks=1, seed=0).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():  # its output starts at zero
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    clean = basis.forward(reference.sample(1, generator))
    noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    return Denoiser(network, path).eval(), basis.inverse(path.start(clean, noise))


def _mixture(components: int) -> tuple[PosteriorMean, Tensor]:
    """Around its own moments."""
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
