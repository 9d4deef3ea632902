"""Deterministic step rules: exact on what they claim to be exact on, robust where modes stand still, and few steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate
from torch import Tensor

from physdiff.basis import IdentityBasis, SpectralBasis
from physdiff.clock import LinearClock
from physdiff.clock_fit import fit_clock
from physdiff.denoisers import EmpiricalDenoiser, GaussianDenoiser, MixtureDenoiser, PosteriorMean
from physdiff.denoisers.score import GaussianScore
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.laws import semilinear_case
from physdiff.laws.cases import as_time, bimodal, smooth_reference, tilted
from physdiff.path import ReferencePath
from physdiff.process import LinearProcess
from physdiff.processes.advection_diffusion import AdvectionDiffusion
from physdiff.processes.blurring import Blurring
from physdiff.processes.heat_dissipation import HeatDissipation
from physdiff.processes.stochastic_burgers import StochasticBurgers
from physdiff.processes.variance_preserving import VariancePreserving
from physdiff.solvers import (
    DDIM,
    AdaptiveODE,
    Angle,
    DPMSolver,
    Euler,
    Heun,
    LogSNR,
    LogSpaced,
    ReferenceSplitting,
    ReverseDynamics,
    Solver,
    TimeGrid,
    WhitenedAdams,
)
from physdiff.solvers.adams import adams_weights

torch.set_num_threads(1)

PLANE = SpectralBasis(Grid((3, 4), (1.0, 1.0), ("periodic", "periodic")))
RULES: list[Solver] = [Euler(), DDIM(), DPMSolver(2), DPMSolver(3), Heun(), ReferenceSplitting()]
RULES += [WhitenedAdams(order) for order in (2, 3, 4, 5)]
EXACT = [rule for rule in RULES if rule.exact_on_gaussian]


def silence(shape: tuple[int, ...]) -> Tensor:
    raise AssertionError("a deterministic rule asked for noise")


def stepped(solver: Solver, dynamics: ReverseDynamics, y: Tensor, times: Tensor) -> Tensor:
    for t, s in pairwise(times):
        y = solver.step(dynamics, y, t, s, silence)
    return y


def normal(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slope(error: Callable[[int], float], coarse: int, fine: int) -> float:
    return math.log(error(coarse) / error(fine)) / math.log(fine / coarse)


# ---- settings


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DDIM(-0.1), r"DDIM: 'stochasticity' must lie in \[0, 1\]; got -0.1"),
        (lambda: DPMSolver(4), "DPMSolver: 'order' must be 2 or 3; got 4"),
        (lambda: DPMSolver(2.0), "DPMSolver: 'order' must be 2 or 3; got 2.0"),  # pyright: ignore[reportArgumentType]
        (lambda: WhitenedAdams(1), "WhitenedAdams: 'order' must be 2, 3, 4 or 5; got 1"),
        (lambda: WhitenedAdams(2.0), "'order' must be 2, 3, 4 or 5; got 2.0"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_settings_are_checked(make: Callable[[], Solver], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_ddim_is_stochastic_as_it_is_set() -> None:
    assert [rule.stochastic for rule in DDIM.examples()] == [False, True, True]


# ---- Adams' weights


@pytest.mark.parametrize(
    ("newest", "textbook"),
    [
        (0.0, [1]), (0.0, [3 / 2, -1 / 2]), (0.0, [23 / 12, -16 / 12, 5 / 12]),
        (0.0, [55 / 24, -59 / 24, 37 / 24, -9 / 24]), (1.0, [1 / 2, 1 / 2]), (1.0, [5 / 12, 8 / 12, -1 / 12]),
        (1.0, [9 / 24, 19 / 24, -5 / 24, 1 / 24]), (1.0, [251 / 720, 646 / 720, -264 / 720, 106 / 720, -19 / 720]),
    ],
)  # fmt: skip
def test_weights_of_equal_steps_are_those_of_the_textbook(newest: float, textbook: list[float]) -> None:
    places = [newest - n for n in range(len(textbook))]
    found = adams_weights([torch.tensor(u, dtype=torch.float64) for u in places], places, 1.001)
    np.testing.assert_allclose([float(b) for b in found], textbook, rtol=1e-13)


def test_weights_integrate_polynomials_through_any_nodes() -> None:
    nodes = [torch.tensor(u, dtype=torch.float64) for u in ([1.0, 1.0], [0.0, 0.0], [-0.3, -2.0], [-1.7, -2.5])]
    found = adams_weights(nodes, [1.0, 0.0, -1.0, -2.0], math.inf)
    for power in range(4):
        total = torch.stack([b * u**power for b, u in zip(found, nodes, strict=True)]).sum(0)
        np.testing.assert_allclose(total.numpy(), 1 / (power + 1), rtol=1e-13)


def test_a_mode_that_stood_still_uses_fewer_nodes() -> None:
    """Its last step was a hundredth of this one, or nothing at all; so was the one before."""
    before = torch.tensor([1.0, 0.01, 0.0], dtype=torch.float64)
    nodes = [torch.zeros(3, dtype=torch.float64), -before, -2 * before]
    found = torch.stack(adams_weights(nodes, [0.0, -1.0, -2.0], 2.0))
    np.testing.assert_allclose(found[:, 0].numpy(), [23 / 12, -16 / 12, 5 / 12], rtol=1e-13)
    for column in (1, 2):
        assert found[:, column].tolist() == [1, 0, 0]


# ---- frozen answers


@pytest.fixture(scope="module")
def point_mass() -> tuple[EmpiricalDenoiser, Tensor, Tensor]:
    """A denoiser whose answer is one field at all times, and states at t = 1 and 0.1 on the flow
    dy/dτ = A y − ½ n score, with complex A, by DOP853."""
    reference = smooth_reference(PLANE)
    path = ReferencePath(fit_clock(AdvectionDiffusion(PLANE, 0.02, 0.5, (0.3, -0.2)), reference, 0.1), reference, 0.05)
    model = EmpiricalDenoiser(path, normal((1, 1, 3, 4)))
    start = path.at(1.0).unwhiten(normal((2, 1, 3, 4), 1))

    def rate(log_time: float, state: np.ndarray) -> np.ndarray:
        time = as_time(log_time).exp()
        y = torch.from_numpy(state).reshape(start.shape)
        score = PLANE.forward(model.score(PLANE.inverse(y), path.clock.inverse(time)))
        flow = PLANE.apply(path.process.drift_symbol(time), y) - 0.5 * path.process.noise_spectrum(time) * score
        return (time * flow).flatten().numpy()

    span = [float(path.at(t).time.log()) for t in (1.0, 0.1)]
    solution = integrate.solve_ivp(rate, span, start.flatten().numpy(), method="DOP853", rtol=1e-11, atol=1e-12)
    return model, start, torch.from_numpy(solution.y[:, -1]).reshape(start.shape)


@pytest.mark.parametrize("rule", [DDIM(), DPMSolver(2), DPMSolver(3)], ids=repr)
@pytest.mark.parametrize("steps", [1, 4])
def test_data_in_one_point_is_exact_in_any_steps(
    rule: Solver, steps: int, point_mass: tuple[EmpiricalDenoiser, Tensor, Tensor]
) -> None:
    model, start, wanted = point_mass
    found = stepped(rule, ReverseDynamics(model), start, torch.linspace(1.0, 0.1, steps + 1, dtype=torch.float64))
    error = float((found - wanted).abs().max())
    print(f"{rule}, {steps} steps: error {error:.1e}")
    assert error < 3e-11  # of the oracle: 7e-12


class Parabola(PosteriorMean):
    """An answer that is a parabola in λ = log(m/√S), the same for every mode and state."""

    coefficients = (0.7, -0.4, 0.3)

    def answer(self, log_ratio: Tensor) -> Tensor:
        a, b, c = self.coefficients
        return a + b * log_ratio + c * log_ratio**2

    def residual(self, modes: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        point = self.path.at(t)
        return self.answer(point.amplitude.log() - 0.5 * point.noise_variance.log()) - point.wiener(modes)


@pytest.mark.parametrize("step", [1e-3, 0.04, 0.06, 0.3])
def test_third_order_is_exact_for_parabolas_of_log_snr(step: float) -> None:
    """y/√S = ∫ e^λ D dλ by quadrature, for steps on both sides of where series replace what cancels."""
    basis = IdentityBasis(Grid(3))
    reference = smooth_reference(basis)
    model = Parabola(ReferencePath(VariancePreserving(basis, clock=LinearClock(4.0)), reference, 0.05))
    path, dynamics = model.path, ReverseDynamics(model)
    times = 0.9 * torch.exp(-step * torch.tensor([0.0, 1.0, 2.5, 3.2], dtype=torch.float64))
    y = stepped(DPMSolver(3), dynamics, path.at(times[0]).unwhiten(normal((1, 1, 3))), times[:3])
    late, early = path.at(times[2]), path.at(times[3])
    found = DPMSolver(3).step(dynamics, y, times[2], times[3], silence)
    span = [float((p.amplitude.log() - 0.5 * p.noise_variance.log()).flatten()[0]) for p in (late, early)]
    whole, _ = integrate.quad(
        lambda x: math.exp(x) * float(model.answer(as_time(x))), *span, epsabs=1e-15, epsrel=1e-13
    )
    root = early.noise_variance.sqrt()
    np.testing.assert_allclose(found, y * root / late.noise_variance.sqrt() + root * whole, rtol=0, atol=1e-14)


# ---- modes at the limits


def extreme(process: Callable[..., LinearProcess], seed: int = 3) -> ReferencePath:
    """Data with spectra from 1 to 10⁻²⁰⁰, and one mode that does not vary, far below the noise or not."""
    basis = SpectralBasis(Grid(6, 1.0, "neumann"))
    spectrum = torch.tensor([[1.0, 1e-2, 1e-9, 1e-30, 1e-200, 0.0]], dtype=torch.float64)
    reference = GaussianField(basis, normal((1, 6), seed), spectrum)
    return ReferencePath(process(basis, clock=LinearClock(1.0)), reference, 1e-3)


@pytest.mark.parametrize("rule", [*RULES, AdaptiveODE()], ids=repr)
@pytest.mark.parametrize("process", [VariancePreserving, HeatDissipation, Blurring], ids=lambda c: c.__name__)
def test_modes_far_below_the_noise_stay_finite(rule: Solver, process: Callable[..., LinearProcess]) -> None:
    """To the clean field; exact rules give μ + √c z of the reference's own data, whatever the size of c."""
    path = extreme(process)
    z = torch.where(path.reference.support, normal((2, 1, 6)), 0.0)
    mixture = bimodal(path.process, path.reference, path.t_min)
    for steps in (1, 2, 7):
        times = LogSpaced().times(path, steps)
        for model in (GaussianDenoiser(path), mixture):
            y = stepped(rule, ReverseDynamics(model), model.path.at(1.0).unwhiten(z), times)
            assert bool(y.isfinite().all())
            if rule.exact_on_gaussian and model is not mixture:
                wanted = path.reference.mean + path.reference.spectrum.sqrt() * z
                torch.testing.assert_close(y, wanted, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("order", [3, 4, 5])
def test_stiff_modes_do_not_blow_up(order: int) -> None:
    """Modes forgotten at very different times; without the limit on weights errors are 4 to 7·10⁵ in 8 steps."""
    reference = smooth_reference(PLANE)
    process = fit_clock(AdvectionDiffusion(PLANE, 0.02, 0.5, (0.3, -0.2)), reference, 0.1)
    mixture = bimodal(process, reference, 0.05)
    start, end = mixture.path.at(1.0).unwhiten(normal((4, 1, 3, 4), 1)), mixture.path.at(0.05)
    fine = AdaptiveODE("dopri8", 1e-9, 1e-9).step(ReverseDynamics(mixture), start, as_time(1.0), as_time(0.05), silence)
    for steps, limit in ((8, 0.07), (16, 0.008)):  # measured: at most 0.021 and 0.0024
        times = LogSpaced().between(mixture.path, steps)
        y = stepped(WhitenedAdams(order), ReverseDynamics(mixture), start, times)
        error = float(end.whiten(y - fine + end.mean).square().mean().sqrt())
        print(f"order {order}, {steps} steps: error {error:.1e}")
        assert error < limit


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_short_trajectories_cost_no_more_than_is_declared(rule: Solver) -> None:
    """The last step is one evaluation, even if the rule has hardly started; what a start costs is for longer ones."""
    path = extreme(VariancePreserving)
    for steps in (1, 2, 3):
        dynamics = ReverseDynamics(GaussianDenoiser(path))
        stepped(rule, dynamics, path.at(1.0).mean.expand(1, 1, 6), LogSpaced().times(path, steps))
        start = rule.start_evaluations if steps > 2 else 0
        assert dynamics.evaluations == (steps - 1) * rule.evaluations + start + 1


# ---- order and few steps


@pytest.mark.parametrize("order", [4, 5])
def test_high_orders_on_equal_steps_of_the_angle(order: int) -> None:
    """On Gaussian data that is not the reference's, of which the flow is known: nothing else limits the error."""
    basis = IdentityBasis(Grid(5))
    reference = smooth_reference(basis)
    path = ReferencePath(fit_clock(VariancePreserving(basis), reference, 0.1), reference, 0.05)
    law = tilted(reference)
    truth, z = ReferencePath(path.process, law, 0.05), normal((4, 1, 5))
    start, wanted = (truth.at(t).unwhiten(z) for t in (1.0, 0.05))

    def error(steps: int) -> float:
        dynamics = ReverseDynamics(GaussianDenoiser(path, law))
        y = stepped(WhitenedAdams(order), dynamics, start, Angle().between(path, steps))
        assert dynamics.evaluations == steps + 1
        return float((y - wanted).square().mean().sqrt())

    found = slope(error, 64, 128)
    print(f"order {order}: slope {found:.2f}, error in 64 steps {error(64):.1e}")
    assert abs(found - order) < 0.3


def wide_mixture() -> MixtureDenoiser:
    """Eight components in 64 modes, separated by about their width."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(8, generator=generator, dtype=torch.float64) + 0.5
    means = 0.8 * torch.randn(8, 1, 64, generator=generator, dtype=torch.float64)
    spectra = 0.36 * torch.exp(0.7 * torch.randn(8, 1, 64, generator=generator, dtype=torch.float64))
    basis = IdentityBasis(Grid(64))
    process = fit_clock(VariancePreserving(basis), MixtureDenoiser.reference(basis, weights, means, spectra))
    return MixtureDenoiser.around_itself(process, weights, means, spectra, 1e-3)


def test_a_third_of_the_evaluations_of_dpm_solver() -> None:
    """Error of the map from noise to t_min on a mixture, median over samples: few of them are at a watershed."""
    mixture = wide_mixture()
    path, z = mixture.path, normal((32, 1, 64), 5)
    start, end = path.at(1.0).unwhiten(z), path.at(path.t_min)
    fine = AdaptiveODE("dopri8", 1e-9, 1e-9).step(
        ReverseDynamics(mixture), start, as_time(1.0), as_time(path.t_min), silence
    )

    def error(rule: Solver, grid: TimeGrid, evaluations: int) -> float:
        dynamics, steps = ReverseDynamics(mixture), (evaluations - rule.start_evaluations) // rule.evaluations
        y = stepped(rule, dynamics, start, grid.between(path, steps))
        assert dynamics.evaluations == evaluations
        return float(end.whiten(y - fine + end.mean).square().mean((1, 2)).sqrt().median())

    peer, ours = error(DPMSolver(2), LogSNR(), 64), error(WhitenedAdams(4), Angle(), 20)
    print(f"DPM-Solver++(2M) in 64 evaluations {peer:.1e}, WhitenedAdams(4) in 20 {ours:.1e}")
    assert ours < peer


# ---- a simulated process


def test_adams_runs_under_a_simulated_process() -> None:
    """Against dopri8. The moments are cubic splines of log τ, whose nodes no order above 2 survives unharmed."""
    basis = SpectralBasis(Grid(8))
    path = semilinear_case(StochasticBurgers(basis)).path
    model, support = GaussianScore(path), path.reference.support
    start = path.at(1.0).unwhiten(torch.where(support, normal((3, 1, 8), 2), 0.0))
    ends = torch.tensor([1.0, path.t_min, 0.0], dtype=torch.float64)
    fine = AdaptiveODE("dopri8", 1e-8, 1e-8).solve(ReverseDynamics(model), start, ends)

    def error(steps: int, order: int = 2) -> float:
        dynamics = ReverseDynamics(model)
        y = stepped(WhitenedAdams(order), dynamics, start, LogSpaced().times(path, steps + 1)[:-1])
        return float((y - fine[1]).square().mean().sqrt())

    found = slope(error, 32, 64)
    second, third = error(256), error(256, 3)
    print(f"slope {found:.2f}, errors in 256 steps: order 2 {second:.1e}, order 3 {third:.1e}")
    assert abs(found - 2) < 0.3
    assert third < 0.2 * second
    clean = stepped(WhitenedAdams(3), ReverseDynamics(model), start, LogSpaced().times(path, 65))
    assert float((clean - fine[2]).abs().max()) < 1e-3
