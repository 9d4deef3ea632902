"""Laws: statements true of every implementation of an interface, to run over your own as well.

    >>> print(physdiff.laws.check(MyProcess))

A law measures a number and holds it to a limit. The cases are small grids of one to three dimensions, odd and even,
under every boundary; default and other settings; fitted and linear clocks; and, on the process, the solvers that tell.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from tqdm import tqdm

from physdiff.basis import Basis, IdentityBasis, SpectralBasis
from physdiff.clock_fit import fit_clock
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid, replace_shape
from physdiff.laws.cases import (
    BasisCase,
    ProcessCase,
    SolverCase,
    basis_cases,
    instance_cases,
    needs_laplacian,
    pair_cases,
    process_cases,
    solver_cases,
)
from physdiff.laws.law import Finding, Law, Measurement, Report, described_error, law, laws_of, pairs
from physdiff.laws.objective_laws import ObjectiveCase, check_objective, objective_cases
from physdiff.laws.process_laws import terminal_law_is_the_reference
from physdiff.laws.remembered import is_solved
from physdiff.laws.semilinear_cases import SemilinearCase, semilinear_case, semilinear_cases
from physdiff.phase_space import PhaseSpaceProcess
from physdiff.process import ForwardProcess, LinearProcess
from physdiff.semilinear import SemilinearProcess

__all__ = [
    "BasisCase", "Finding", "Law", "Measurement", "ObjectiveCase", "ProcessCase", "Report", "SemilinearCase",
    "SolverCase", "basis_cases", "check", "check_objective", "law", "laws_of", "objective_cases", "pair_cases", "pairs",
    "process_cases", "semilinear_cases", "solver_cases",
]  # fmt: skip

# Importing a module states its laws; this is the order of a report.
_SUBJECTS = (
    "basis", "equation", "process", "refinement", "likelihood", "elbo", "phase_space", "solver", "semilinear",
    "objective",
)  # fmt: skip
for _subject in _SUBJECTS:
    importlib.import_module(f"physdiff.laws.{_subject}_laws")

CHECK_GRIDS = (
    Grid(8, 1.0, "periodic"),
    Grid(7, 2.0, "neumann"),
    Grid(6, 1.0, "dirichlet"),
    Grid((6, 5), (1.0, 2.0), "periodic"),
    Grid((4, 5), (1.0, 1.0), ("periodic", "neumann")),
    Grid((3, 4, 3), 1.0, ("periodic", "dirichlet", "neumann")),
)


NOT_ASKED = "the other laws were not asked: make the equation right first."


def check(
    process: type[ForwardProcess] | ForwardProcess,
    bases: list[Basis] | None = None,
    data: GaussianField | None = None,
    progress: bool = False,
) -> Report:
    """Examine a noising physics by every law of processes, and the solvers that tell on it.

    Args:
        process: A class, which is examined with default and other settings on small grids of every kind; or one
            process, which is examined with its own settings on at most 8 cells along each axis of its own box.
        bases: Where to examine a class; small grids when not given.
        data: The law of your data, such as `GaussianField.fit` gives: what of it survives to t = 1 is then told, on its
            own grid; the other laws use data that is made up.
        progress: Whether to show a bar, on a terminal.

    Returns:
        Report; `print` it, and see `.passed`.

    Raises:
        ValueError: it is no process; the class cannot be made with its default settings on any of the bases, or not for
            the data.
    """
    cls = process if isinstance(process, type) else type(process)
    if not issubclass(cls, (LinearProcess, SemilinearProcess)):
        raise ValueError(f"{cls.__name__} is no process: neither a LinearProcess nor a SemilinearProcess.")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a few numbers at a time: threads would only wait for one another
    try:
        if issubclass(cls, SemilinearProcess):
            return _semilinear_report(cast(type[SemilinearProcess] | SemilinearProcess, process), bases, data, progress)
        return _report(cast(type[LinearProcess] | LinearProcess, process), bases, data, progress)
    finally:
        torch.set_num_threads(threads)


def _report(
    process: type[LinearProcess] | LinearProcess, bases: list[Basis] | None, data: GaussianField | None, progress: bool
) -> Report:
    refused: list[str] = []
    broken: list[Finding] = []
    if isinstance(process, LinearProcess):
        cases = list(instance_cases(process.on(_small(process.basis.grid))))
        name = type(process).__name__
    else:
        name, cases = process.__name__, []
        for basis in _places(process) if bases is None else bases:
            try:
                cases += list(process_cases(process, [basis]))
            except ValueError as error:  # a physics may refuse a boundary; it may not refuse them all
                refused.append(f"{BasisCase(basis)}: {error}")
            except Exception as error:
                broken.append(_uncomputable(str(BasisCase(basis)), error))
        if not cases and not broken:
            raise ValueError(f"{name} works on no grid that was tried, with its default settings; {refused[0]}")
    findings = broken + _examined("equation", cases, progress)
    if not all(finding.passed for finding in findings):
        return Report(name, tuple(findings), tuple(refused), (NOT_ASKED,))
    findings += _examined("process", cases, progress)
    findings += _examined("phase space", [c for c in cases if isinstance(c.process, PhaseSpaceProcess)], progress)
    if data is not None:
        findings.append(_on_data(process, data))
    findings += _examined("solver on process", list(pair_cases(cases, telling=True)), progress)
    return Report(name, tuple(findings), tuple(refused))


def _semilinear_report(
    process: type[SemilinearProcess] | SemilinearProcess,
    bases: list[Basis] | None,
    data: GaussianField | None,
    progress: bool,
) -> Report:
    if isinstance(process, SemilinearProcess):
        name, cases = type(process).__name__, [semilinear_case(process.on(_small(process.basis.grid)))]
    else:
        name, cases = process.__name__, list(semilinear_cases(process, bases))
    first = _examined("reaction", cases, progress)
    if not all(finding.passed for finding in first):
        return Report(name, tuple(first), (), (NOT_ASKED,))
    # What is exact is held to the laws of what is exact: the linear part, its refinement and its noise at a point.
    linear = [case.linear for case in cases]
    rest = [finding for s in ("equation", "process") for finding in _examined(s, linear, progress)]
    no_bound = () if data is None else ("no bound on what of your data survives is known for a simulated process.",)
    return Report(name, tuple(first + _examined("semilinear", cases, progress) + rest), (), no_bound)


def _small(grid: Grid) -> Grid:
    """At most 8 cells along each axis of the same box, 5 in space."""
    return replace_shape(grid, tuple(min(n, 8 if grid.ndim < 3 else 5) for n in grid.shape))


def _examined(subject: str, cases: Sequence[object], progress: bool) -> list[Finding]:
    """Law by law, the order in which a report is read."""
    asked = [(one, case) for one in laws_of(subject) for case in cases if one.applies(case)]
    shown = tqdm(asked, desc=f"laws of {subject}", unit="case", leave=False, disable=None if progress else True)
    return [one.examine(case) for one, case in shown]


def _places(cls: type[LinearProcess]) -> list[Basis]:
    """Where a class is examined. Where every coefficient is a quadrature, half the grids keep it to seconds."""
    places: list[Basis] = [SpectralBasis(grid) for grid in (CHECK_GRIDS if is_solved(cls) else CHECK_GRIDS[::2])]
    try:
        anywhere = not needs_laplacian(cls)
    except Exception:  # what is wrong is told where the class is tried
        anywhere = False
    return places + ([IdentityBasis(CHECK_GRIDS[0])] if anywhere else [])


def _uncomputable(place: str, error: Exception) -> Finding:
    statement = "The process can be made with its default settings, and drift_symbol and noise_spectrum computed."
    advice = "The line named is where it stops."
    return Finding("equation can be computed", place, "fail", described_error(error), math.inf, statement, advice)


def _on_data(process: type[LinearProcess] | LinearProcess, data: GaussianField) -> Finding:
    """What of the data survives to t = 1."""
    chosen = replace(process, basis=data.basis) if isinstance(process, LinearProcess) else process(data.basis)
    case = ProcessCase(fit_clock(chosen, data), "your data", data)
    (terminal,) = (one for one in laws_of("process") if one.check is terminal_law_is_the_reference)
    return terminal.examine(case)
