"""Gaussian fields given some cells, against dense linear algebra written out."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import multivariate_normal
from torch import Tensor

from physdiff import GaussianField, Grid, SpectralBasis
from physdiff.kriging import Kriging
from physdiff.randomness import keyed_generator

SHARES = {"few_missing": 0.2, "few_observed": 0.75, "half": 0.5}


def law_on(grid: Grid, channels: int = 2) -> GaussianField:
    basis = SpectralBasis(grid)
    law = GaussianField.matern(basis, 0.3, 1.5, channels=channels)
    generator = keyed_generator(0, "law")
    scale = torch.arange(1, channels + 1, dtype=torch.float64).reshape(-1, *[1] * grid.ndim)
    mean = torch.randn(law.mean.shape, generator=generator, dtype=torch.float64)
    return GaussianField(basis, mean, scale * law.spectrum + 1e-3)


def some_cells(law: GaussianField, missing: float) -> Tensor:
    draws = torch.rand(law.spectrum.shape, generator=keyed_generator(1, "mask"), dtype=torch.float64)
    return draws >= missing


def dense(law: GaussianField, channel: int) -> tuple[Tensor, Tensor]:
    """Mean and covariance of one channel's cells."""
    u = law.basis.dense()
    return u @ law.mean[channel].flatten(), u @ torch.diag(law.spectrum[channel].flatten()) @ u.T


GRIDS = {
    "periodic_1d": Grid(24), "walls_2d": Grid((6, 5), boundary=("neumann", "dirichlet")), "mixed_2d": Grid((4, 6), 1.0,
    ("periodic", "neumann")),
}  # fmt: skip


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("iterative", [False, True])
def test_mean_density_and_variance(grid: str, share: str, iterative: bool) -> None:
    law = law_on(GRIDS[grid])
    observed = some_cells(law, SHARES[share])
    x = law.sample(3, keyed_generator(2, "fields"))
    found = Kriging(law, observed, dense=0 if iterative else None)
    filled = found.mean(torch.where(observed, x, math.nan))
    expected, log_prob, variance = torch.empty_like(x), torch.zeros(3, dtype=torch.float64), []
    for c in range(law.channels):
        mean, covariance = dense(law, c)
        o = observed[c].flatten()
        gain = covariance[:, o] @ torch.linalg.inv(covariance[o][:, o])
        deviation = x[:, c].flatten(1)[:, o] - mean[o]
        expected[:, c] = (mean + deviation @ gain.T).reshape(-1, *GRIDS[grid].shape)
        log_prob += torch.from_numpy(
            multivariate_normal(mean[o].numpy(), covariance[o][:, o].numpy()).logpdf(x[:, c].flatten(1)[:, o].numpy())
        )
        left = covariance - gain @ covariance[o]
        u = law.basis.dense()
        variance.append((u.T @ left @ u).diagonal().reshape(GRIDS[grid].shape))
    # The spectrum spans 3e3; the conjugate gradients stop at 1e-10.
    torch.testing.assert_close(filled, expected, rtol=0, atol=1e-8 if iterative else 1e-11)
    assert torch.equal(filled[:, observed], x[:, observed])
    torch.testing.assert_close(found.log_prob(x), log_prob, rtol=1e-11, atol=0)
    assert found.log_prob_error() == 0
    if iterative:
        with pytest.raises(ValueError, match="the variance that is left in each mode needs at most"):
            found.mode_variance()
        return
    torch.testing.assert_close(found.mode_variance(), torch.stack(variance), rtol=0, atol=1e-11)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("iterative", [False, True])
def test_draws_have_the_conditional_law(share: str, iterative: bool) -> None:
    law = law_on(GRIDS["periodic_1d"], 1)
    observed = some_cells(law, SHARES[share])
    x = law.sample(1, keyed_generator(3, "field"))
    n = 20_000
    noise = torch.randn((n, *x.shape[1:]), generator=keyed_generator(4, "noise"), dtype=torch.float64)
    draws = Kriging(law, observed, dense=0 if iterative else None).draw(x.expand(n, -1, -1), noise)[:, 0]
    mean, covariance = dense(law, 0)
    o = observed[0]
    gain = covariance[:, o] @ torch.linalg.inv(covariance[o][:, o])
    left = (covariance - gain @ covariance[o])[~o][:, ~o]
    assert torch.equal(draws[:, o], x[0, 0, o].expand(n, -1))
    deviation = draws[:, ~o] - (mean + gain @ (x[0, 0, o] - mean[o]))[~o]
    # White under the exact law: 4 standard errors of means and of a covariance's entries.
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(left), deviation.T, upper=False)
    assert float(white.mean(1).abs().max()) < 4.5 / math.sqrt(n)
    error = white @ white.T / n - torch.eye(len(white), dtype=torch.float64)
    assert float(error.abs().max()) < 4.5 * math.sqrt(2 / n)


