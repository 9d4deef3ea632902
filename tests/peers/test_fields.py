"""Blurs against scipy, as a cosine transform and as a convolution of cells; Matérn fields against gstools; spherical
harmonics against torch-harmonics.

Tolerances are three times the error measured, which every test prints.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import fft, ndimage
from torch import Tensor

from physdiff.bases import Sphere, SphereBasis
from physdiff.basis import SpectralBasis
from physdiff.chain import Chain
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.process import LinearProcess
from physdiff.processes.heat import Heat
from physdiff.processes.heat_dissipation import HeatDissipation
from physdiff.processes.matern import Matern
from physdiff.spectra import matern_spectrum

pytestmark = pytest.mark.peers


def pixels(shape: tuple[int, ...], boundary: str) -> SpectralBasis:
    return SpectralBasis(Grid(shape, tuple(float(n) for n in shape), boundary))


def at(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def melted(process: LinearProcess, time: float, x: np.ndarray) -> np.ndarray:
    """The mean of the field at a physical time."""
    gain = torch.exp(process.log_gain(at(time), at(0.0)))
    return process.basis.inverse(process.basis.apply(gain, process.basis.forward(torch.from_numpy(x)))).numpy()


@pytest.mark.parametrize("shape", [(33,), (12, 7), (200, 3), (5, 6, 4)], ids=str)
@pytest.mark.parametrize("width", [0.5, 3.0, 24.0])
def test_heat_is_the_blur_of_cosine_modes(shape: tuple[int, ...], width: float) -> None:
    """exp(−(πk/N)²σ²/2) on scipy's DCT, as in the code of Rissanen, Heinonen and Solin (2023)."""
    x = np.random.default_rng(0).standard_normal(shape)
    frequency = np.meshgrid(*[np.pi * np.arange(n) / n for n in shape], indexing="ij")
    decay = np.exp(-0.5 * width**2 * sum(k**2 for k in frequency))
    blurred = fft.idctn(decay * fft.dctn(x, norm="ortho"), norm="ortho")
    basis = pixels(shape, "neumann")
    chain = Chain.heat_dissipation(basis, blur_min=0.25, blur_max=width, levels=7)
    mean = basis.inverse(basis.apply(chain.gain(7), basis.forward(torch.from_numpy(x)))).numpy()
    for found in (
        melted(Heat(basis, diffusivity=1.0), width**2 / 2, x), melted(HeatDissipation(basis), width**2, x), mean,
    ):  # fmt: skip
        error = abs(found - blurred).max()
        print(f"largest deviation {error:.1e}")
        assert error < 8e-15


@pytest.mark.parametrize(("boundary", "mode"), [("neumann", "reflect"), ("periodic", "wrap")])
@pytest.mark.parametrize("shape", [(64,), (48, 40)], ids=str)
def test_heat_is_a_convolution_with_a_gaussian(boundary: str, mode: str, shape: tuple[int, ...]) -> None:
    """scipy's filter sums over cells, with no transform in it. A Gaussian of 2.5 cells and its sampled kernel differ
    by e^{−2π²σ²} < 1e-50 in the sum of the kernel, and by e^{−π²σ²/2} = 4e-14 at the finest wave."""
    x, width = np.random.default_rng(1).standard_normal(shape), 2.5
    blurred = ndimage.gaussian_filter(x, width, mode=mode, truncate=9.0)
    error = abs(melted(Heat(pixels(shape, boundary)), width**2 / 2, x) - blurred).max()
    print(f"largest deviation {error:.1e}")
    assert error < 2.5e-14


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("smoothness", [0.5, 1.0, 2.7, 15.0])
def test_matern_spectrum(gstools: Any, dim: int, smoothness: float) -> None:
    """𝒮(k) = (2π)^d times gstools' spectrum, whose √ν r/ℓ takes a rescaling by √2; mode variance = 𝒮/(cell volume)."""
    extent = (2.0, 3.0, 1.5)[:dim]
    basis = SpectralBasis(Grid((9, 8, 6)[:dim], extent, "periodic"))
    length, deviation = 0.4, 1.3
    model = gstools.Matern(dim=dim, var=deviation**2, len_scale=length, nu=smoothness, rescale=math.sqrt(2))
    expected = (2 * math.pi) ** dim * model.spectrum(basis.laplacian.sqrt().numpy()) / basis.grid.cell_volume
    process = Matern(basis, length, smoothness, deviation)
    for found in (matern_spectrum(basis, length, smoothness, deviation), process.variance(at(50.0), at(0.0))):
        error = abs(found.numpy() / expected - 1).max()
        print(f"largest relative deviation {error:.1e}")
        assert error < 8e-14


@pytest.mark.parametrize(("shape", "smoothness"), [((600,), 2.5), ((128, 128), 3.5)], ids=str)
def test_matern_covariance(gstools: Any, shape: tuple[int, ...], smoothness: float) -> None:
    """The covariance of cells at a distance r, by the modes, is gstools' C(r), by Bessel functions.

    In a periodic box of 15 lengths the nearest image is correlated by 5e-6 at half of it, and that is the difference.
    """
    extent = 15.0
    basis = SpectralBasis(Grid(shape, extent, "periodic"))
    law = GaussianField.matern(basis, 1.0, smoothness, 1.3)
    origin = torch.zeros(1, *shape, dtype=torch.float64)
    origin[(0, *[0] * len(shape))] = 1.0
    covariance = basis.inverse(law.spectrum * basis.forward(origin))[0].numpy()
    model = gstools.Matern(dim=len(shape), var=1.3**2, len_scale=1.0, nu=smoothness, rescale=math.sqrt(2))
    axes = [np.minimum(np.arange(n), n - np.arange(n)) * extent / n for n in shape]
    distance = np.sqrt(sum(a**2 for a in np.meshgrid(*axes, indexing="ij")))
    error = abs(covariance - model.covariance(distance)).max() / 1.3**2
    print(f"largest deviation, of the variance: {error:.1e}")
    assert error < 2e-5


@pytest.mark.parametrize(("latitudes", "theirs"), [("gauss", "legendre-gauss"), ("equiangular", "equiangular")])
def test_spherical_harmonics_have_the_coefficients_of_torch_harmonics(
    latitudes: Any, theirs: str, torch_harmonics: Any
) -> None:
    """∫ f (Re Y ± Im Y) dA, with theirs a = ∫ f Ȳ dA."""
    sphere = Sphere(17, 34, 1.0, latitudes)
    basis, size = SphereBasis(sphere), sphere.degree + 1
    white = torch.randn(2, 17, 34, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    f = sphere.unweigh(basis.limit(white))
    modes = basis.forward(sphere.weigh(f)) * sphere.cell_volume**0.5
    a = torch_harmonics.RealSHT(17, 34, lmax=size, mmax=size, grid=theirs).double()(f)
    orders = torch.arange(size)
    for way, coefficients in ((orders, a.real - a.imag), (-orders, a.real + a.imag)):
        error = float((modes[:, :size, way] - coefficients).abs().max())
        print(f"largest deviation {error:.1e}")
        assert error < 1e-14
