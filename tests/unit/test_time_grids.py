"""Time grids: what each promises, on every process; errors that are equal, and fewer steps for the same error."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import physdiff.processes  # noqa: F401  registers the physics
from physdiff.basis import SpectralBasis
from physdiff.clock import Clock, ExponentialClock, KarrasClock, LinearClock
from physdiff.clock_fit import fit_clock
from physdiff.denoisers import GaussianDenoiser, GaussianScore, MixtureDenoiser
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.laws.cases import ProcessCase, bimodal, process_cases, smooth_reference
from physdiff.laws.semilinear_cases import semilinear_cases
from physdiff.path import ReferencePath
from physdiff.process import LinearProcess
from physdiff.processes.edm import EDM
from physdiff.processes.heat import Heat
from physdiff.processes.matern import Matern
from physdiff.processes.variance_preserving import VariancePreserving
from physdiff.registry import processes
from physdiff.semilinear import SemilinearProcess
from physdiff.solvers import (
    Ancestral,
    Angle,
    Automatic,
    Calibrated,
    DPMSolver,
    Heun,
    Karras,
    LogSNR,
    LogSpaced,
    ReferenceSplitting,
    TimeGrid,
    WhitenedAdams,
    sample,
    suited_grid,
    time_grids,
)  # fmt: skip
from physdiff.solvers.automatic_grid import error_density, stretch
from physdiff.solvers.calibrated_grid import Node, measured_density
from physdiff.solvers.equal_shares import along

SQUARE = SpectralBasis(Grid((5, 4), (2.0, 1.0), ("neumann", "periodic")))
LINEAR = [case for cls in processes.classes(LinearProcess).values() for case in process_cases(cls, [SQUARE])]
SIMULATED = list(processes.classes(SemilinearProcess).values())
OF_ANGLES = (Angle, Automatic)
every_grid = pytest.mark.parametrize("cls", time_grids.classes().values(), ids=lambda c: c.__name__)


def is_a_grid(times: Tensor, intervals: int, t_min: float) -> bool:
    inside = times.shape == (intervals + 1,) and times.dtype == torch.float64 and bool(times.isfinite().all())
    return inside and float(times[0]) == 1 and float(times[-1]) == t_min and bool((times.diff() < 0).all())


# ---- what every grid promises


@every_grid
@pytest.mark.parametrize("case", LINEAR, ids=str)
def test_times_fall_from_one_to_t_min(cls: type[TimeGrid], case: ProcessCase) -> None:
    for intervals in (1, 2, 5, 16, 256):
        assert is_a_grid(cls().between(case.path, intervals), intervals, case.path.t_min)
    assert cls().times(case.path, 1).tolist() == [1, 0]
    assert cls().times(case.path, 3)[2:].tolist() == [case.path.t_min, 0]


@every_grid
@pytest.mark.parametrize("process", SIMULATED, ids=lambda c: c.__name__)
def test_simulated_processes_have_no_angles(cls: type[TimeGrid], process: type[SemilinearProcess]) -> None:
    path = next(semilinear_cases(process)).at_rest
    if cls in OF_ANGLES:
        with pytest.raises(ValueError, match=f"{cls.__name__} is of the reference's angles.*{process.__name__}"):
            cls().between(path, 4)
        return
    for intervals in (1, 2, 5, 16, 256):
        assert is_a_grid(cls().between(path, intervals), intervals, path.t_min)


def test_names_are_found() -> None:
    assert time_grids.find("LogSNR")() == LogSNR() and time_grids.find("Karras")().rho == 7
    with pytest.raises(ValueError, match="Did you mean 'Karras'"):
        time_grids.find("Karas")
    with pytest.raises(ValueError, match=r"'rho' must be finite and at least 1; got 0\.5"):
        Karras(0.5)
    with pytest.raises(ValueError, match="'order' must be 1, 2, 3 or 4; got 5"):
        Automatic(5)
    for order in (2.0, True):
        with pytest.raises(ValueError, match=f"'order' must be 1, 2, 3 or 4; got {order}"):
            Automatic(order)  # pyright: ignore[reportArgumentType]


# ---- noise levels


@pytest.mark.parametrize(
    "clock", [KarrasClock(), LinearClock(80.0), ExponentialClock(80.0, 0.002)], ids=lambda c: type(c).__name__
)
def test_edm_has_the_published_grids(clock: Clock) -> None:
    """Eq. 5 of Karras et al. (2022) with σ from 80 to 0.002, and equal ratios of σ, to rounding."""
    reference = smooth_reference(SQUARE)
    t_min = float(clock.inverse(torch.tensor(0.002, dtype=torch.float64)))
    path = ReferencePath(EDM(SQUARE, clock=clock), reference, t_min)
    for rho in (7.0, 3.0):
        for count in (2, 5, 18, 256):
            ramp = np.linspace(0, 1, count)
            published = (80 ** (1 / rho) + ramp * (0.002 ** (1 / rho) - 80 ** (1 / rho))) ** rho
            times = Karras(rho).times(path, count)
            np.testing.assert_allclose(clock.time(times[:-1]).numpy(), published, rtol=2e-14)
    ratios = clock.time(LogSNR().between(path, 64)).log().diff()
    np.testing.assert_allclose(ratios.numpy(), math.log(0.002 / 80) / 64, rtol=1e-12)


def test_variance_preserving_has_equal_steps_of_its_log_snr() -> None:
    """λ = log(m/√S) = −½ log(e^τ − 1), whatever the data's spectrum is."""
    path = ReferencePath(fit_clock(VariancePreserving(SQUARE), smooth_reference(SQUARE)), smooth_reference(SQUARE))
    time = path.clock.time(LogSNR().between(path, 40))
    steps = (-0.5 * torch.log(torch.expm1(time))).diff()
    np.testing.assert_allclose(steps.numpy(), float(steps.mean()), rtol=1e-10)


