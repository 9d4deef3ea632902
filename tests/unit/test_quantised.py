"""Bits per dimension: below the exact probability of a discrete law, close where the quantum is fine; else refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from physdiff.basis import IdentityBasis, SpectralBasis
from physdiff.clock_fit import fit_clock
from physdiff.denoisers import GaussianDenoiser
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.likelihood import log_likelihood
from physdiff.path import ReferencePath
from physdiff.processes.heat import Heat
from physdiff.processes.variance_preserving import VariancePreserving
from physdiff.quantised import bits_per_dimension, dequantise

torch.set_num_threads(1)
SIGMA = (1.0, 2.5)


def law() -> GaussianDenoiser:
    """Independent cells, two channels of unequal width."""
    basis = IdentityBasis(Grid(8))
    spectrum = torch.tensor(SIGMA, dtype=torch.float64).square().unsqueeze(1).expand(2, 8)
    reference = GaussianField(basis, torch.zeros_like(spectrum), spectrum)
    return GaussianDenoiser(ReferencePath(fit_clock(VariancePreserving(basis), reference), reference))


def test_the_bound_is_below_the_discrete_law_and_closes() -> None:
    """A normal law integrated over cells. The gap of fine cells is q²/(24 σ²) nats a value: 1/24 E u² (log p)''."""
    model, n, repeats = law(), 60, 40
    x = model.path.reference.sample(n, torch.Generator().manual_seed(0))
    gaps = []
    for quantum in (1.0, 0.5, 0.25):
        q, start = torch.tensor([quantum, 2.5 * quantum], dtype=torch.float64), torch.tensor([0.3, -0.1]).double()
        steps = ((x - start.reshape(2, 1)) / q.reshape(2, 1)).round()
        values = start.reshape(2, 1) + steps * q.reshape(2, 1)
        edges = [(values + s * q.reshape(2, 1)).numpy() / np.reshape(SIGMA, (2, 1)) for s in (-0.5, 0.5)]
        exact = -np.log2(stats.norm.cdf(edges[1]) - stats.norm.cdf(edges[0])).mean((1, 2))
        generator = torch.Generator().manual_seed(1)
        bits = torch.stack([
            bits_per_dimension(log_likelihood(model, dequantise(values, q, generator, start)), q)
            for _ in range(repeats)
        ])  # fmt: skip
        gap = (bits.mean(0).numpy() - exact) * math.log(2)
        error = float((bits.std(0) * math.log(2)).numpy().mean()) / math.sqrt(n * repeats)
        gaps.append((float(gap.mean()), error))
        expected = quantum**2 / 24
        print(f"q/σ = {quantum}: gap {gap.mean():.5f} ± {error:.5f} nats a value, leading order {expected:.5f}")
        assert gap.mean() > 3 * error  # an upper bound of the bits, in the mean
        assert abs(gap.mean() - expected) < 4 * error + expected * quantum**2 / 4  # the next order is q⁴


def test_noise_fills_the_cell() -> None:
    x = torch.randint(-4, 5, (200, 2, 8), generator=torch.Generator().manual_seed(2)) * 0.1
    noise = (dequantise(x.float(), 0.1, torch.Generator().manual_seed(3)) - x.double()) / 0.1
    count = noise.numel()
    assert -0.5 - 1e-5 < float(noise.min()) < -0.49 and 0.49 < float(noise.max()) < 0.5 + 1e-5
    assert abs(float(noise.mean())) < 4 / math.sqrt(12 * count)
    assert abs(12 * float(noise.var()) - 1) < 4 * math.sqrt(0.8 / count)  # kurtosis of a uniform law: 1.8


def test_what_is_refused() -> None:
    model = law()
    generator = torch.Generator().manual_seed(4)
    x = torch.zeros(2, 2, 8, dtype=torch.float64)
    off = x.clone()
    off[1, 0, 3] = 0.37
    with pytest.raises(ValueError, match=r"the value at index \(1, 0, 3\) is 0.37, 1.48 quanta from the offset 0"):
        dequantise(off, 0.25, generator)
    with pytest.raises(ValueError, match=r"quantum must be positive and finite; got \[-0.5\]"):
        dequantise(x, -0.5, generator)
    with pytest.raises(ValueError, match="one number, or one for each of 2 channels"):
        dequantise(x, torch.ones(3), generator)
    noised = log_likelihood(model, x, scored="noised")
    with pytest.raises(ValueError, match="scored = 'field', the density of x itself; got 'noised'"):
        bits_per_dimension(noised, 0.5)
    band = GaussianField.power_law(SpectralBasis(Grid(8)), 2.0)
    narrow = GaussianDenoiser(ReferencePath(fit_clock(Heat(band.basis), band), band))
    with pytest.raises(ValueError, match="over all 8 values of a field; this law lies on 7 modes"):
        bits_per_dimension(log_likelihood(narrow, band.sample(1, generator)), 0.5)
