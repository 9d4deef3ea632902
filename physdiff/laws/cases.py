"""The market of cases that every law runs over: small grids of all kinds, and processes and solvers on them.

Cases come from the registries, so that a new physics or step rule is covered by being registered. Settings that are
not the default come from the class itself: every float among its fields is multiplied.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, cast

import torch
from scipy import sparse
from torch import Tensor

from physdiff.bases import Graph, GraphBasis, Sphere, SphereBasis
from physdiff.basis import Basis, IdentityBasis, SpectralBasis
from physdiff.clock import LinearClock
from physdiff.clock_fit import fit_clock
from physdiff.denoisers import MixtureDenoiser
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.laws.law import described_error
from physdiff.laws.remembered import is_solved, remembered
from physdiff.path import ReferencePath
from physdiff.process import LinearProcess
from physdiff.registry import processes
from physdiff.solvers import Solver, solvers

GRIDS = (
    Grid(7, 2.0, "periodic"),
    Grid(8, 1.0, "periodic"),
    Grid(7, 3.0, "neumann"),
    Grid(6, 1.0, "dirichlet"),
    Grid(1, 1.0, "neumann"),
    Grid((6, 5), (1.0, 1.0), "periodic"),
    Grid((4, 8), (1.0, 3.0), "periodic"),
    Grid((5, 4), (2.0, 1.0), ("neumann", "dirichlet")),
    Grid((6, 5), (1.5, 1.0), ("periodic", "neumann"), origin=(2.0, -1.0)),
    Grid((4, 5), (1.0, 1.0), ("dirichlet", "periodic")),
    Grid((3, 4, 5), (1.0, 1.0, 2.0), "periodic"),
    Grid((4, 3, 3), (1.0, 2.0, 1.0), ("periodic", "dirichlet", "neumann")),
    Grid((3, 3, 4), 1.0, ("periodic", "periodic", "neumann")),
)


# A ring with a chord, unequal weights and volumes; its normalised Laplacian; two components, one of them a lone node.
GRAPHS = (
    Graph(sparse.coo_array((
        [1.0, 2.0, 0.5, 1.0, 3.0, 1.0, 0.7, 1.5] * 2,
        ([0, 1, 2, 3, 4, 5, 6, 1, 1, 2, 3, 4, 5, 6, 0, 4], [1, 2, 3, 4, 5, 6, 0, 4, 0, 1, 2, 3, 4, 5, 6, 1]),
    ), shape=(7, 7)), volumes=[1.0, 2.0, 1.0, 0.5, 1.5, 1.0, 1.0], dimension=2.0),
    Graph(sparse.coo_array(([1.0] * 10, ([0, 1, 2, 3, 2, 1, 2, 3, 4, 4], [1, 2, 3, 4, 4, 0, 1, 2, 3, 2]))), "degree"),
    Graph(sparse.coo_array(([1.0] * 6, ([0, 1, 2, 1, 2, 3], [1, 2, 3, 0, 1, 2])), shape=(5, 5))),
)  # fmt: skip

SPHERES = (Sphere(4, 8, 2.0), Sphere(5, 7), Sphere(5, 8, 0.5, "equiangular"))


@dataclass(frozen=True)
class BasisCase:
    """A basis on a grid."""

    basis: Basis

    @property
    def is_spectral(self) -> bool:
        """Whether the modes are waves on a box."""
        return isinstance(self.basis, SpectralBasis)

    @property
    def has_laplacian(self) -> bool:
        """Whether the basis diagonalises the Laplacian."""
        return not isinstance(self.basis, IdentityBasis)

    def __str__(self) -> str:
        return _place(self.basis)


def _place(basis: Basis) -> str:
    """`6x5 periodic-neumann`, the identity basis named."""
    boundary = dict.fromkeys(basis.grid.boundary) if len(set(basis.grid.boundary)) == 1 else basis.grid.boundary
    shape = "x".join(map(str, basis.grid.shape))
    kind = "" if isinstance(basis, SpectralBasis) else f" {type(basis).__name__}"
    return f"{shape} {'-'.join(boundary)}{kind}"


def basis_cases() -> Iterator[BasisCase]:
    """The spectral basis of every grid, the identity on one grid of each dimension, graphs and spheres."""
    yield from (BasisCase(SpectralBasis(grid)) for grid in GRIDS)
    yield from (BasisCase(GraphBasis(graph)) for graph in GRAPHS)
    few = GraphBasis(GRAPHS[0])
    yield BasisCase(GraphBasis(GRAPHS[0], few.laplacian[:3], few.dense()[:, :3]))
    yield from (BasisCase(SphereBasis(sphere)) for sphere in SPHERES)
    yield from (BasisCase(IdentityBasis(grid)) for grid in (GRIDS[0], GRIDS[8], GRIDS[11]))


@dataclass(frozen=True)
class ProcessCase:
    """A process with a clock, and data for it.

    Attributes:
        process: With its clock.
        settings: What distinguishes it: "defaults" or "other settings", and the clock.
        data: The data's law; a smooth one that is made up when not given.
        unfit: Why no clock fits the data; empty if one does. The clock is then a short linear one.
        is_noised_everywhere: Whether every mode receives noise; one that does not has no variance to be a unit.
    """

    process: LinearProcess
    settings: str
    data: GaussianField | None = None
    unfit: str = ""
    is_noised_everywhere: bool = True

    @property
    def is_default(self) -> bool:
        """Whether settings and clock are those that a user gets without asking."""
        return self.settings.startswith("defaults") and "linear" not in self.settings

    @property
    def is_of_the_user(self) -> bool:
        """Whether the data's law is that of a user's data."""
        return self.settings == "your data"

    @cached_property
    def reference(self) -> GaussianField:
        """The data's law on this grid."""
        return smooth_reference(self.process.basis) if self.data is None else self.data

    @cached_property
    def path(self) -> ReferencePath:
        """The reference carried through the process."""
        return ReferencePath(self.process, self.reference)

    @cached_property
    def mixture(self) -> MixtureDenoiser:
        """Non-Gaussian data with modes correlated, around its own moments."""
        return bimodal(self.process, self.reference, self.path.t_min)

    def __str__(self) -> str:
        return f"{type(self.process).__name__} on {_place(self.process.basis)}, {self.settings}"