def test_the_noise_level_of_a_field_is_that_of_its_variance() -> None:
    """Two modes by hand, under a clock so long that m = e^{−λτ} is beyond floats in one of them."""
    basis = SpectralBasis(Grid(2, 1.0, "neumann"))
    spectrum = torch.tensor([[1.0, 3.0]], dtype=torch.float64)
    path = ReferencePath(
        Heat(basis, clock=ExponentialClock(1000.0, 1e-3)), GaussianField.centred(basis, spectrum), 0.01
    )
    time = path.clock.time(LogSNR().between(path, 30))
    decay = float(basis.laplacian.flatten()[1])
    assert math.exp(-decay * 1000) == 0
    noise = torch.stack([2 * time, torch.expm1(-2 * decay * time) / -decay]) * _noise_rate(path)
    snr = (1 / noise[0] + 3 * torch.exp(-2 * decay * time) / noise[1]) / 4
    steps = snr.log().diff()
    np.testing.assert_allclose(steps.numpy(), float(steps.mean()), rtol=1e-9)


def _noise_rate(path: ReferencePath) -> float:
    """Half the noise that each mode receives per unit of time: white in space."""
    rate = path.process.noise_spectrum(torch.ones((), dtype=torch.float64)).flatten()
    assert float(rate.max()) == float(rate.min())
    return 0.5 * float(rate[0])


# ---- angles and errors


@pytest.mark.parametrize("process", [VariancePreserving, Heat, Matern], ids=lambda c: c.__name__)
def test_steps_turn_by_equal_angles(process: type[LinearProcess]) -> None:
    """The length of the polygon through 400 points a step, in the angles that the path gives; 17 decades of variance.

    The density is a cubic between 257 nodes: steps differ by up to 1e-4.
    """
    basis = SpectralBasis(Grid((8, 8)))
    reference = GaussianField.power_law(basis, 6.0)
    path = ReferencePath(fit_clock(process(basis), reference), reference)
    weight = 0.5 * reference.support / reference.n_support + 0.5 * reference.spectrum / reference.spectrum.sum()
    lengths = []
    for t, s in pairwise(Angle().between(path, 12)):
        start, end = (float(path.clock.time(x).log()) for x in (t, s))
        fine = path.clock.inverse(torch.linspace(start, end, 401, dtype=torch.float64).exp())
        angles = torch.stack([path.at(float(x)).angle for x in fine])
        lengths.append(float((weight * angles.diff(dim=0).square()).sum((1, 2, 3)).sqrt().sum()))
    spread = max(lengths) / min(lengths) - 1
    print(f"{process.__name__}: 12 steps of {lengths[0]:.4f}, equal to {spread:.1e}")
    assert spread < 3e-4


