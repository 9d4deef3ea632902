"""What `check` says of good physics and of broken physics, number by number."""

from __future__ import annotations

import io
import math
import sys
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from physdiff import laws
from physdiff.basis import SpectralBasis
from physdiff.clock import LinearClock
from physdiff.clock_fit import fit_clock
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.laws import Finding, Law, ProcessCase, SolverCase
from physdiff.laws.cases import allows, instance_cases, smooth_reference
from physdiff.laws.law import Report
from physdiff.laws.remembered import Remembered, remembered
from physdiff.process import AutonomousProcess, LinearProcess
from physdiff.processes.advection_diffusion import AdvectionDiffusion
from physdiff.processes.allen_cahn import AllenCahn
from physdiff.processes.coloured_variance_preserving import ColouredVariancePreserving
from physdiff.processes.heat import Heat
from physdiff.processes.heat_dissipation import HeatDissipation
from physdiff.processes.matern import Matern
from physdiff.processes.reaction_diffusion import ReactionDiffusion
from physdiff.processes.variance_preserving import VariancePreserving
from physdiff.randomness import SampleNoise
from physdiff.solvers import Heun, ReverseDynamics, Solver
from physdiff.solvers.solver import Noise

torch.set_num_threads(1)
LINE, PLANE, BOX = (SpectralBasis(Grid(shape)) for shape in (8, (6, 5), (4, 3, 4)))


def law(name: str, subject: str = "process") -> Law:
    (found,) = (one for one in laws.laws_of(subject) if one.name == name)
    return found


def case(process: LinearProcess) -> ProcessCase:
    return next(iter(instance_cases(process)))


def measured(name: str, subject: Any, of: str = "process") -> list[laws.Measurement]:
    return list(law(name, of).check(subject))


def broken(report: Report) -> set[str]:
    return {finding.law for finding in report.findings if not finding.passed}


def said(report: Report, name: str) -> Finding:
    (finding,) = (f for f in report.worst if f.law == name)
    return finding


@dataclass(frozen=True)
class Bath(AutonomousProcess):
    """Conduction, friction and space-time white noise; no closed form of its own."""

    friction: float = 2.0
    diffusivity: float = 0.05

    def drift_symbol(self, time: Tensor) -> Tensor:
        return -(self.friction + self.diffusivity * self.basis.laplacian)

    def noise_spectrum(self, time: Tensor) -> Tensor:
        return torch.full_like(time, 1.0 / self.basis.grid.cell_volume)


class WrongSign(Bath):
    """∇² with the symbol +λ."""

    def drift_symbol(self, time: Tensor) -> Tensor:
        return -self.friction + self.diffusivity * self.basis.laplacian


class NegativeNoise(Bath):
    """Noise of the wrong sign in fine waves."""

    def noise_spectrum(self, time: Tensor) -> Tensor:
        return (1 - 0.01 * self.basis.laplacian) / self.basis.grid.cell_volume


class Stiff(Bath):
    """A beam: bending, and a load that is rough but not white."""

    def drift_symbol(self, time: Tensor) -> Tensor:
        return -(1 + 0.01 * self.basis.laplacian**2)

    def noise_spectrum(self, time: Tensor) -> Tensor:
        return 4.0 / self.basis.grid.cell_volume / (1 + 0.04 * self.basis.laplacian)


class HalfRate(Bath):
    """e^{−θτ} where e^{−2θτ} belongs, in the closed form."""

    def variance(self, time: Tensor, since: Tensor) -> Tensor:
        rate = -self.drift_symbol(time)
        return self.noise_spectrum(time) * -torch.expm1(-rate * (time - since)) / (2 * rate)


class Kept(Bath):
    """A mean that neither decays nor receives noise."""

    def drift_symbol(self, time: Tensor) -> Tensor:
        return -self.basis.laplacian

    def noise_spectrum(self, time: Tensor) -> Tensor:
        return self.basis.laplacian