def smooth_reference(basis: Basis, channels: int = 1) -> GaussianField:
    """A law with a mean and a spectrum that falls by a decade or two."""
    generator = torch.Generator().manual_seed(11)
    shape = (channels, *basis.grid.shape)
    if not isinstance(basis, IdentityBasis):
        spectrum = 1 / (1 + 30 * basis.laplacian / (basis.laplacian.max() + 1e-300)) ** 1.5
    else:
        spectrum = 0.2 + torch.rand(basis.grid.shape, generator=generator, dtype=torch.float64)
    mean = 0.5 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return GaussianField(basis, mean, spectrum.expand(shape).clone())


def tilted(reference: GaussianField) -> GaussianField:
    """Gaussian data whose spectrum is up to a factor 3 off the reference, and whose mean differs."""
    tilt = 3.0 ** torch.cos(torch.arange(reference.spectrum.numel(), dtype=torch.float64))
    spectrum = reference.basis.symmetrise(reference.spectrum * tilt.reshape(reference.spectrum.shape))
    return GaussianField(reference.basis, 0.3 - reference.mean, spectrum)


def bimodal(process: LinearProcess, reference: GaussianField, t_min: float | None = None) -> MixtureDenoiser:
    """A mixture of three, its means apart by about the spread of the reference, around its own moments."""
    generator = torch.Generator().manual_seed(12)
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    shape = (3, *reference.spectrum.shape)
    means = reference.mean + reference.spectrum.sqrt() * torch.randn(shape, generator=generator, dtype=torch.float64)
    spectra = reference.spectrum * torch.tensor([0.5, 0.3, 0.8], dtype=torch.float64).reshape(3, *[1] * means[0].ndim)
    own = MixtureDenoiser.reference(process.basis, weights, means, spectra)
    return MixtureDenoiser(ReferencePath(process, own, t_min), weights, means, spectra)


