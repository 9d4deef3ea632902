"""A matrix between cells by look-up is the one of the dense basis."""

from __future__ import annotations

import pytest
import torch

from physdiff import Grid, SpectralBasis
from physdiff.cell_kernel import matrix_between
from physdiff.randomness import keyed_generator

GRIDS = {
    "ring": Grid((9,), boundary="periodic"),
    "neumann": Grid((8,), boundary="neumann"),
    "dirichlet": Grid((7,), boundary="dirichlet"),
    "rings": Grid((6, 5), boundary="periodic"),
    "channel": Grid((5, 6), boundary=("neumann", "periodic")),
    "walls": Grid((5, 6), boundary=("dirichlet", "neumann")),
    "box": Grid((4, 3, 5), boundary=("periodic", "dirichlet", "neumann")),
}


@pytest.mark.parametrize("name", GRIDS)
def test_entries_are_those_of_the_dense_matrix(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    basis = SpectralBasis(GRIDS[name])
    generator = keyed_generator(0, "symbol")
    symbol = basis.symmetrise(torch.rand(basis.grid.shape, generator=generator, dtype=torch.float64))
    cells = torch.rand(basis.grid.shape, generator=generator) > 0.4
    monkeypatch.setattr("physdiff.cell_kernel._ENTRIES", 2 * int(cells.sum()))  # in parts
    dense = basis.dense()
    expected = (dense @ torch.diag(symbol.flatten()) @ dense.T)[cells.flatten()][:, cells.flatten()]
    torch.testing.assert_close(matrix_between(basis, symbol, cells), expected, rtol=0, atol=1e-14)
