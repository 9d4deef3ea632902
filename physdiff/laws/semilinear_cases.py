"""The market of cases for semilinear processes: small grids on which a class agrees to live."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from physdiff.basis import Basis, SpectralBasis
from physdiff.clock_fit import check_symbols, fit_clock
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.laws.cases import BasisCase, ProcessCase, smooth_reference
from physdiff.semilinear import SemilinearProcess
from physdiff.simulated_path import Moments, SimulatedPath

PLACES = (
    Grid(8, 1.0, "periodic"),
    Grid(9, 2.0, "periodic"),
    Grid(6, 1.0, "neumann"),
    Grid((7, 6), (1.0, 2.0), "periodic"),
    Grid((7, 4), (1.0, 1.0), ("periodic", "neumann")),
)


@dataclass(frozen=True)
class SemilinearCase:
    """A semilinear process with the clock that fits smooth data, zero in the mean.

    Attributes:
        process: With its clock.
    """

    process: SemilinearProcess

    @cached_property
    def reference(self) -> GaussianField:
        """The data's law: smooth, of mean zero, without the modes that receive no noise."""
        return _reference(self.process.basis, self.process)

    @property
    def linear(self) -> ProcessCase:
        """The linear part, along the same clock."""
        noised = bool((self.process.noise_spectrum() > 0).all())
        return ProcessCase(
            self.process.linear, "defaults, the linear part", self.reference, is_noised_everywhere=noised
        )

    @cached_property
    def path(self) -> SimulatedPath:
        """The moments of 128 runs from the reference."""
        generator = torch.Generator().manual_seed(21)
        return SimulatedPath.measure(
            self.process, self.reference, self.reference.sample(128, generator), 0.2, generator
        )

    @property
    def stationary_spectrum(self) -> Tensor:
        """c∞ of the linear part, n/(2θ), shape (*grid)."""
        rate = -2 * self.process.drift_symbol().real
        return (self.process.noise_spectrum() / rate).expand(self.process.basis.grid.shape)

    @cached_property
    def at_rest(self) -> SimulatedPath:
        """The path of data that has the stationary law: nothing changes."""
        c = self.stationary_spectrum.unsqueeze(0).contiguous()
        law = GaussianField(self.process.basis, torch.zeros_like(c), c)
        start = self.process.physical_time(torch.tensor(0.2, dtype=torch.float64))
        times = torch.stack([start, torch.tensor(self.process.running_clock.end, dtype=torch.float64)])
        still = torch.zeros((2, *c.shape), dtype=torch.float64)
        moments = Moments(torch.cat([torch.zeros(1, dtype=torch.float64), times]), times, still, torch.stack([c, c]))
        return SimulatedPath(self.process, law, moments, 0.2)

    def __str__(self) -> str:
        return f"{type(self.process).__name__} on {BasisCase(self.process.basis)}"


def semilinear_cases(cls: type[SemilinearProcess], bases: list[Basis] | None = None) -> Iterator[SemilinearCase]:
    """A class on every basis that it works on.

    Raises:
        ValueError: it works on none of them.
    """
    refused, found = "", False
    for basis in bases or [SpectralBasis(grid) for grid in PLACES]:
        try:
            case = semilinear_case(cls(basis))
        except ValueError as error:  # a physics may refuse a boundary; it may not refuse them all
            refused = refused or str(error)
            continue
        found = True
        yield case
    if not found:
        raise ValueError(f"{cls.__name__} works on no grid that was tried, with its default settings; {refused}")


def semilinear_case(process: SemilinearProcess) -> SemilinearCase:
    """One process, with the clock that it has or that fits."""
    return SemilinearCase(fit_clock(process, _reference(process.basis, process)))


def _reference(basis: Basis, process: SemilinearProcess) -> GaussianField:
    law = smooth_reference(basis)
    check_symbols(process.linear, tuple(law.spectrum.shape), type(process).__name__)
    alive = process.noise_spectrum().expand(basis.grid.shape) > 0
    return GaussianField(basis, torch.zeros_like(law.mean), torch.where(alive, law.spectrum, 0.0))