# ---- the equation


def test_noise_power_below_zero_is_named_with_its_mode_and_stops_the_rest() -> None:
    report = laws.check(NegativeNoise, [LINE])
    assert broken(report) == {"noise power is not negative"}
    least = 8 * (1 - 0.01 * (8 * math.pi) ** 2)  # the Nyquist wave, k = 8π, in cells of an eighth
    assert f"noise_spectrum is {least:.2g} in mode (4,) at t = 0 (must be ≥ 0)" in str(report)
    assert "Correct noise_spectrum" in str(report)
    assert "the other laws were not asked" in str(report)
    assert {f.law for f in report.findings} == {"noise power is not negative", "modes do not grow"}


def test_wrong_sign_of_the_drift_is_told_and_not_its_consequences() -> None:
    report = laws.check(WrongSign, [LINE])
    assert broken(report) == {"modes do not grow"}
    rate = -2 + 0.05 * (8 * math.pi) ** 2
    assert f"drift_symbol is up to {rate:.3g} per unit of time" in str(report)
    assert "drift_symbol has the wrong sign if the physics dissipates" in str(report).replace("\n      ", " ")
    assert set(report.by_law) == {"noise power is not negative", "modes do not grow"}


def test_a_little_growth_is_a_warning() -> None:
    class Slight(Bath):
        def drift_symbol(self, time: Tensor) -> Tensor:
            return torch.full_like(time, 0.1 * self.friction)

    slight = Slight(LINE, friction=1.0, clock=LinearClock(1.0))
    finding = law("modes do not grow", "equation").examine(case(slight))
    assert finding.level == "warn"
    assert "up to 0.1 per unit of time (should be ≤ 0): a mode grows ×1.11 by t = 1" in finding.detail
    assert law("modes do not grow", "equation").examine(case(Bath(LINE))).level == "ok"
    fast = replace(slight, friction=80.0)
    assert law("modes do not grow", "equation").examine(case(fast)).level == "fail"


def test_a_mode_that_is_never_forgotten_has_no_clock() -> None:
    report = laws.check(Kept, [LINE])
    assert broken(report) == {"a clock fits the data"}
    assert "Kept never forgets the data: no clock can be chosen for it" in str(report)
    assert "declare forgets = False" in str(report).replace("\n      ", " ")


def test_an_equation_that_cannot_be_computed_is_a_line_of_the_users_file() -> None:
    class Divides(Bath):
        def drift_symbol(self, time: Tensor) -> Tensor:
            return -self.basis.laplacian * (1 / 0)

    report = laws.check(Divides)
    assert broken(report) == {"equation can be computed"}
    assert "ZeroDivisionError: division by zero (test_check.py, line " in str(report)


def test_what_is_no_process_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^Grid is no process"):
        laws.check(Grid)  # pyright: ignore[reportArgumentType]


# ---- a report


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_is_shown_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    shown = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    laws.check(NegativeNoise, [LINE], progress=True)
    assert ("laws of equation" in shown.getvalue()) is terminal
    laws.check(NegativeNoise, [LINE])
    assert shown.getvalue().count("laws of equation:   0%") == terminal


def test_a_failure_says_what_to_do_and_those_that_follow_do_not_repeat_it() -> None:
    report = laws.check(HalfRate, [LINE])
    text = str(report)
    assert {
        "solution solves the equation", "ode solver agrees", "steps compose", "simulation has the moments",
        "posterior is bayes", "gaussian likelihood is exact",
    } <= broken(report)  # fmt: skip
    assert text.startswith(f"HalfRate: {len(broken(report))} laws broken; 3 cases, ")
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("FAIL"))
    assert "solution solves the equation" in lines[first] and "[3 cases]" in lines[first]
    assert "delete both, and the toolkit solves the equation" in " ".join(
        x.strip() for x in lines[first + 1 : first + 7]
    )
    assert text.count("On 8 periodic") == 1  # what follows is a line each


