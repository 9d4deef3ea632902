"""Missing cells filled from the reference: the right law, the same draw wherever a field turns up."""

from __future__ import annotations

import math
import pickle

import torch

from physdiff import GaussianField, Grid, SpectralBasis
from physdiff.filling import Filler
from physdiff.randomness import keyed_generator

GRID = Grid((16,), boundary="neumann")


def law() -> GaussianField:
    basis = SpectralBasis(GRID)
    return GaussianField(basis, torch.full((1, 16), 0.2), GaussianField.matern(basis, 0.3, 1.0).spectrum + 0.01)


def masks(n: int) -> torch.Tensor:
    return torch.rand((n, 1, 16), generator=keyed_generator(0, "mask")) > 0.3


def test_filled_fields_have_the_law_of_whole_ones() -> None:
    """Every mode's variance, over fields with other holes each: 4 standard errors of a variance, √(2/n)."""
    n = 6000
    x = law().sample(n, keyed_generator(1, "x"))
    filled = Filler(law())(torch.where(masks(n), x, math.nan), masks(n))
    assert torch.equal(filled[masks(n)], x[masks(n)])
    modes = law().basis.forward(filled) - law().mean
    ratio = modes.square().mean(0) / law().spectrum
    assert float((ratio - 1).abs().max()) < 4 * math.sqrt(2 / n)
    white = (modes / law().spectrum.sqrt())[:, 0]
    correlation = white.T @ white / n - torch.eye(16, dtype=torch.float64)
    assert float(correlation.fill_diagonal_(0).abs().max()) < 4.5 / math.sqrt(n)


def test_a_field_is_filled_alike_anywhere() -> None:
    n = 7
    x, observed = law().sample(n, keyed_generator(2, "x")), masks(n)
    fill = Filler(law())
    whole = fill(torch.where(observed, x, math.nan), observed)
    order = torch.tensor([5, 2, 6])
    assert torch.equal(fill(torch.where(observed, x, 7.0)[order], observed[order]), whole[order])
    assert torch.equal(pickle.loads(pickle.dumps(fill))(x, observed), whole)
    assert not torch.equal(Filler(law(), seed=1)(x, observed)[~observed], whole[~observed])
    nothing_missing = torch.ones_like(observed)
    assert torch.equal(fill(x, nothing_missing), x)


def test_fields_with_one_mask_have_draws_of_their_own() -> None:
    n = 400
    observed = torch.ones(n, 1, 16, dtype=torch.bool)
    observed[:, 0, 5:9] = False
    x = law().sample(n, keyed_generator(3, "x"))
    fill = Filler(law())
    spread = (fill(x, observed) - fill._kriging(observed[0], observed[0].numpy().tobytes()).mean(x))[:, 0, 5:9]
    assert float(spread.mean(0).abs().max()) < 4 * float(spread.std(0).max()) / n**0.5
    assert float(spread.std(0).min()) > 0.05