@pytest.mark.parametrize("order", [1, 2])
def test_automatic_steps_have_equal_errors(order: int) -> None:
    """Errors of the rectangle (order 1) and of the trapezoid (order 2), each mode in its angle, on the model problem.

    States of Gaussian data with the spectrum f·c are known, z = √(V'/V) but for a constant, and so is the error of each
    step alone. Steps as long as these are no limit, and a floor is added to the density: hence the factor 2.
    """
    path = heat_path()
    exact, spread = {}, {}
    for factor in (0.25, 4.0):
        mean, spectrum = path.reference.mean, path.reference.spectrum
        exact[factor] = MixtureDenoiser(path, torch.ones(1).double(), mean.unsqueeze(0), factor * spectrum.unsqueeze(0))
    weight = 0.5 * (
        path.reference.support / path.reference.n_support + path.reference.spectrum / path.reference.spectrum.sum()
    )
    for grid in (Automatic(order), LogSpaced()):
        errors = []
        for t, s in pairwise(grid.between(path, 40)):
            squared = torch.zeros(())
            for factor, denoiser in exact.items():
                (z, y), (z_after, y_after) = (flow_of_scaled_data(path, factor, x) for x in (t, s))
                moved = denoiser.move(y, t, s)
                if order == 2:
                    moved = 0.5 * (moved - denoiser.move(y_after, s, t))
                squared = squared + (weight * (z + moved - z_after).square()).sum()
            errors.append(float(squared.sqrt()))
        spread[type(grid).__name__] = max(errors) / min(errors)
    print(f"order {order}: largest over smallest error of 40 steps {spread}")
    assert spread["Automatic"] < 2 and spread["LogSpaced"] > 50


def heat_path() -> ReferencePath:
    basis = SpectralBasis(Grid((6, 6), 1.0, "neumann"))
    reference = GaussianField.matern(basis, 0.3)
    return ReferencePath(fit_clock(Heat(basis), reference), reference)


def flow_of_scaled_data(path: ReferencePath, factor: float, t: Tensor) -> tuple[Tensor, Tensor]:
    """Whitened state and modes at t on the flow of the data with the spectrum f·c."""
    point = path.at(t)
    support = path.reference.support
    own = factor * point.clean_variance + point.noise_variance
    z = torch.where(support, own / torch.where(support, point.variance, 1.0), 0.0).sqrt().unsqueeze(0)
    return z, point.unwhiten(z)


