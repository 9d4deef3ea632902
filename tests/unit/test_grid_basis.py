"""Grids and bases: errors at the door, the wall transforms beyond the matrix size, and refinement."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import fft

from physdiff.basis import MATRIX_LIMIT, IdentityBasis, SpectralBasis
from physdiff.grid import Grid


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"shape": ()}, "at least one cell along every axis; got shape ()"),
        ({"shape": (4, 0)}, "got shape (4, 0)"),
        ({"shape": (4,), "extent": -1.0}, "positive and finite; got (-1.0,)"),
        ({"shape": (4,), "extent": float("inf")}, "positive and finite"),
        ({"shape": (4, 4), "extent": (1.0,)}, "grid of 2 axes was given 1 values of 'extent'"),
        ({"shape": (4,), "boundary": "reflecting"}, "unknown boundary 'reflecting'; a grid axis is one of periodic"),
        ({"shape": (4, 4), "dims": ("x", "x")}, "dims must differ"),
    ],
)
def test_a_grid_that_is_no_box_is_refused(arguments: dict, words: str) -> None:
    with pytest.raises(ValueError) as error:
        Grid(**arguments)
    assert words in str(error.value)


def test_cells_tile_the_box() -> None:
    grid = Grid((4, 6), (2.0, 3.0), ("periodic", "neumann"), units="m", origin=(1.0, -1.0))
    np.testing.assert_allclose(grid.coordinate(0), [1.25, 1.75, 2.25, 2.75])
    assert grid.cell_volume * grid.size == pytest.approx(6.0)
    assert Grid(**grid.to_dict()) == grid
    fine = grid.refined(3)
    # Each coarse centre is the mean of the three fine ones inside it.
    np.testing.assert_allclose(fine.coordinate(1).reshape(-1, 3).mean(1), grid.coordinate(1))
    assert "4 (x, periodic, 2 m)" in grid.describe()


@pytest.mark.parametrize("n", [MATRIX_LIMIT, MATRIX_LIMIT + 1, MATRIX_LIMIT + 2])
@pytest.mark.parametrize("boundary", ["neumann", "dirichlet"])
def test_long_walls_agree_with_scipy(n: int, boundary: str) -> None:
    basis = SpectralBasis(Grid((n, 3), (1.0, 1.0), (boundary, "neumann")))
    x = torch.randn((2, n, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    along = (fft.dct if boundary == "neumann" else fft.dst)(x.numpy(), type=2, norm="ortho", axis=1)
    expected = fft.dct(along, type=2, norm="ortho", axis=2)
    y = basis.forward(x)
    # Rounding: measured 1.4e-13 for 514 terms.
    np.testing.assert_allclose(y.numpy(), expected, atol=5e-13)
    torch.testing.assert_close(basis.inverse(y), x, atol=5e-13, rtol=0)


def test_float32_and_batches_keep_dtype_and_shape() -> None:
    basis = SpectralBasis(Grid((4, 5), 1.0, ("dirichlet", "periodic")))
    x = torch.randn((2, 3, 4, 5), generator=torch.Generator().manual_seed(0))
    y = basis.forward(x)
    assert y.dtype == torch.float32 and y.shape == x.shape
    torch.testing.assert_close(basis.inverse(y), x)


def test_derivatives_are_refused_along_walls_and_cells() -> None:
    basis = SpectralBasis(Grid((4, 4), 1.0, ("periodic", "neumann")))
    with pytest.raises(ValueError, match="axis 'y' has 'neumann' walls"):
        basis.derivative(1)
    for ask in (lambda b: b.laplacian, lambda b: b.derivative(0)):
        with pytest.raises(ValueError, match="this process needs SpectralBasis"):
            ask(IdentityBasis(Grid(4)))


def test_channels_share_their_scrambled_phases() -> None:
    basis = SpectralBasis(Grid((4, 5)))
    y = torch.randn((3, 1, 4, 5), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    twice = basis.scramble(torch.cat([y, 2 * y], 1), torch.Generator().manual_seed(1))
    torch.testing.assert_close(twice[:, 1:], 2 * twice[:, :1])
    assert float((twice[0, 0] / y[0, 0] - twice[1, 0] / y[1, 0]).abs().max()) > 0.1  # samples do not
