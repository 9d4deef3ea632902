"""torchdiffeq on the probability flow: every method, to a tolerance, at all times from one solve, and to an event."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torchdiffeq._impl.odeint import SOLVERS

from physdiff.basis import SpectralBasis
from physdiff.clock_fit import fit_clock
from physdiff.denoisers import GaussianDenoiser, MixtureDenoiser
from physdiff.denoisers.score import GaussianScore
from physdiff.grid import Grid
from physdiff.laws import semilinear_case
from physdiff.laws.cases import as_time, bimodal, smooth_reference, tilted
from physdiff.path import ReferencePath
from physdiff.processes.advection_diffusion import AdvectionDiffusion
from physdiff.processes.stochastic_burgers import StochasticBurgers
from physdiff.processes.variance_preserving import VariancePreserving
from physdiff.solvers import AdaptiveODE, ReverseDynamics
from physdiff.solvers.solver import Noise

torch.set_num_threads(1)

T_MIN = 0.05
TIMES = torch.tensor([1.0, 0.7, 0.31, 0.3, 0.1, T_MIN], dtype=torch.float64)


def silence(shape: tuple[int, ...]) -> Tensor:
    raise AssertionError("a deterministic rule asked for noise")


NO_NOISE: Noise = silence


class Watched(ReverseDynamics):
    """Keeps the physical times it is asked for."""

    def __init__(self, model: MixtureDenoiser) -> None:
        super().__init__(model)
        self.asked: list[float] = []

    def velocity(self, z: Tensor, time: Tensor) -> Tensor:
        self.asked.append(float(time))
        return super().velocity(z, time)


@pytest.fixture(scope="module")
def mixture() -> MixtureDenoiser:
    basis = SpectralBasis(Grid((3, 4)))
    reference = smooth_reference(basis)
    return bimodal(fit_clock(AdvectionDiffusion(basis, 0.02, 0.5, (0.3, -0.2)), reference, 0.1), reference, T_MIN)


@pytest.fixture(scope="module")
def start(mixture: MixtureDenoiser) -> Tensor:
    z = torch.randn((3, 1, 3, 4), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return mixture.path.at(1.0).unwhiten(z)


@pytest.fixture(scope="module")
def fine(mixture: MixtureDenoiser, start: Tensor) -> Tensor:
    """States at `TIMES`, every one from a solve of its own that ends there, with 512 steps of rk4."""
    states, y = [start], start
    for t, s in pairwise(TIMES):
        y = AdaptiveODE("rk4", steps=512).step(ReverseDynamics(mixture), y, t, s, NO_NOISE)
        states.append(y)
    return torch.stack(states)


# Measured: 2e-6 for dopri8 to 2e-4 for fehlberg2 and 2e-3 for euler; explicit_adams is not stable in fewer steps.
LIMITS = {"euler": 6e-3, "fehlberg2": 6e-4, "explicit_adams": 3e-3}


@pytest.mark.parametrize("method", SOLVERS)
def test_every_method_follows_the_flow(method: str, mixture: MixtureDenoiser, start: Tensor, fine: Tensor) -> None:
    """At all times from one solve that never looks outside [t_min, 1]."""
    dynamics = Watched(mixture)
    rule = AdaptiveODE(method, 1e-5, 1e-5, steps=256 if method in ("euler", "explicit_adams") else 64)
    found = rule.solve(dynamics, start, TIMES)
    error = float((found - fine).square().mean((1, 2, 3, 4)).sqrt().max())
    print(f"{method}: error {error:.1e}, {dynamics.evaluations} evaluations")
    assert error < LIMITS.get(method, 1e-4)
    earliest, latest = (float(mixture.path.at(t).time) for t in (T_MIN, 1.0))
    assert earliest * (1 - 1e-12) <= min(dynamics.asked) and max(dynamics.asked) <= latest * (1 + 1e-12)
    assert len(dynamics.asked) == dynamics.evaluations


def test_error_falls_with_the_tolerance(mixture: MixtureDenoiser, start: Tensor, fine: Tensor) -> None:
    errors, spent = [], []
    for tolerance in (1e-3, 1e-5, 1e-7):
        dynamics = ReverseDynamics(mixture)
        end = AdaptiveODE("dopri5", tolerance, tolerance).step(dynamics, start, TIMES[0], TIMES[-1], NO_NOISE)
        errors.append(float((end - fine[-1]).square().mean().sqrt()))
        spent.append(dynamics.evaluations)
    print("errors", [f"{e:.1e}" for e in errors], "evaluations", spent)
    assert errors[1] < 0.1 * errors[0] and errors[2] < 0.1 * errors[1] and errors[2] < 1e-6
    assert spent[0] < spent[1] < spent[2] < 200


def test_dense_output_costs_no_evaluation(mixture: MixtureDenoiser, start: Tensor) -> None:
    few, many = ReverseDynamics(mixture), ReverseDynamics(mixture)
    end = AdaptiveODE().solve(few, start, TIMES[[0, -1]])
    dense = AdaptiveODE().solve(many, start, TIMES)
    assert few.evaluations == many.evaluations
    assert torch.equal(dense[0], start) and torch.equal(dense[-1], end[-1])


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_the_clean_field_is_one_evaluation_further(method: str, mixture: MixtureDenoiser, start: Tensor) -> None:
    """Whether the solve stops before t_min or at it, and in `step` as in `solve`."""
    zero = torch.zeros(1, dtype=torch.float64)
    rule, dynamics = AdaptiveODE(method), ReverseDynamics(mixture)
    through = rule.solve(dynamics, start, torch.cat([TIMES[[0, -1]], zero]))
    before = dynamics.evaluations
    last = rule.step(dynamics, through[-2], TIMES[-1], zero[0], NO_NOISE)
    torch.testing.assert_close(last, through[-1], rtol=0, atol=1e-13)
    assert dynamics.evaluations == before + 1
    straight = rule.step(dynamics, start, TIMES[0], zero[0], NO_NOISE)
    torch.testing.assert_close(straight, through[-1], rtol=0, atol=1e-12)
    spread = mixture.path.reference.spectrum.sqrt()
    assert 0.003 < float(((through[-1] - through[-2]) / spread).abs().max()) < 1  # it is a step


# ---- events


@pytest.mark.parametrize("method", ["dopri5", "dopri8", "rk4", "implicit_adams"])
def test_an_event_is_where_a_function_of_the_state_changes_sign(
    method: str, mixture: MixtureDenoiser, start: Tensor
) -> None:
    rule = AdaptiveODE(method, 1e-8, 1e-8, steps=128)
    level = 0.5 * sum(float(rule.solve(ReverseDynamics(mixture), start, TIMES)[i, 0].square().sum()) for i in (2, 4))

    def event(t: Tensor, modes: Tensor) -> Tensor:
        return modes[0].square().sum() - level

    dynamics = Watched(mixture)
    t, modes = rule.until(dynamics, start, as_time(1.0), event)
    print(f"{method}: t = {float(t):.6f}, {dynamics.evaluations} evaluations")
    assert T_MIN < float(t) < 1 and t.shape == ()
    assert abs(float(event(t, modes))) < 1e-6
    there = rule.solve(ReverseDynamics(mixture), start, torch.stack([as_time(1.0), t]))[-1]
    torch.testing.assert_close(modes, there, rtol=0, atol=3e-6)


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_the_first_of_several_events_counts(method: str, mixture: MixtureDenoiser, start: Tensor) -> None:
    def event(t: Tensor, modes: Tensor) -> Tensor:
        return torch.stack([t - 0.2, 0.43 - t, t + 5])

    t, _ = AdaptiveODE(method).until(ReverseDynamics(mixture), start, as_time(1.0), event)
    assert float(t) == pytest.approx(0.43, abs=1e-4)


@pytest.mark.parametrize("method", ["dopri5", "bosh3", "rk4", "euler"])
def test_without_an_event_it_stops_at_t_min(method: str, mixture: MixtureDenoiser, start: Tensor) -> None:
    """The sum of 31 equal steps is rounded to a time short of t_min, from which one more looks beyond, if it can."""
    dynamics, rule = Watched(mixture), AdaptiveODE(method, 1e-7, 1e-7, steps=31)
    t, modes = rule.until(dynamics, start, as_time(1.0), lambda t, modes: torch.ones(()))
    assert float(t) == pytest.approx(T_MIN, abs=1e-14)
    end = rule.step(ReverseDynamics(mixture), start, TIMES[0], TIMES[-1], NO_NOISE)
    torch.testing.assert_close(modes, end, rtol=0, atol=2e-6)
    assert min(dynamics.asked) >= float(mixture.path.at(T_MIN).time) * (1 - 1e-12)


# ---- any process, any dtype, bad input


def test_it_runs_under_a_simulated_process() -> None:
    """Two methods with nothing in common agree; times and the clean field as under a linear process."""
    path = semilinear_case(StochasticBurgers(SpectralBasis(Grid(8)))).path
    model, times = GaussianScore(path), torch.tensor([1.0, 0.5, path.t_min, 0.0], dtype=torch.float64)
    z = torch.randn((2, 1, 8), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    y = path.at(1.0).unwhiten(torch.where(path.reference.support, z, 0.0))
    one = AdaptiveODE("dopri5", 1e-7, 1e-7).solve(ReverseDynamics(model), y, times)
    other = AdaptiveODE("rk4", steps=128).solve(ReverseDynamics(model), y, times)
    error = float((one - other).abs().max())
    print(f"difference {error:.1e}")
    assert error < 1e-4  # dense output of rk4: cubic
    assert float((one[-1] - one[-2]).abs().max()) > 1e-4


def test_single_precision_stays() -> None:
    reference = smooth_reference(SpectralBasis(Grid((3, 4), 1.0, "neumann")))
    path = ReferencePath(fit_clock(VariancePreserving(reference.basis), reference, 0.1), reference, T_MIN)
    y = torch.randn((3, 1, 3, 4), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model = GaussianDenoiser(path, tilted(reference))
    single, double = (AdaptiveODE().solve(ReverseDynamics(model), state, TIMES) for state in (y.float(), y))
    assert single.dtype == torch.float32
    assert float((single - double).abs().max()) < 1e-4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AdaptiveODE("dopri6"), "unknown method 'dopri6'. Did you mean 'dopri"),
        (lambda: AdaptiveODE(rtol=0.0), "'rtol' must be positive and finite; got 0.0"),
        (lambda: AdaptiveODE(atol=float("nan")), "'atol' must be positive and finite; got nan"),
        (lambda: AdaptiveODE("rk4", steps=0), "'steps' must be a whole number, at least 1; got 0"),
    ],
)
def test_settings_are_checked(make: Callable[[], AdaptiveODE], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("times", [[1.0], [0.5, 0.6], [1.1, 0.5], [1.0, 0.01], [0.5, 0.0, -0.1]])
def test_times_are_checked(times: list[float], mixture: MixtureDenoiser, start: Tensor) -> None:
    with pytest.raises(ValueError, match=r"times must decrease within \[t_min, 1\] = \[0.05, 1\]"):
        AdaptiveODE().solve(ReverseDynamics(mixture), start, torch.tensor(times, dtype=torch.float64))


def test_scipy_has_no_events(mixture: MixtureDenoiser, start: Tensor) -> None:
    with pytest.raises(ValueError, match="'scipy_solver' has no events; take dopri5"):
        AdaptiveODE("scipy_solver").until(ReverseDynamics(mixture), start, as_time(1.0), lambda t, y: t)


def test_a_state_that_is_not_finite_is_told(mixture: MixtureDenoiser, start: Tensor) -> None:
    with pytest.raises(FloatingPointError, match="dopri5 cannot meet rtol = 1e-05 and atol = 1e-05"):
        AdaptiveODE().step(ReverseDynamics(mixture), start * torch.nan, as_time(1.0), as_time(0.5), NO_NOISE)


def test_order_and_evaluations_are_those_of_the_method(mixture: MixtureDenoiser, start: Tensor) -> None:
    """One step of the range, with the evaluation at its start that the adaptive ones need once."""
    for method in ("euler", "midpoint", "heun2", "heun3", "rk4"):
        rule, dynamics = AdaptiveODE(method, steps=1), ReverseDynamics(mixture)
        rule.step(dynamics, start, TIMES[0], TIMES[-1], NO_NOISE)
        assert dynamics.evaluations == rule.evaluations == rule.order
    for method in ("bosh3", "dopri5", "dopri8", "adaptive_heun", "fehlberg2"):
        rule, dynamics = AdaptiveODE(method, rtol=1e9, atol=1e9), ReverseDynamics(mixture)
        rule.step(dynamics, start, TIMES[0], TIMES[-1], NO_NOISE)
        assert (dynamics.evaluations - 1) % rule.evaluations == 0
        assert dynamics.evaluations - 1 >= 3 * rule.evaluations  # steps of 1/32, 10/32, the rest
