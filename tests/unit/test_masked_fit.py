"""A Gaussian law from fields with missing cells: the likelihood rises, and the law is found."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from physdiff import GaussianField, Grid, SpectralBasis, masked_fit
from physdiff.kriging import Kriging
from physdiff.masked_fit import fit_masked
from physdiff.randomness import keyed_generator

GRID = Grid((12, 10), boundary=("periodic", "neumann"))


def law() -> GaussianField:
    basis = SpectralBasis(GRID)
    smooth = GaussianField.matern(basis, 0.3, 1.0, channels=2)
    mean = torch.zeros_like(smooth.mean)
    mean[0, 0, 0], mean[1, 0, 1] = 3.0, 1.0
    return GaussianField(basis, mean, smooth.spectrum + 1e-2)


def fields_of(n: int) -> torch.Tensor:
    return law().sample(n, keyed_generator(0, "fields"))


def coast(n: int) -> torch.Tensor:
    """The same cells missing in all fields: a quarter of the box, and less of the second channel."""
    observed = torch.ones(n, 2, *GRID.shape, dtype=torch.bool)
    observed[:, 0, :6, :5] = False
    observed[:, 1, 2:5, 3:6] = False
    return observed


def holes(n: int) -> torch.Tensor:
    """Other cells missing in each field."""
    return torch.rand((n, 2, *GRID.shape), generator=keyed_generator(1, "holes"), dtype=torch.float64) > 0.3


def test_with_nothing_missing_it_is_the_plain_fit() -> None:
    x = fields_of(40)
    for homogeneous in (False, True):
        plain = GaussianField.fit(x, SpectralBasis(GRID), homogeneous=homogeneous)
        found = fit_masked(x, torch.ones_like(x, dtype=torch.bool), SpectralBasis(GRID), homogeneous=homogeneous)
        assert found.converged
        torch.testing.assert_close(found.law.mean, plain.mean, rtol=0, atol=1e-13)
        torch.testing.assert_close(found.law.spectrum, plain.spectrum, rtol=1e-12, atol=0)


@pytest.mark.parametrize("mask", [coast, holes])
def test_the_density_of_the_observed_cells_rises(mask: object) -> None:
    x = fields_of(60)
    observed = mask(60)  # type: ignore[operator]
    found = fit_masked(torch.where(observed, x, math.nan), observed, SpectralBasis(GRID), rounds=25)
    steps = np.diff(found.log_prob)
    print(found.log_prob)
    # n − 1 in place of n is not the maximum of the likelihood: it may take 1/n of a nat a mode.
    assert found.log_prob[-1] > found.log_prob[0] + 1 and steps.min() > -240 / (2 * 60**2) * 2
    # Told the true law, the observed cells are less dense than under the fitted one, but not by more than its freedom.
    true = sum(float(Kriging(law(), observed[i]).log_prob(x[i : i + 1])) for i in range(60)) / 60
    assert 0 < found.log_prob[-1] - true < 240 * 2 / (2 * 60) * 2


@pytest.mark.parametrize("mask", [coast, holes])
def test_the_law_is_found(mask: object) -> None:
    """The spectrum is within the errors of what is observed; the periodogram of filled fields is not."""
    n = 1500 if mask is coast else 100
    x = fields_of(n)
    observed = mask(n)  # type: ignore[operator]
    basis = SpectralBasis(GRID)
    found = fit_masked(torch.where(observed, x, math.nan), observed, basis, homogeneous=False, tolerance=1e-6)
    ratio = (found.law.spectrum / law().spectrum).log()
    start = masked_fit._start(torch.where(observed, x, 0.0), observed, basis, torch.full((2,), 1e-12), False)
    before = (start.spectrum / law().spectrum).log()
    print("rounds", len(found.log_prob), "log ratio", ratio.std(), ratio.abs().max(), "of the start", before.std())
    # A variance from n fields is known to √(2/n); a mode of which a third is unseen, to about twice that.
    assert float(ratio.std()) < 2 * math.sqrt(2 / n)
    assert float(before.std()) > 3 * float(ratio.std())


def test_draws_serve_where_factors_are_too_dear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masked_fit, "DENSE_LIMIT", 0)
    n = 300
    x, observed = fields_of(n), coast(n)
    found = fit_masked(torch.where(observed, x, 0.0), observed, SpectralBasis(GRID), rounds=60)
    assert found.log_prob == () and found.converged
    ratio = (found.law.spectrum / law().spectrum).log()
    print(ratio.std(), ratio.abs().max())
    assert float(ratio.std()) < 3 * math.sqrt(2 / n)


def test_draws_find_a_law_that_is_as_likely(monkeypatch: pytest.MonkeyPatch) -> None:
    """A smooth field and a large land: modes that are hardly observed do not grow by the noise of draws."""
    basis = SpectralBasis(Grid((24, 24), boundary=("neumann", "periodic")))
    smooth = GaussianField.matern(basis, 0.15, 1.5)
    true = GaussianField(basis, smooth.mean, smooth.spectrum + 1e-7 * smooth.spectrum.max())
    x, land = true.sample(300, keyed_generator(2, "fields")), GaussianField.matern(basis, 0.3, 1.0)
    height = land.sample(1, keyed_generator(3, "land"))[0]
    observed = (height < height.quantile(0.55)).expand_as(x).contiguous()
    closed = fit_masked(x[:200], observed[:200], basis, rounds=100, tolerance=1e-3)
    monkeypatch.setattr(masked_fit, "_DEAR", 0)
    drawn = fit_masked(x[:200], observed[:200], basis, rounds=100)
    assert drawn.converged and drawn.log_prob == ()
    scores = {
        name: [float(Kriging(found, observed[0]).log_prob(part).mean()) for part in (x[:200], x[200:])]
        for name, found in (("closed", closed.law), ("drawn", drawn.law), ("true", true))
    }
    print(scores, int(observed[0].sum()))
    # Of the fields it was fitted to, and of others; nats of 317 cells.
    for seen, of_closed in zip(scores["drawn"], scores["closed"], strict=True):
        assert seen > of_closed - 3


def test_what_is_refused() -> None:
    x, basis = fields_of(3), SpectralBasis(GRID)
    whole = torch.ones_like(x, dtype=torch.bool)
    with pytest.raises(ValueError, match="at least 2 fields; got 1"):
        fit_masked(x[:1], whole[:1], basis)
    none = whole.clone()
    none[1, 0] = False
    with pytest.raises(ValueError, match="channel 0 has no observed cell"):
        fit_masked(x, none, basis)
    with pytest.raises(ValueError, match="does not vary where it is observed"):
        fit_masked(torch.zeros_like(x), whole, basis)
