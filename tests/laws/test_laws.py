"""The shipped laws over everything that is registered; and the power and the words of `check`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import physdiff.clock
import physdiff.processes
from physdiff import laws
from physdiff.basis import SpectralBasis
from physdiff.grid import Grid
from physdiff.laws import Law
from physdiff.phase_space import PhaseSpaceProcess
from physdiff.process import AutonomousProcess, LinearProcess
from physdiff.processes.heat import Heat
from physdiff.processes.variance_preserving import VariancePreserving
from physdiff.registry import processes
from physdiff.semilinear import SemilinearProcess
from physdiff.solvers import solvers

torch.set_num_threads(1)
LINEAR = {name: cls for name, cls in processes.classes().items() if issubclass(cls, LinearProcess)}


@cache
def cases(subject: str, name: str) -> tuple[Any, ...]:
    if subject in ("semilinear", "reaction"):
        return tuple(laws.semilinear_cases(processes.classes()[name]))
    if subject == "basis":
        return tuple(laws.basis_cases())
    if subject == "phase space":
        return cases("process", name)
    if subject == "solver":
        return tuple(laws.solver_cases(solvers.classes()[name]))
    if subject == "solver on process":
        return tuple(laws.pair_cases(cases("process", name)))
    return tuple(laws.process_cases(LINEAR[name]))


SUBJECTS = (
    [("basis", "all")]
    + [(s, n) for n in LINEAR for s in ("equation", "process", "solver on process")]
    + [("phase space", n) for n, cls in LINEAR.items() if issubclass(cls, PhaseSpaceProcess)]
    + [(s, n) for n in processes.classes(SemilinearProcess) for s in ("reaction", "semilinear")]
    + [("solver", n) for n in solvers.classes()]
)


def questions() -> list[Any]:
    # Whether a law speaks of a solver is a matter of the rule, which shows on any process; of a basis or a process,
    # of the grid.
    anywhere = VariancePreserving(SpectralBasis(Grid(2)))
    made = []
    for subject, name in SUBJECTS:
        for law in laws.laws_of(subject):
            speaks = True
            if subject == "solver":
                speaks = any(
                    law.applies(laws.SolverCase(e, anywhere, "any")) for e in solvers.classes()[name].examples()
                )
            elif subject in ("semilinear", "reaction"):  # a matter of what the class declares
                speaks = law.applies(laws.SemilinearCase(processes.classes()[name]))  # pyright: ignore[reportArgumentType]
            if speaks:
                made.append(pytest.param(law, subject, name, id=f"{name}-{law.name}".replace(" ", "_")))
    return made


@pytest.mark.parametrize(("law", "subject", "name"), questions())
def test_law(law: Law, subject: str, name: str) -> None:
    findings = [law.examine(case) for case in cases(subject, name) if law.applies(case)]
    assert findings
    print(laws.Report(name, tuple(findings)))
    assert not [f for f in findings if not f.passed]


@pytest.mark.parametrize("name", processes.classes(SemilinearProcess))
def test_the_linear_part_of_a_reaction_is_held_to_the_laws_of_the_linear(name: str) -> None:
    parts = [case.linear for case in cases("semilinear", name)]
    asked = [law for subject in ("equation", "process") for law in laws.laws_of(subject)]
    findings = [law.examine(part) for law in asked for part in parts if law.applies(part)]
    print(laws.Report(name, tuple(findings)))
    assert not [f for f in findings if not f.passed]
    assert {"steps compose", "refinement is as declared", "score is the gradient"} <= {f.law for f in findings}


@pytest.mark.parametrize("cls", LINEAR.values(), ids=lambda c: c.__name__)
def test_registered_processes_work_under_every_boundary(cls: type) -> None:
    boundaries = {case.process.basis.grid.boundary for case in cases("process", cls.__name__)}
    assert {("periodic",), ("neumann",), ("dirichlet",), ("periodic", "dirichlet", "neumann")} <= boundaries


# ---- a user's own physics


@dataclass(frozen=True)
class Telegraph(AutonomousProcess):
    """A physics with no registration and no closed form of its own."""

    friction: float = 2.0

    def drift_symbol(self, time: Tensor) -> Tensor:
        return -self.friction * (1 + 0.01 * self.basis.laplacian)

    def noise_spectrum(self, time: Tensor) -> Tensor:
        return torch.full_like(time, 1.0 / self.basis.grid.cell_volume)


@dataclass(frozen=True)
class Ramp(LinearProcess):
    """An equation that changes with time, and its closed form: variance preserving, ever faster."""

    strength: float = 0.5
    refines = False

    def drift_symbol(self, time: Tensor) -> Tensor:
        return -self.strength * (1 + time)

    def noise_spectrum(self, time: Tensor) -> Tensor:
        return 2 * self.strength * (1 + time)

    def log_gain(self, time: Tensor, since: Tensor) -> Tensor:
        return -self.strength * (time - since) * (1 + 0.5 * (time + since))

    def variance(self, time: Tensor, since: Tensor) -> Tensor:
        return -torch.expm1(2 * self.log_gain(time, since))


class RampFromZero(Ramp):
    """The closed form of an equation that does not change with time."""

    def log_gain(self, time: Tensor, since: Tensor) -> Tensor:
        return self.drift_symbol(time) * (time - since)


class WrongVariance(Telegraph):
    """e^{−θτ} where e^{−2θτ} belongs."""

    def variance(self, time: Tensor, since: Tensor) -> Tensor:
        rate = -self.drift_symbol(time)
        return self.noise_spectrum(time) * -torch.expm1(-rate * (time - since)) / (2 * rate)


class PerCell(Telegraph):
    """Noise per cell, declared to refine."""

    def noise_spectrum(self, time: Tensor) -> Tensor:
        return torch.ones_like(time)


class Lopsided(Telegraph):
    """A symbol that is odd in k and real."""

    def drift_symbol(self, time: Tensor) -> Tensor:
        return -2 + 0.01 * self.basis.derivative(0).imag


class WindAlongX(Telegraph):
    """Works only where the first axis is periodic."""

    def drift_symbol(self, time: Tensor) -> Tensor:
        return super().drift_symbol(time) - self.basis.derivative(0)


def test_check_passes_a_right_physics_and_says_what_it_measured() -> None:
    report = laws.check(Telegraph)
    text = str(report)
    print(text)
    assert report.passed
    assert text.startswith("Telegraph: every law holds; ")
    assert "FAIL" not in text and "warn" not in text
    assert "other settings" in {f.case.split(", ")[1] for f in report.findings}


def test_check_holds_a_changing_equation_to_its_closed_form() -> None:
    basis = SpectralBasis(Grid((4, 3), 1.0, ("periodic", "neumann")))
    assert laws.check(Ramp, [basis]).passed
    broken = {f.law for f in laws.check(RampFromZero, [basis]).findings if not f.passed}
    assert {"solution solves the equation", "ode solver agrees", "steps compose"} <= broken


def test_check_of_one_process_keeps_its_settings() -> None:
    report = laws.check(Telegraph(SpectralBasis(Grid((64, 64))), friction=5.0))
    assert report.passed
    assert {f.case.split(",")[0] for f in report.findings} == {"Telegraph on 8x8 periodic"}


@pytest.mark.parametrize(
    ("cls", "broken"),
    [
        (WrongVariance, "solution solves the equation"),
        (WrongVariance, "simulation has the moments"),
        (PerCell, "refinement is as declared"),
        (Lopsided, "real fields stay real"),
    ],
)
def test_check_finds_a_wrong_physics(cls: type, broken: str) -> None:
    basis = SpectralBasis(Grid((5, 4), (1.0, 1.0), "periodic"))
    report = laws.check(cls, [basis])
    assert not report.passed
    assert broken in {f.law for f in report.findings if not f.passed}
    assert f"FAIL  {broken}" in str(report)


def test_check_reports_an_exception_as_a_failure() -> None:
    class Raises(Telegraph):
        def variance(self, time: Tensor, since: Tensor) -> Tensor:
            if time > since:
                raise KeyError("planted")
            return super().variance(time, since)

    report = laws.check(Raises(SpectralBasis(Grid(4)), clock=physdiff.clock.LinearClock(1.0)))
    assert not report.passed and "KeyError: 'planted' (test_laws.py, line " in str(report)
    report = laws.check(Raises)  # without a clock of its own it is not even given one
    assert {f.law for f in report.findings if not f.passed} == {"a clock fits the data"}
    assert "KeyError: 'planted' (test_laws.py, line " in str(report)


def test_a_physics_may_refuse_a_boundary_but_not_all() -> None:
    report = laws.check(WindAlongX)
    assert report.passed
    assert all("periodic" in f.case for f in report.findings)
    assert "note  refused 7 neumann: a derivative is a symbol along periodic axes only" in str(report)
    with pytest.raises(ValueError, match=r"works on no grid .* 4 neumann: .* periodic axes only"):
        laws.check(WindAlongX, [SpectralBasis(Grid(4, 1.0, "neumann"))])


def test_declared_false_must_be_seen_to_be() -> None:
    class Modest(Heat):
        refines = False

    broken = {f.law for f in laws.check(Modest, [SpectralBasis(Grid(6))]).findings if not f.passed}
    assert broken == {"refinement is as declared"}
    assert not VariancePreserving.refines


def test_terminal_mismatch_warns() -> None:
    short = VariancePreserving(SpectralBasis(Grid(6)), clock=physdiff.clock.LinearClock(0.5))
    report = laws.check(short)
    assert report.passed
    assert "warn  terminal law is the reference" in str(report)
