"""Laws: statements true of every implementation of an interface, to run over your own as well.

    >>> print(physdiff.laws.check(MyProcess))

A law measures a number and holds it to a limit. The cases are small grids of one to three dimensions, odd and even,
under every boundary; default and other settings; fitted and linear clocks.
"""

from __future__ import annotations

from physdiff.basis import Basis, IdentityBasis, SpectralBasis
from physdiff.grid import Grid, replace_shape
from physdiff.laws import basis_laws, process_laws, solver_laws  # noqa: F401  (importing states the laws)
from physdiff.laws.cases import (
    BasisCase,
    ProcessCase,
    SolverCase,
    basis_cases,
    instance_cases,
    needs_laplacian,
    process_cases,
    solver_cases,
)
from physdiff.laws.law import Finding, Law, Measurement, Report, law, laws_of, pairs
from physdiff.process import LinearProcess

__all__ = [
    "BasisCase", "Finding", "Law", "Measurement", "ProcessCase", "Report", "SolverCase", "basis_cases", "check",
    "law", "laws_of", "pairs", "process_cases", "solver_cases",
]  # fmt: skip

CHECK_GRIDS = (
    Grid(8, 1.0, "periodic"),
    Grid(7, 2.0, "neumann"),
    Grid(6, 1.0, "dirichlet"),
    Grid((6, 5), (1.0, 2.0), "periodic"),
    Grid((4, 5), (1.0, 1.0), ("periodic", "neumann")),
    Grid((3, 4, 3), 1.0, ("periodic", "dirichlet", "neumann")),
)


def check(process: type[LinearProcess] | LinearProcess, bases: list[Basis] | None = None) -> Report:
    """Examine a noising physics by every law of processes.

    Args:
        process: A class, which is examined with default and other settings on small grids of every kind; or one
            process, which is examined with its own settings on at most 8 cells along each axis of its own box.
        bases: Where to examine a class; small grids when not given.

    Returns:
        Report; `print` it, and see `.passed`.

    Raises:
        ValueError: the class cannot be made with its default settings on any of the bases.
    """
    refused: list[str] = []
    if isinstance(process, LinearProcess):
        grid = process.basis.grid
        small = process.on(replace_shape(grid, tuple(min(n, 8 if grid.ndim < 3 else 5) for n in grid.shape)))
        cases = list(instance_cases(small))
        name = type(process).__name__
    else:
        name, cases = process.__name__, []
        if bases is None:
            # Without a closed form every coefficient is a quadrature: half the grids keep the check to seconds.
            solved = process.variance is not LinearProcess.variance
            bases = [SpectralBasis(grid) for grid in (CHECK_GRIDS if solved else CHECK_GRIDS[::2])]
            bases += [] if needs_laplacian(process) else [IdentityBasis(CHECK_GRIDS[0])]
        for basis in bases:
            try:
                cases += list(process_cases(process, [basis]))
            except ValueError as error:  # a physics may refuse a boundary; it may not refuse them all
                refused.append(f"{BasisCase(basis)}: {error}")
        if not cases:
            raise ValueError(f"{name} works on none of {len(bases)} grids with its default settings; {refused[0]}")
    return Report(name, tuple(one.examine(case) for one, case in pairs("process", cases)), tuple(refused))