@pytest.mark.parametrize("derivative", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("factor", [0.25, 4.0])
def test_the_model_flow_is_differentiated(factor: float, derivative: int) -> None:
    angle = torch.linspace(0, 0.5 * math.pi, 9, dtype=torch.float64, requires_grad=True)
    value = (factor * angle.cos().square() + angle.sin().square()).sqrt()
    for _ in range(derivative):
        (value,) = torch.autograd.grad(value.sum(), angle, create_graph=True)
    torch.testing.assert_close(stretch(angle.detach(), factor, derivative), value.detach(), rtol=1e-12, atol=1e-12)


def test_automatic_and_angle_beat_log_spaced() -> None:
    """Error of 16 steps of the reference splitting on non-Gaussian data, against 400."""
    path = heat_path()
    denoiser = bimodal(path.process, path.reference, path.t_min)
    truth = sample(denoiser, 32, steps=400, seed=1, time_grid=Angle(), solver=WhitenedAdams())
    errors = {
        type(grid).__name__: float(
            (sample(denoiser, 32, steps=16, seed=1, time_grid=grid) - truth).square().mean().sqrt()
        )
        for grid in (LogSpaced(), LogSNR(), Karras(), Angle(), Automatic())
    }
    print({name: f"{error:.1e}" for name, error in errors.items()})
    assert 3 * max(errors["Angle"], errors["Automatic"]) < errors["LogSpaced"]


# ---- calibrated on a model


@pytest.fixture(scope="module")
def clusters() -> MixtureDenoiser:
    """Six clusters in 64 modes whose spectrum falls over three decades: far from Gaussian, with an exact score."""
    basis, generator = SpectralBasis(Grid((8, 8))), torch.Generator().manual_seed(0)
    spectrum = GaussianField.matern(basis, 0.3, 2.0).spectrum

    def normal() -> Tensor:
        return torch.randn((6, *spectrum.shape), generator=generator, dtype=torch.float64)

    means = 0.8 * spectrum.sqrt() * normal()
    spectra = basis.symmetrise(0.36 * spectrum * torch.exp(0.7 * normal()))
    weights = torch.full((6,), 1 / 6, dtype=torch.float64)
    reference = MixtureDenoiser.reference(basis, weights, means, spectra)
    process = fit_clock(VariancePreserving(basis), reference)
    return MixtureDenoiser(ReferencePath(process, reference), weights, means, spectra)


def test_calibration_lowers_the_error_on_other_starts(clusters: MixtureDenoiser) -> None:
    """Pilots start from other noise than the 64 samples on which grids are compared."""
    truth = sample(clusters, 64, steps=300, seed=1, time_grid=Angle(), solver=WhitenedAdams())
    grids = {"LogSpaced": LogSpaced(), "Angle": Angle()}
    grids |= {f"pilots {seed}": Calibrated.measure(clusters, seed=seed) for seed in (0, 1)}
    error = {}
    for name, grid in grids.items():
        x = sample(clusters, 64, steps=24, seed=1, time_grid=grid, solver=WhitenedAdams(3))
        error[name] = float((x - truth).square().mean().sqrt() / truth.std())
    print({name: f"{e:.1e}" for name, e in error.items()})
    for seed in (0, 1):
        assert error[f"pilots {seed}"] < 0.8 * error["Angle"] < 0.1 * error["LogSpaced"]


def test_a_calibrated_grid_is_one_for_any_number_of_steps(clusters: MixtureDenoiser) -> None:
    grid = Calibrated.measure(clusters, pilots=2, steps=32)
    for intervals in (1, 2, 5, 16, 256):
        assert is_a_grid(grid.between(clusters.path, intervals), intervals, clusters.path.t_min)
    again = Calibrated.from_tensors(grid.to_tensors())
    assert torch.equal(again.times(clusters.path, 9), grid.times(clusters.path, 9))


@pytest.mark.parametrize("process", SIMULATED, ids=lambda c: c.__name__)
def test_simulated_processes_are_calibrated(process: type[SemilinearProcess]) -> None:
    path = next(semilinear_cases(process)).path
    grid = Calibrated.measure(GaussianScore(path), pilots=2, steps=16)
    assert is_a_grid(grid.between(path, 7), 7, path.t_min)


def test_calibration_costs_what_it_says(clusters: MixtureDenoiser) -> None:
    """Pilots times steps, each with its own condition; the same pilots in the same places from the same seed."""
    seen: list[int] = []

    class Counted(GaussianDenoiser):
        def residual(self, modes: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
            assert condition is not None and len(condition) == len(modes)
            seen.append(len(modes))
            return super().residual(modes, t)

    Calibrated.measure(Counted(clusters.path), pilots=3, steps=20, condition=torch.zeros(1, 2))
    assert sum(seen) == 3 * 20 and set(seen) == {3}
    one, other, more = (Calibrated.measure(clusters, pilots=2, steps=16, seed=s).density for s in (1, 1, 2))
    assert torch.equal(one, other) and not torch.equal(one, more)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_divided_differences_of_a_polynomial_are_its_derivative(order: int) -> None:
    """v = a φ^p at uneven nodes: v^{(p)} = p! a, and ρ = (p! a ω^{p+1})^{1/(p+1)} where φ = ω log τ."""
    places = torch.tensor([0.0, 0.3, 0.4, 1.1, 1.3], dtype=torch.float64)[: order + 1]
    scale, turn = torch.tensor([[2.0, 0.5]], dtype=torch.float64), torch.tensor([0.7, 1.9], dtype=torch.float64)
    nodes = [Node(x, 0.1 + turn * x, scale * (0.1 + turn * x) ** order) for x in places]
    weight = torch.tensor([0.25, 0.75], dtype=torch.float64)
    error = weight * (math.factorial(order) * scale * turn ** (order + 1)).square()
    expected = float(error.sum()) ** (0.5 / (order + 1))
    assert float(measured_density(nodes, weight)) == pytest.approx(expected, rel=1e-11)


def test_pilots_follow_the_flow_to_second_order() -> None:
    """On data with four times the spectrum, whose flow is known: a fourth of the error in twice the steps."""
    path, errors = heat_path(), []
    wide = 4 * path.reference.spectrum
    for steps in (64, 128):
        seen: list[tuple[Tensor, Tensor]] = []

        class Watched(MixtureDenoiser):
            def residual(self, modes: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
                seen.append((t, self.path.at(t).whiten(modes)))  # noqa: B023
                return super().residual(modes, t)

        model = Watched(path, torch.ones(1).double(), path.reference.mean.unsqueeze(0), wide.unsqueeze(0))
        Calibrated.measure(model, pilots=4, steps=steps)
        first, last = (flow_of_scaled_data(path, 4.0, t)[0] for t, _ in (seen[0], seen[-1]))
        support = path.reference.support
        exact = torch.where(support, last / torch.where(support, first, 1.0), 0.0) * seen[0][1]
        errors.append(float((seen[-1][1] - exact).square().mean().sqrt()))
    print(f"errors at t_min: {errors}")
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.3)


def test_what_is_measured_is_the_error_of_the_model_problem() -> None:
    """On data with four times the spectrum the density is that of the automatic grid, known in closed form.

    To a factor 0.76: the density is smoothed over a sixteenth of the nodes, and raised by a tenth of its mean. Without
    the root of order 3 it would be 0.2.
    """
    path = heat_path()
    wide = 4 * path.reference.spectrum
    model = MixtureDenoiser(path, torch.ones(1).double(), path.reference.mean.unsqueeze(0), wide.unsqueeze(0))
    grid = Calibrated.measure(model, pilots=64, steps=128, order=2)
    exact = along(path, grid.log_times, lambda point: error_density(point, 2, (4.0,)))
    ratio = grid.density / exact
    high = exact / exact.max() > 0.2  # where the floor does not matter
    print(f"measured over exact: {ratio[high].min() / ratio[high].max():.2f} over {int(high.sum())} knots")
    assert float(ratio[high].min() / ratio[high].max()) > 0.7


def test_a_gaussian_model_needs_no_calibration(clusters: MixtureDenoiser) -> None:
    grid = Calibrated.measure(GaussianDenoiser(clusters.path), pilots=1, steps=64)
    found, angle = (g.times(clusters.path, 9).numpy() for g in (grid, Angle()))
    np.testing.assert_allclose(found, angle, atol=0.06)  # the density of 64 nodes, as means over three


def test_what_a_calibration_refuses(clusters: MixtureDenoiser) -> None:
    one = torch.ones(3, dtype=torch.float64)
    refused: tuple[tuple[dict[str, Any], str], ...] = (
        ({"pilots": 0}, "at least 1 pilot and 16 steps; got 0 and 64"),
        ({"steps": 15}, "got 16 and 15"),
        ({"order": 5}, "'order' of a calibration must be 1, 2, 3 or 4; got 5"),
        ({"condition": torch.zeros(3, 1)}, r"shape (16, ...) or (1, ...); got (3, 1)"),
        ({"seed": -1}, "seed"),
    )
    for arguments, words in refused:
        with pytest.raises(ValueError) as error:
            Calibrated.measure(clusters, **arguments)
        assert words in str(error.value)
    for x, density in ((one, one), (one.cumsum(0), one * 0), (one.cumsum(0), one[:2]), (one.cumsum(0), one / 0)):
        with pytest.raises(ValueError, match="increasing, finite 'log_times'"):
            Calibrated(x, density)


def test_each_rule_gets_its_grid(clusters: MixtureDenoiser) -> None:
    path, grid = clusters.path, Calibrated.measure(clusters, pilots=1, steps=16)
    for solver, bare, calibrated in (
        (ReferenceSplitting(), Angle(), grid),
        (WhitenedAdams(), Angle(), grid),
        (Ancestral(), Angle(), Angle()),
        (DPMSolver(), LogSNR(), LogSNR()),
        (Heun(), Karras(), Karras()),
    ):
        assert suited_grid(solver, path) == bare and suited_grid(solver, path, grid) == calibrated
    simulated = next(semilinear_cases(SIMULATED[0])).at_rest
    assert suited_grid(ReferenceSplitting(), simulated) == LogSpaced()
    torch.testing.assert_close(sample(clusters, 1, steps=3), sample(clusters, 1, steps=3, time_grid=Angle()))
