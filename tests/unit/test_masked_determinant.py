"""Determinants of observed cells: the estimate against the factorised truth, in its own standard errors."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from physdiff import GaussianField, Grid, SpectralBasis
from physdiff.kriging import Kriging
from physdiff.masked_determinant import diagonal, log_det_of_observed
from physdiff.masked_solve import solve
from physdiff.randomness import keyed_generator

GRIDS = {
    "line": Grid(80), "walls": Grid((14, 12), boundary=("neumann", "dirichlet")),
    "mixed": Grid((16, 12), (2.0, 1.0), ("periodic", "neumann")), "box": Grid((6, 5, 7)),
}  # fmt: skip


def land(basis: SpectralBasis, share: float = 0.5) -> Tensor:
    """Observed cells: where a smooth field is high."""
    field = GaussianField.matern(basis, 0.3, 1.5).sample(1, keyed_generator(0, "land"))[0, 0]
    return field > field.flatten().quantile(share)


def spectrum_of(basis: SpectralBasis, nugget: float) -> Tensor:
    found = GaussianField.matern(basis, 0.2, 1.0).spectrum[0]
    return 3 * (found / found.max() + nugget)


@pytest.mark.parametrize("nugget", [1e-2, 1e-6])
@pytest.mark.parametrize("grid", GRIDS)
def test_the_estimate_is_within_its_error(grid: str, nugget: float) -> None:
    basis = SpectralBasis(GRIDS[grid])
    spectrum, observed = spectrum_of(basis, nugget), land(basis)
    exact = log_det_of_observed(basis, spectrum, observed)
    assert exact.standard_error == 0 and exact.rounds == 0
    u, o = basis.dense(), observed.flatten()
    dense = (u @ torch.diag(spectrum.flatten()) @ u.T)[o][:, o]
    assert exact.value == pytest.approx(float(torch.logdet(dense)), abs=1e-6)
    found = log_det_of_observed(basis, spectrum, observed, factored=0, tolerance=0.02)
    print(grid, nugget, "exact", exact.value, "found", found)
    # What is left beside the error of the rounds is of nodes and solutions.
    assert found.rounds >= 6
    assert abs(found.value - exact.value) < 4 * found.standard_error + 2e-3
    assert found.standard_error < 0.1 * math.sqrt(basis.grid.size)


def test_rounds_end_where_they_are_good_enough() -> None:
    basis = SpectralBasis(GRIDS["mixed"])
    spectrum, observed = spectrum_of(basis, 1e-3), land(basis)
    rough = log_det_of_observed(basis, spectrum, observed, factored=0, tolerance=0.1)
    assert rough.rounds == 6 and 0 < 0.5 * rough.standard_error < 0.1 * int(observed.sum())
    assert log_det_of_observed(basis, spectrum, observed, factored=0, tolerance=0.1) is rough
    assert log_det_of_observed(basis, 2 * spectrum, observed, factored=0, tolerance=0.1) is not rough


@pytest.mark.parametrize("grid", GRIDS)
def test_diagonals(grid: str) -> None:
    basis = SpectralBasis(GRIDS[grid])
    symbol = spectrum_of(basis, 1e-3).log()
    u = basis.dense()
    expected = (u @ torch.diag(symbol.flatten()) @ u.T).diagonal().reshape(GRIDS[grid].shape)
    torch.testing.assert_close(diagonal(basis, symbol), expected, rtol=0, atol=1e-12)


def test_the_error_is_told_with_the_density() -> None:
    """Channels with masks of their own: their errors add in squares, and halve in a log-density."""
    basis = SpectralBasis(GRIDS["mixed"])
    spectrum = torch.stack([spectrum_of(basis, 1e-2), spectrum_of(basis, 1e-4)])
    law = GaussianField(basis, torch.zeros_like(spectrum), spectrum)
    observed = torch.stack([land(basis), land(basis, 0.3)])
    x = law.sample(3, keyed_generator(1, "x"))
    exact, found = Kriging(law, observed), Kriging(law, observed, dense=0, factored=0)
    error = found.log_prob_error()
    each = [
        log_det_of_observed(basis, s, o, factored=0).standard_error for s, o in zip(spectrum, observed, strict=True)
    ]
    assert error == pytest.approx(0.5 * math.hypot(*each)) and exact.log_prob_error() == 0 and error > 0
    off = found.log_prob(x) - exact.log_prob(x)
    print(off, error)
    assert float(off.abs().max()) < 4 * error + 1e-3
    # The same in all fields: it is the determinant's alone.
    assert float(off.max() - off.min()) < 1e-7


def test_a_field_is_solved_alike_beside_others() -> None:
    basis = SpectralBasis(GRIDS["walls"])
    spectrum, missing = spectrum_of(basis, 1e-6), ~land(basis)
    right = torch.where(missing, torch.randn(5, *missing.shape, generator=keyed_generator(2, "r")).double(), 0.0)
    right[3] *= 1e6
    together = solve(basis, 1 / spectrum, missing, right)
    for i in range(5):
        # Products with a factor are rounded by the number of columns; the rest is the same to the bit.
        alone = solve(basis, 1 / spectrum, missing, right[i : i + 1])[0]
        torch.testing.assert_close(alone, together[i], rtol=0, atol=1e-11 * float(right[i].abs().max()))


def test_a_solution_that_is_not_found_is_said() -> None:
    basis = SpectralBasis(Grid(64))
    spectrum = torch.exp(-40 * (basis.laplacian / basis.laplacian.max()))  # 1e-17 at the end: below rounding
    missing = torch.arange(64) < 32
    right = torch.where(missing, torch.randn(1, 64, generator=keyed_generator(3, "r")).double() * 1e17, 0.0)
    with pytest.raises(ValueError, match=r"the 32 missing cells of a channel are known only to .* of their standard"):
        solve(basis, 1 / spectrum, missing, right)
