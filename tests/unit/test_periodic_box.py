"""Derivatives, dealiasing and resampling on periodic boxes, against polynomials written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from datasets.navier_stokes import coarsen
from datasets.periodic_box import PeriodicBox, resample


def centres(ndim: int, points: int, extent: float) -> list[Tensor]:
    x = (torch.arange(points, dtype=torch.float64) + 0.5) * (extent / points)
    return list(torch.meshgrid(*[x] * ndim, indexing="ij"))


def wave(ndim: int, points: int, extent: float) -> Tensor:
    """A polynomial of modes up to 5 without any symmetry, the x-derivative of which is known."""
    k = 2 * math.pi / extent
    x, *rest = centres(ndim, points, extent)
    return 0.3 + torch.sin(2 * k * x + sum((i + 1) * k * y for i, y in enumerate(rest)) + 0.4) - torch.cos(5 * k * x)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_derivatives_are_exact(ndim: int) -> None:
    extent, points = 3.0, 18
    k = 2 * math.pi / extent
    box = PeriodicBox(ndim, points, extent)
    x, *rest = centres(ndim, points, extent)
    phase = 2 * k * x + sum((i + 1) * k * y for i, y in enumerate(rest)) + 0.4
    modes = box.to_modes(wave(ndim, points, extent))
    expected = 2 * k * torch.cos(phase) + 5 * k * torch.sin(5 * k * x)
    torch.testing.assert_close(box.to_field(box.derivative(modes, 0)), expected, atol=1e-13, rtol=0)
    if ndim > 1:
        last = box.to_field(box.derivative(modes, ndim - 1))
        torch.testing.assert_close(last, (ndim - 1) * k * torch.cos(phase), atol=1e-13, rtol=0)


def test_resampling_keeps_the_polynomial() -> None:
    for ndim in (1, 2, 3):
        for points, cells in ((18, 12), (12, 18), (13, 12), (12, 15)):
            found = resample(wave(ndim, points, 3.0), ndim, cells)
            torch.testing.assert_close(found, wave(ndim, cells, 3.0), atol=3e-14, rtol=0)
    white = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 18, 18)))
    torch.testing.assert_close(resample(white, 2, 12), coarsen(white, 12), atol=1e-14, rtol=0)
    # Twelve cells do not show the sine of wavenumber 6, so neither of its parts is kept.
    assert resample(torch.cos(6 * centres(1, 32, 2 * math.pi)[0]), 1, 12).abs().max() < 1e-14


@pytest.mark.parametrize(("points", "degree", "largest"), [(18, 2, 5), (20, 2, 6), (24, 3, 5), (48, 2, 15)])
def test_kept_modes_are_those_that_products_do_not_alias(points: int, degree: int, largest: int) -> None:
    box = PeriodicBox(1, points, degree=degree)
    assert box.kept.nonzero().flatten().tolist() == list(range(largest + 1))
    assert box.largest_wavenumber == largest
    x = centres(1, points, 2 * math.pi)[0]
    # cos^degree of the largest mode has no part in the other kept modes; aliases would be there.
    power = box.to_modes(torch.cos(largest * x) ** degree)
    power[0 if degree == 2 else largest] = 0
    assert power.abs().max() < 1e-13


def test_boxes_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 4 points and an extent > 0; got 3 and 1"):
        PeriodicBox(2, 3, 1.0)
    with pytest.raises(ValueError, match="at least 4 points and an extent > 0; got 8 and 0"):
        PeriodicBox(2, 8, 0.0)