def _other_settings(process: LinearProcess) -> LinearProcess | None:
    """The same class with every float setting multiplied, or None if it has none or refuses all multiples."""
    for factor in (1.7, 0.6):
        given = _multiplied(process, factor)
        if not given:
            return None
        try:
            return replace(process, **given)
        except ValueError:  # beyond the range that this class allows
            continue
    return None


def _multiplied(process: LinearProcess, factor: float) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for field in fields(process):
        value = getattr(process, field.name)
        if field.name in ("basis", "clock") or isinstance(value, bool):
            continue
        if isinstance(value, float):
            given[field.name] = factor * value
        elif isinstance(value, tuple) and all(isinstance(v, float) for v in value):
            given[field.name] = tuple(factor * v for v in value)
    return given


def needs_laplacian(cls: type[LinearProcess]) -> bool:
    """Whether a process asks its basis for more than the identity has."""
    basis = IdentityBasis(Grid(4))
    now = torch.zeros((), dtype=torch.float64)
    try:
        process = cls(basis)
        process.drift_symbol(now)
        process.noise_spectrum(now)
    except ValueError as error:
        if "needs SpectralBasis" not in str(error):
            raise
        return True
    return False


def process_cases(cls: type[LinearProcess], bases: list[Basis] | None = None) -> Iterator[ProcessCase]:
    """A process on every basis that it works on: default and other settings, fitted and linear clocks."""
    if bases is None:
        bases = [SpectralBasis(grid) for grid in GRIDS]
        if not needs_laplacian(cls):
            bases += [IdentityBasis(GRIDS[0]), IdentityBasis(GRIDS[8])]
        bases += [GraphBasis(GRAPHS[0]), SphereBasis(SPHERES[0]), SphereBasis(SPHERES[2])]
    for number, basis in enumerate(bases):
        if basis.grid.size == 1 and not cls.forgets:  # a lone cell is all mean, and nothing is left to forget
            continue
        yield from instance_cases(cls(basis), with_linear_clock=number % 3 == 0)


def instance_cases(process: LinearProcess, with_linear_clock: bool = True) -> Iterator[ProcessCase]:
    """One process with its own settings and clock, with other settings, and along a linear clock."""
    chosen = "its own clock" if process.clock is not None else "fitted clock"
    first = _with_clock(process, f"defaults, {chosen}")
    yield first
    if with_linear_clock and not first.unfit:
        linear = LinearClock(first.process.running_clock.end)
        yield ProcessCase(first.process.with_clock(linear), "defaults, linear clock")
    other = _other_settings(process)
    if other is not None:
        yield _with_clock(other, f"other settings, {chosen}")


def _with_clock(process: LinearProcess, settings: str) -> ProcessCase:
    """A process with the clock that fits; with a short one, and the reason, if none does.

    Raises:
        ValueError: its symbols cannot be had on this basis, are of the wrong shape, or are not finite.
    """
    reference = smooth_reference(process.basis)
    process = process.with_reference(reference)
    drift, noise = (symbol(as_time(1e-3)) for symbol in (process.drift_symbol, process.noise_spectrum))
    try:
        return ProcessCase(fit_clock(process, reference), settings)
    except Exception as error:
        if not _are_symbols(drift, noise, process.basis.grid.shape):
            raise
        fastest = float(drift.abs().max())
        reason = str(error) if isinstance(error, ValueError) else described_error(error)
        return ProcessCase(process.with_clock(LinearClock(1 / fastest if fastest else 1.0)), settings, unfit=reason)


def _are_symbols(drift: object, noise: object, shape: tuple[int, ...]) -> bool:
    """Whether both are finite tensors that broadcast to the grid, so that laws can say what is wrong with them."""
    for symbol in (drift, noise):
        if not isinstance(symbol, Tensor) or not bool(symbol.isfinite().all()):
            return False
        fits = (n in (1, wanted) for n, wanted in zip(reversed(symbol.shape), reversed(shape), strict=False))
        if symbol.ndim > len(shape) or not all(fits):
            return False
    return not cast(Tensor, noise).is_complex()