def test_levels_are_counted_where_not_every_case_is_at_them() -> None:
    levels = ("ok", "warn", "warn", "note")
    findings = tuple(Finding("a law", f"It on {i}", level, "1", 1.0, "Says.", "Do.") for i, level in enumerate(levels))
    text = str(Report("It", findings))
    assert text.splitlines()[0] == "It: every law holds, 1 warning; 4 cases, the worst number of each law:"
    assert "warn  a law  1  [2 of 4 cases]" in text
    assert "On 1. The law: Says. Do." in text


# ---- how noise begins


def test_heat_dissipation_declares_its_noise() -> None:
    finding = law("starts clean").examine(case(HeatDissipation(PLANE, noise_level=0.2)))
    assert finding.level == "ok"
    assert finding.detail == "declares that it does not: noise 0.2 per cell from the start"


def test_a_start_that_is_not_as_declared_is_found() -> None:
    class Undeclared(HeatDissipation):
        starts_clean: ClassVar[bool] = True

        def noise_variance(self, time: Tensor) -> Tensor:
            return super().noise_variance(time) + 0.1 * (time > 0)

    class Silent(HeatDissipation):
        @property
        def start_variance(self) -> Tensor:
            return torch.zeros_like(self.basis.laplacian)

    for cls, words in ((Undeclared, "noise at t = 1e-12, of that at t = 1,"), (Silent, "but there is no noise")):
        process = cls(PLANE, clock=LinearClock(0.1))
        finding = law("starts clean").examine(ProcessCase(process, "defaults"))
        assert finding.level == "fail" and words in finding.detail, finding


# ---- whether noise is a function