def test_density_factorises() -> None:
    """log p(x) = log p(x_O) + log p(x_M | x_O), the latter a normal of the draws' own law."""
    law = law_on(GRIDS["mixed_2d"])
    observed = some_cells(law, 0.4)
    krige = Kriging(law, observed)
    x = law.sample(4, keyed_generator(5, "fields"))
    conditional = torch.zeros(4, dtype=torch.float64)
    for c in range(law.channels):
        _, covariance = dense(law, c)
        o = observed[c].flatten()
        precision = torch.linalg.inv(covariance)[~o][:, ~o]
        at = krige.mean(x)[:, c].flatten(1)[:, ~o]
        d = x[:, c].flatten(1)[:, ~o] - at
        conditional += 0.5 * (torch.logdet(precision) - len(precision) * math.log(2 * math.pi)) - 0.5 * (
            (d @ precision) * d
        ).sum(1)
    torch.testing.assert_close(krige.log_prob(x) + conditional, law.log_prob(x), rtol=1e-10, atol=0)


def test_modes_without_variance() -> None:
    """A mean-free field: one cell that is missing is determined by the rest."""
    basis = SpectralBasis(Grid(8))
    spectrum = torch.where(basis.laplacian > 0, 1.0, 0.0).to(torch.float64)
    law = GaussianField.centred(basis, spectrum)
    observed = torch.ones(1, 8, dtype=torch.bool)
    observed[0, 3] = False
    x = law.sample(5, keyed_generator(6, "fields"))
    torch.testing.assert_close(Kriging(law, observed).mean(x), x, rtol=0, atol=1e-12)


def test_what_is_refused() -> None:
    law = law_on(GRIDS["periodic_1d"])
    with pytest.raises(ValueError, match=r"observed cells have the shape \(2, 24\), bool; got \(24,\)"):
        Kriging(law, torch.ones(24, dtype=torch.bool))
    nothing = torch.ones(2, 24, dtype=torch.bool)
    nothing[1] = False
    with pytest.raises(ValueError, match="channel 1 has no observed cell"):
        Kriging(law, nothing)
    x = law.sample(1, keyed_generator(7, "field"))
    x[0, 0, 2] = math.nan
    with pytest.raises(ValueError, match="an observed cell holds a value that is not finite"):
        Kriging(law, some_cells(law, 0.0)).mean(x)


@pytest.mark.parametrize("grid", GRIDS)
def test_cells_that_determine_each_other_are_refused(grid: str) -> None:
    law = law_on(GRIDS[grid], 1)
    spectrum, n = law.spectrum.clone(), law.spectrum.numel()
    spectrum.view(-1)[[0, 1, 2]] = 0.0
    flat = GaussianField(law.basis, torch.where(spectrum > 0, law.mean, 0.0), law.basis.symmetrise(spectrum))
    rank = int((flat.spectrum > 0).sum())
    generator = keyed_generator(3, "cells")
    for _ in range(10):
        observed = torch.zeros(n, dtype=torch.bool)
        observed[torch.randperm(n, generator=generator)[: rank + 1]] = True
        with pytest.raises(ValueError, match=f"has a variance in {rank} of {n} modes, too few for the cells"):
            Kriging(flat, observed.reshape(law.spectrum.shape))


def test_a_spectrum_over_eleven_decades_is_still_exact() -> None:
    law = law_on(Grid(16), 1)
    steep = GaussianField(
        law.basis, law.mean, law.basis.symmetrise(torch.logspace(0, -11, 16, dtype=torch.float64)[None])
    )
    x = steep.sample(2, keyed_generator(2, "fields"))
    whole = torch.ones(1, 16, dtype=torch.bool)
    expected = steep.log_prob(x)
    assert torch.allclose(Kriging(steep, whole).log_prob(x), expected, rtol=0, atol=1e-3)