@dataclass(frozen=True)
class SolverCase:
    """A step rule, and a process of one character to run it on.

    Attributes:
        solver: With its default settings.
        process: With a clock.
        character: What the drift symbol does ("decaying symbols", rotating, mixed, nearly still), or where it comes
            from.
    """

    solver: Solver
    process: LinearProcess
    character: str

    @cached_property
    def reference(self) -> GaussianField:
        """The law around which the solver works."""
        return smooth_reference(self.process.basis)

    @cached_property
    def path(self) -> ReferencePath:
        """The reference carried through the process."""
        return ReferencePath(self.process, self.reference, 0.05)

    @cached_property
    def another_law(self) -> GaussianField:
        """Gaussian data that is not the reference's."""
        return tilted(self.reference)

    def __str__(self) -> str:
        return self.character


def solver_cases(cls: type[Solver]) -> Iterator[SolverCase]:
    """A step rule on symbols that decay, rotate, do both, or are nearly zero."""
    known = processes.classes()
    line, plane = SpectralBasis(Grid(6)), SpectralBasis(Grid((3, 4), (1.0, 1.0), ("periodic", "periodic")))
    wall = SpectralBasis(Grid(6, 1.0, "neumann"))
    market = {
        "decaying": known["Matern"](wall, correlation_length=0.5),
        "rotating": known["AdvectionDiffusion"](line, diffusivity=1e-4, noise_level=0.5, velocity=0.1),
        "mixed": known["AdvectionDiffusion"](plane, diffusivity=0.02, noise_level=0.5, velocity=(0.3, -0.2)),
        "nearly still": known["Heat"](wall, diffusivity=1e-6, noise_level=1.0),
    }
    for solver in cls.examples():
        for character, process in market.items():
            clocked = fit_clock(process, smooth_reference(process.basis), 0.1)
            yield SolverCase(solver, clocked, f"{solver!r}, {character} symbols")


# What a physics does to step rules shows on these: plain and in whitened coordinates, one step and several, with noise.
TELLING = ("Heun", "ReferenceSplitting", "WhitenedAdams", "Ancestral", "SDEDPMSolver")


def pair_cases(cases: Iterable[ProcessCase], telling: bool = False) -> Iterator[SolverCase]:
    """Every registered solver that allows it on a process, on its first line and its first plane or more.

    Args:
        cases: Of the process.
        telling: Whether to take only the solvers by which a physics is judged, and those of users.
    """
    default = [case for case in cases if case.is_default and not case.unfit]
    solved = bool(default) and is_solved(type(default[0].process))
    for many in (False, True) if solved else (False,):
        for case in [c for c in default if (c.process.basis.grid.ndim > 1) is many][:1]:
            process = remembered(_from_a_tenth(case))
            for name, cls in solvers.classes().items():
                solver = cls()
                own = not cls.__module__.startswith("physdiff.")
                if allows(solver, process) and (not telling or own or name in TELLING):
                    yield SolverCase(solver, process, str(case))


def allows(solver: Solver, process: LinearProcess) -> bool:
    """Whether a solver steps this process; all do that do not say otherwise by a method `allows`."""
    hook = getattr(solver, "allows", None)
    return hook is None or bool(hook(process))


def _from_a_tenth(case: ProcessCase) -> LinearProcess:
    """The process with a clock from a tenth of the data's deviation, if it has a fitted one: few steps then show an
    order."""
    if "fitted" not in case.settings:
        return case.process
    try:
        return fit_clock(replace(case.process, clock=None), case.reference, 0.1)
    except ValueError:  # its noise never is that small, or the data is forgotten before
        return case.process


def as_time(t: float) -> Tensor:
    """A time as the float64 tensor that the toolkit passes around."""
    return torch.tensor(t, dtype=torch.float64)


def relative_error(a: Tensor, b: Tensor) -> float:
    """Largest |a − b| relative to |b|, where b may vanish if a does."""
    difference = (a - b).abs()
    return float(torch.where(difference == 0, 0.0, difference / b.abs()).max())