@pytest.mark.parametrize(
    ("process", "factor"),
    [
        # Σ λ^−α over waves of d dimensions: what a halving adds shrinks by 2^(d − 2α).
        (Heat(LINE), 0.5),
        (Heat(PLANE), 1.0),
        (Heat(BOX), 2.0),
        (Heat(SpectralBasis(Grid((4, 5), 1.0, "neumann"))), 1.0),
        (Matern(LINE), 0.25),
        (Matern(PLANE), 0.25),
        (Matern(PLANE, smoothness=0.25), 2**-0.5),
        (ReactionDiffusion(LINE), 0.5),
        (ReactionDiffusion(PLANE, coefficients=(1.0, 0.1, 0.01)), 0.25),
        (AdvectionDiffusion(PLANE), 1.0),
        (Bath(PLANE, diffusivity=0.0), 4.0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, LinearProcess) else f"{value:.2f}",
)
def test_noise_is_a_function_or_not(process: LinearProcess, factor: float) -> None:
    (found,) = measured("noise at a point", case(process))
    assert found.value == pytest.approx(factor, rel=0.06)
    assert found.level == ("ok" if factor < 0.9 else "note")
    assert str(found).startswith("a random function" if factor < 0.9 else "not a random function: variance ×")
    assert ("a logarithm" in str(found)) is (factor == 1.0)


def test_noise_per_cell_is_no_function() -> None:
    for process in (VariancePreserving(PLANE), HeatDissipation(LINE)):
        (found,) = measured("noise at a point", case(process))
        assert found.level == "note" and str(found).startswith("noise per cell, not per volume")
    coloured = fit_clock(ColouredVariancePreserving(LINE, spectrum="data"), smooth_reference(LINE))
    (found,) = measured("noise at a point", ProcessCase(coloured, "defaults"))
    assert found.level == "note" and "cannot be put on a finer grid" in str(found)


def test_a_report_has_a_line_for_each_dimension() -> None:
    report = laws.check(Heat, [LINE, PLANE])
    assert said(report, "noise at a point, 1-D").level == "ok"
    assert said(report, "noise at a point, 2-D").level == "note"
    assert report.passed and str(report).count("Nothing is wrong: on any one grid") == 1


# ---- what survives


def test_terminal_verdict_is_in_nats_of_the_given_data() -> None:
    duration = 0.5
    data = GaussianField.matern(SpectralBasis(Grid((12, 16))), 0.2)
    report = laws.check(VariancePreserving(LINE, clock=LinearClock(duration)), data=data)
    nats = 0.5 * float(torch.log1p(math.exp(-duration) * data.spectrum / -math.expm1(-duration)).sum())
    finding = said(report, "your data at t = 1")
    assert finding.level == "warn"
    assert (
        f"at most {nats:.2g} nats of your data survive to t = 1, {nats / 192:.2g} per degree of freedom"
        in finding.detail
    )
    assert finding.case == "VariancePreserving on 12x16 periodic, your data"
    assert report.passed
    assert said(laws.check(VariancePreserving, [LINE], data), "your data at t = 1").level == "ok"  # a clock that fits


# ---- solvers on the process


def test_every_solver_has_its_two_verdicts() -> None:
    report = laws.check(AdvectionDiffusion, [LINE, PLANE])
    for solver, order in (("Ancestral", 1), ("Heun", 2), ("ReferenceSplitting", 2)):
        found = said(report, f"{solver}: order of convergence")
        assert found.level == "ok" and f"(declares {order}, within 0.15)" in found.detail
        value = float(found.detail.split()[1])
        assert abs(value - order) < 0.15
        gaussian = said(report, f"{solver}: Gaussian in, Gaussian out")
        assert gaussian.level == "ok"
        assert ("order" if solver == "Heun" else "in 1, 2, 5 steps") in gaussian.detail


@dataclass(frozen=True)
class Boast(Solver):
    """Heun's rule without its second slope, declared to be of order 2."""

    order: ClassVar[int] = 2
    evaluations: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False
    exact_on_gaussian: ClassVar[bool] = False

    def step(self, dynamics: ReverseDynamics, y: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        return y + 0.9 * (Heun().step(dynamics, y, t, s, noise) - y)


@dataclass(frozen=True)
class Linear(Boast):
    """A rule for some processes only."""

    def allows(self, process: LinearProcess) -> bool:
        return isinstance(process, Heat)


def test_a_solver_that_boasts_is_found() -> None:
    process = fit_clock(Heat(LINE), smooth_reference(LINE), 0.1)
    for name in ("gaussian in gaussian out", "order of convergence"):
        one = law(name, "solver on process")
        assert one.examine(SolverCase(Heun(), process, "Heat")).level == "ok"
        finding = one.examine(SolverCase(Boast(), process, "Heat"))
        assert finding.level == "fail" and finding.law.startswith("Boast: ")
        assert abs(float(finding.detail.split()[1])) < 0.5  # it does not converge at all


@dataclass(frozen=True)
class Bursting(Boast):
    """A rule that overflows where steps are short."""

    def step(self, dynamics: ReverseDynamics, y: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        return y * (1e30 if s > 0 else 1.0)


def test_an_order_of_what_is_not_finite_is_not_computed() -> None:
    process = fit_clock(Heat(LINE), smooth_reference(LINE), 0.1)
    for name in ("gaussian in gaussian out", "order of convergence"):
        finding = law(name, "solver on process").examine(SolverCase(Bursting(), process, "Heat"))
        assert finding.level == "fail" and finding.detail == "the result of 64 steps is not finite"


def test_a_rate_that_is_not_of_the_solution_is_found_by_the_solver_that_needs_it() -> None:
    process = fit_clock(HalfRate(LINE), smooth_reference(LINE), 0.1)
    one = law("gaussian in gaussian out", "solver on process")
    assert one.examine(SolverCase(Heun(), process, "HalfRate")).level == "fail"


def test_a_solver_may_say_which_processes_it_allows() -> None:
    assert allows(Heun(), Bath(LINE))
    assert allows(Linear(), Heat(LINE)) and not allows(Linear(), Bath(LINE))


# ---- likelihood


def test_likelihood_of_gaussian_data_is_exact_and_can_fail() -> None:
    one = law("gaussian likelihood is exact")
    own, other = measured("gaussian likelihood is exact", case(AdvectionDiffusion(LINE)))
    assert own.limit == 1e-10 and own.value < 1e-12
    assert other.limit == 1e-5 and 1e-9 < other.value <= 1e-6
    finding = one.examine(case(HalfRate(LINE)))
    assert finding.level == "fail" and "other data" in finding.detail
    assert finding.strain > 1e3  # off by nats
    stiff = Stiff(LINE)
    _, other = measured("gaussian likelihood is exact", case(stiff))
    assert other.value <= other.limit / 3  # a margin for right physics that needs many steps, as a beam does
    assert one.applies(case(Bath(LINE))) and not one.applies(case(Bath(PLANE)))


# ---- quadratures remembered


@dataclass(frozen=True)
class Slowing(LinearProcess):
    """An equation that changes with time, in no closed form."""

    amplitude_exponent: ClassVar[float] = 0.75

    def drift_symbol(self, time: Tensor) -> Tensor:
        return -(1 + self.basis.laplacian * 0.01) / (1 + time)

    def noise_spectrum(self, time: Tensor) -> Tensor:
        return (1 + time) / self.basis.grid.cell_volume


def test_a_remembered_process_is_the_same_process() -> None:
    process = fit_clock(Slowing(LINE), smooth_reference(LINE))
    same = remembered(process)
    assert isinstance(same, Remembered) and same.amplitude_exponent == 0.75 and same.starts_clean
    assert remembered(Heat(LINE)) == Heat(LINE)
    for t, s in ((0.7, 0.2), (0.7, 0.2), (1.0, 0.0)):
        mine, theirs = (
            p.kernel(torch.tensor(t, dtype=torch.float64), torch.tensor(s, dtype=torch.float64))
            for p in (same, process)
        )
        assert torch.equal(mine.gain, theirs.gain) and torch.equal(mine.variance, theirs.variance)
    assert len(same._known) == 4  # two pairs of times, gain and variance
    noise = SampleNoise([0], "solver")
    assert noise((1, 8)).shape == (1, 1, 8)


def test_a_process_in_no_closed_form_passes() -> None:
    report = laws.check(Slowing, [LINE])
    print(report)
    assert report.passed
    assert {name for name in report.by_law if name.startswith("Heun:")} == {
        "Heun: Gaussian in, Gaussian out", "Heun: order of convergence",
    }  # fmt: skip


def test_a_reaction_that_is_no_map_of_fields_is_told_at_once() -> None:
    """A wrong shape and a run that blows up are one finding each; the laws that follow from them are not asked."""

    @dataclass(frozen=True)
    class Flat(AllenCahn):
        def reaction(self, x: Tensor, time: Tensor) -> Tensor:
            return -x[:, 0]

    report = laws.check(Flat)
    assert not report.passed
    assert "reaction returned the shape" in str(report)
    assert "the other laws were not asked" in str(report)

    @dataclass(frozen=True)
    class Explodes(AllenCahn):
        def reaction(self, x: Tensor, time: Tensor) -> Tensor:
            return 30 * x**3

    assert "largest mode at τ = " in str(laws.check(Explodes))


def test_the_linear_part_is_held_to_the_laws_of_the_linear() -> None:
    """Noise without the cell volume: right on every one grid, and wrong from grid to grid."""

    @dataclass(frozen=True)
    class Forgotten(AllenCahn):
        def noise_spectrum(self) -> Tensor:
            return torch.tensor(1.0, dtype=torch.float64)

    report = laws.check(Forgotten)
    assert [f.law for f in report.worst if not f.passed] == ["refinement is as declared"]
