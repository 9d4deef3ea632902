r"""Entries of U diag(s) Uᵀ between cells of a regular grid, looked up in a table of separations.

Along a periodic axis an entry depends on i − j alone. Along a wall with N cells, modes are cosines or sines at cell
centres, and products of these are sums: with f the kernel on the ring of 2N cells that a wall unfolds to,

    K(i, j) = f(i − j) + f(i + j + 1)  (neumann),    f(i − j) − f(i + j + 1)  (dirichlet).

A table of 2N per wall and N per ring holds all entries, so that a matrix costs a look-up an entry and no transform.
"""

from __future__ import annotations

import math
from itertools import product

import torch
from torch import Tensor

from physdiff.basis import SpectralBasis

_ENTRIES = 1 << 21  # that are looked up together: indices are as large as what they fetch


def matrix_between(basis: SpectralBasis, symbol: Tensor, cells: Tensor) -> Tensor:
    """U diag(symbol) Uᵀ between some cells.

    Args:
        basis: Where it is diagonal.
        symbol: Shape (*grid), float64, equal on {k, −k}.
        cells: Which, shape (*grid), bool.

    Returns:
        Shape (cells, cells), in the order of the flattened grid.
    """
    table = _table(basis, symbol)
    index, flat = cells.nonzero(), table.flatten()
    strides = [math.prod(table.shape[axis + 1 :]) for axis in range(table.ndim)]
    found = torch.empty(len(index), len(index), dtype=torch.float64)
    step = max(1, _ENTRIES // max(1, len(index)))
    for first in range(0, len(index), step):
        rows = index[first : first + step]
        ways = []
        for axis, boundary in enumerate(basis.grid.boundary):
            i, j, size = rows[:, axis].unsqueeze(1), index[:, axis], table.shape[axis]
            apart = (1.0, (i - j) % size * strides[axis])
            mirrored = (1.0 if boundary == "neumann" else -1.0, (i + j + 1) % size * strides[axis])
            ways.append((apart,) if boundary == "periodic" else (apart, mirrored))
        some = found[first : first + step].zero_()
        for terms in product(*ways):
            sign = math.prod(term[0] for term in terms)
            where = terms[0][1]
            for _, offset in terms[1:]:
                where = where + offset
            some += sign * flat[where]
    return found


def _table(basis: SpectralBasis, symbol: Tensor) -> Tensor:
    """f, shape (N or 2N of each axis)."""
    found = symbol.to(torch.float64)
    rings = []
    for axis, boundary in enumerate(basis.grid.boundary):
        n = basis.grid.shape[axis]
        if boundary == "periodic":
            rings.append(axis)
            continue
        mode = torch.arange(n, dtype=torch.float64) + (boundary == "dirichlet")
        # Modes 0 and N stand once on the ring of 2N, all others twice.
        weight = (2 - (mode % n == 0).double()) / (2 * n)
        angle = math.pi / n * (torch.arange(2 * n).unsqueeze(1) * mode % (2 * n))
        found = torch.tensordot(angle.cos() * weight, found.movedim(axis, 0), dims=1).movedim(0, axis)
    return (torch.fft.ifftn(found, dim=rings).real if rings else found).contiguous()
