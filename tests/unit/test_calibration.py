"""How far a denoiser is from the clean field: against the closed form, stored, interpolated, and used by a solver."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from physdiff.basis import SpectralBasis
from physdiff.clock_fit import fit_clock
from physdiff.denoisers import Calibration, Denoiser, calibrate
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.laws.cases import as_time, smooth_reference, tilted
from physdiff.laws.stepping import carried
from physdiff.path import ReferencePath
from physdiff.processes.advection_diffusion import AdvectionDiffusion
from physdiff.solvers import Ancestral, LogSpaced


class Silent(nn.Module):
    """A network that adds nothing to the Wiener filter."""

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        return torch.zeros_like(x)


@pytest.fixture(scope="module")
def biased() -> tuple[Denoiser, GaussianField]:
    """The Wiener filter of a reference, and data of other variances and means, tied over {k, −k}."""
    reference = smooth_reference(SpectralBasis(Grid((3, 4))))
    process = fit_clock(AdvectionDiffusion(reference.basis, 0.02, 0.4, (0.3, 0.2)), reference)
    data = tilted(reference)
    mean = reference.mean + reference.basis.symmetrise(0.3 * data.spectrum)
    return Denoiser(Silent(), ReferencePath(process, reference, 0.05)), GaussianField(
        reference.basis, mean, data.spectrum
    )


def test_calibration_is_the_mean_square_error(biased: tuple[Denoiser, GaussianField]) -> None:
    """Of D = μ + g u on data N(μ', c'): (1 − g|m|)²(c' + (μ' − μ)²) + g²S, here from the dense transition."""
    denoiser, data = biased
    n, path, basis = 3000, denoiser.path, data.basis
    table = calibrate(denoiser, data.sample(n, torch.Generator().manual_seed(3)), levels=5, seed=4, chunk=1000)
    assert torch.equal(table.ratios, basis.reflect(table.ratios))
    worst = 0.0
    for log_time, ratio in zip(table.log_times, table.ratios, strict=True):
        t = path.clock.inverse(log_time.exp()).clamp(max=1.0)
        kernel = path.process.kernel(t)
        wiener = (
            path.reference.spectrum
            * kernel.gain.abs()
            / (path.reference.spectrum * kernel.gain.abs() ** 2 + kernel.variance)
        )
        clean = data.spectrum + (data.mean - path.reference.mean).square()
        error = (1 - wiener * kernel.gain.abs()).square() * clean + wiener.square() * kernel.variance
        expected = (
            error
            / (path.reference.spectrum * kernel.variance)
            * (path.reference.spectrum * kernel.gain.abs() ** 2 + kernel.variance)
        )
        worst = max(worst, float(((ratio / expected - 1) * math.sqrt(n / 2)).abs().max()))
    least, most = float(table.ratios.min()), float(table.ratios.max())
    print(f"largest |z| of {table.ratios.numel()}: {worst:.2f}; ratios {least:.2f} to {most:.2f}")
    assert worst < 4.5  # 60 numbers, each off by at most √(2/n) of itself if one mode stood alone
    assert most > 1.5 and least < 0.8


def test_calibration_is_stored_and_interpolated(biased: tuple[Denoiser, GaussianField]) -> None:
    denoiser, _ = biased
    shape = tuple(denoiser.path.reference.spectrum.shape)
    generator = torch.Generator().manual_seed(5)
    table = Calibration(torch.tensor([-3.0, -1.0, 0.0]).double(), torch.rand(3, *shape, generator=generator).double())
    again = Calibration.from_tensors(table.to_tensors())
    times = torch.tensor([-9.0, -3.0, -2.5, -1.0, -0.5, 0.0, 4.0]).double().exp()
    expected = [
        table.ratios[0], table.ratios[0], 0.75 * table.ratios[0] + 0.25 * table.ratios[1], table.ratios[1],
        0.5 * (table.ratios[1] + table.ratios[2]), table.ratios[2], table.ratios[2],
    ]  # fmt: skip
    for time, wanted in zip(times, expected, strict=True):
        torch.testing.assert_close(again.at(time), wanted, rtol=1e-12, atol=0)
    torch.testing.assert_close(again.at(times.reshape(-1, 1, 1, 1)), torch.stack(expected), rtol=1e-12, atol=0)
    modes = torch.zeros(2, *shape, dtype=torch.float64)
    plain = denoiser.path.at(as_time(0.5)).posterior_variance.expand_as(modes)
    calibrated = Denoiser(Silent(), denoiser.path)
    calibrated.calibration = Calibration(table.log_times[:1], table.ratios[:1])
    torch.testing.assert_close(calibrated.posterior_variance(modes, as_time(0.5)), plain * table.ratios[0])


def test_a_calibrated_denoiser_samples_the_right_variance(biased: tuple[Denoiser, GaussianField]) -> None:
    """Data of another spectrum than the reference's, the mean right: one step draws cS/V, or what was measured."""
    denoiser, data = biased
    data = GaussianField(data.basis, denoiser.path.reference.mean, data.spectrum)
    calibrated = Denoiser(Silent(), denoiser.path)
    calibrated.calibration = calibrate(denoiser, data.sample(3000, torch.Generator().manual_seed(6)), levels=3)
    end = ReferencePath(denoiser.path.process, data, 0.05).at(1.0)
    start = end.mean.flatten(), torch.diag(end.variance.flatten())
    errors = {}
    for kind in ("reference", "learned"):
        _, covariance = carried(Ancestral(variance=kind), calibrated, LogSpaced().times(calibrated.path, 1), *start)  # type: ignore[arg-type]
        errors[kind] = float((covariance.diagonal() / data.spectrum.flatten() - 1).abs().max())
    print(errors)
    assert errors["reference"] > 0.5 and errors["learned"] < 0.15  # 4.5 √(2/3000), and what D knows at t = 1


def test_what_is_refused(biased: tuple[Denoiser, GaussianField]) -> None:
    denoiser, _ = biased
    shape = tuple(denoiser.path.reference.spectrum.shape)
    for fields, options, words in (
        (torch.zeros(0, *shape), {}, r"fields must have the shape \(n, 1, 3, 4\), n at least 1; got \(0, 1, 3, 4\)"),
        (torch.zeros(2, 1, 4), {}, r"got \(2, 1, 4\)"),
        (torch.zeros(2, *shape), {"levels": 0}, "got levels = 0"),
    ):
        with pytest.raises(ValueError, match=words):
            calibrate(denoiser, fields, **options)
    table = torch.ones(2, *shape)
    for log_times, ratios, words in (
        (torch.zeros(2), table, "must increase"),
        (torch.zeros(3), table, r"got \(3,\) and \(2, 1, 3, 4\)"),
        (torch.arange(2.0), -table, "finite and at least 0"),
    ):
        with pytest.raises(ValueError, match=words):
            Calibration(log_times, ratios)
