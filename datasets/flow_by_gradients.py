r"""Pressures in many media at once, by conjugate gradients: how Darcy's law is solved on a GPU.

What flows out of a cell through its faces is what its source puts in. In a uniform medium of permeability 1 the
eigenvectors of these equations are the sines of the clamped Laplacian, with the eigenvalues

    Σ over axes of (2/h sin(k h/2))²,    h the spacing and k the wavenumber,

so that solving those is a transform, and preconditions the rest: the condition number is max a/min a at most, whatever
the number of cells. An iteration shrinks the error by (√c − 1)/(√c + 1) for a contrast c, by 3 for a contrast of 4.

Source: Hestenes and Stiefel (1952); Concus and Golub (1973) for the preconditioner.
"""

from __future__ import annotations

import torch
from torch import Tensor

from physdiff.basis import SpectralBasis
from physdiff.grid import Grid

_TOLERANCE = 1e-13  # of the source, in the preconditioner's norm
_MOST = 20_000  # iterations; enough for a contrast of 1e6
_LOOKS = 8  # iterations between two looks at the residual, each of which waits for the GPU


def pressures(faces: list[Tensor], source: Tensor, grid: Grid) -> Tensor:
    """Pressure at cell centres, zero on the walls, shape (n, *grid), on the device of the faces.

    Args:
        faces: Flow through each face per unit of pressure drop and of cell volume, > 0, one tensor per axis; along that
            axis shape (n, *grid) has one more.
        source: Mean of f over each cell, shape (n, *grid).
        grid: The box, with walls on every side.

    Raises:
        ValueError: the faces differ too much to converge.
    """
    basis, axes = SpectralBasis(grid), tuple(range(1, source.ndim))
    uniform = torch.zeros(grid.shape, dtype=torch.float64)
    for axis, width in enumerate(grid.spacing):
        uniform = uniform + (2 / width * torch.sin(basis.wavenumber(axis) * width / 2)) ** 2
    uniform = uniform.to(source.device)
    p, left = torch.zeros_like(source), source
    way = solved = basis.inverse(basis.forward(left) / uniform)
    size = start = (left * solved).sum(axes, keepdim=True)
    for iteration in range(_MOST):
        flow = outflow(way, faces)
        # Zero over zero where the pressure is found to the last bit, and it stays as it is.
        along = _ratio(size, (way * flow).sum(axes, keepdim=True))
        p, left = p + along * way, left - along * flow
        solved = basis.inverse(basis.forward(left) / uniform)
        size, before = (left * solved).sum(axes, keepdim=True), size
        if iteration % _LOOKS == _LOOKS - 1 and (size <= _TOLERANCE**2 * start).all():
            return p
        way = solved + _ratio(size, before) * way
    worst = max(float((f.amax(axes) / f.amin(axes)).max()) for f in faces)
    raise ValueError(
        f"no pressure was found in {_MOST} iterations through faces that differ by up to {worst:.3g}; take "
        "permeabilities that differ less, or the device 'cpu', where the equations are solved directly."
    )


def outflow(pressure: Tensor, faces: list[Tensor]) -> Tensor:
    """−∇·(a ∇p): what flows out of each cell per volume, shape (n, *grid), given the conductances of its faces."""
    total = torch.zeros_like(pressure)
    for axis, conductance in enumerate(faces, start=1):
        wall = torch.zeros_like(pressure.narrow(axis, 0, 1))  # p = 0 there
        flow = -conductance * torch.cat([wall, pressure, wall], axis).diff(dim=axis)
        total = total + flow.diff(dim=axis)
    return total


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    return torch.where(below > 0, above / below, 0.0)
