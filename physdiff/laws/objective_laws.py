r"""Laws of objectives: the exact denoiser is what each of them asks for, whoever draws its numbers.

On a mixture of Gaussians E[x₀ | x_t] is known. Around it, along a direction h of modes, times and states,

    D_δ = D* + δ √(cS/V) h(z, t),       one of them what the Wiener filter lacks, h ∝ D* − W,

the mean loss has its minimum at δ = 0. Losses at ±δ share all their draws, so that the slope is measured to what the
draws themselves leave open; a wrong weight of two terms, a target with a bias or a term that is left out moves the
minimum, and the slope shows it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from physdiff.basis import SpectralBasis
from physdiff.clock_fit import fit_clock
from physdiff.condition import Given
from physdiff.denoisers import MixtureDenoiser, PosteriorMean
from physdiff.gaussian import GaussianField
from physdiff.grid import Grid
from physdiff.laws.cases import smooth_reference
from physdiff.laws.law import Measurement, Report, law, laws_of
from physdiff.objectives.objective import Objective
from physdiff.objectives.times import TimeSampling, time_samplings
from physdiff.path import ReferencePath
from physdiff.process import LinearProcess
from physdiff.randomness import RowDraws
from physdiff.registry import processes

FIELDS = 8000
STEP = 0.5  # of δ: losses are quadratic in it, or nearly
SMALL = 0.05
ERRORS = 4.5  # standard errors
KNOWN = 0.3  # how well a minimum must be known, in δ, for its place to mean something
ROWS, FIRST = 11, 4  # of a batch that is split
ROUNDING = 1e-12

Direction = Callable[[Tensor, Tensor, Tensor], Tensor]
DIRECTIONS: dict[str, Direction] = {
    "every mode by itself": lambda z, t, own: torch.tanh(z),
    "across modes": lambda z, t, own: torch.sin(z.flatten(1).roll(1, 1).reshape(z.shape) + 3 * t),
    "what is learned": lambda z, t, own: own,
    "a common shift": lambda z, t, own: ((0.5 + t) * torch.cos(z.flatten(1).sum(1)).reshape(t.shape)).expand_as(z),
}


class Perturbed(PosteriorMean):
    """An exact denoiser and a known error.

    Args:
        exact: What is perturbed.
        direction: h, from whitened modes, times and the exact residual in units of √(cS/V) to modes.
        delta: δ.
        outside: Added to every mode outside the support.
        widened: Error of the logarithm of the variance that it states.
    """

    def __init__(
        self, exact: PosteriorMean, direction: Direction, delta: float, outside: float = 0.0, widened: float = 0.0
    ) -> None:
        super().__init__(exact.path)
        self.exact, self.direction, self.delta = exact, direction, delta
        self.outside, self.widened = outside, widened

    def residual(self, modes: Tensor, t: Tensor, condition: Given | None = None) -> Tensor:
        point = self.path.at(t)
        z, on = point.whiten(modes), self.path.reference.support
        time = torch.as_tensor(t, dtype=modes.dtype).expand(len(modes)).reshape(-1, *[1] * (modes.ndim - 1))
        exact, unit = self.exact.residual(modes, t, condition), point.posterior_variance.sqrt()
        error = unit * self.direction(z, time, exact / torch.where(on, unit, 1.0))
        return exact + torch.where(on, self.delta * error, self.outside)

    def posterior_variance(self, modes: Tensor, t: Tensor, condition: Given | None = None) -> Tensor:
        return math.exp(self.widened) * self.exact.posterior_variance(modes, t, condition)


@dataclass(frozen=True, eq=False)
class ObjectiveCase:
    """An objective, and a law of data whose posterior mean is known.

    Attributes:
        cls: The objective.
        number: Which of its examples.
        exact: The denoiser of that law.
        character: What the process does.
        adaptive: A way of drawing times that learns, in the place of the example's own; None for its own.
    """

    cls: type[Objective]
    number: int
    exact: MixtureDenoiser
    character: str
    adaptive: type[TimeSampling] | None = None

    @cached_property
    def objective(self) -> Objective:
        """With what it takes from this law."""
        return self.fresh()

    def fresh(self) -> Objective:
        """The objective before it has learned anything, with what it takes from this law."""
        made = self.cls.examples()[self.number]
        if self.adaptive is not None:
            made = replace(made, times=self.adaptive())  # pyright: ignore[reportArgumentType]
        return made.on_known_law(self.exact, self.fields(FIELDS))

    def fields(self, n: int) -> Tensor:
        """Clean fields, shape (n, channels, *grid)."""
        return self.exact.path.basis.inverse(self.exact.sample_modes(n, torch.Generator().manual_seed(21)))

    def losses(self, delta: float = 0.0, direction: str = "across modes", widened: float = 0.0) -> Tensor:
        """Of all fields, with the same numbers drawn whatever the error."""
        model = Perturbed(self.exact, DIRECTIONS[direction], delta, widened=widened)
        return self.objective(model, self.fields(FIELDS), draws(FIELDS)).detach()

    def __str__(self) -> str:
        times = "" if self.adaptive is None else f", {self.adaptive.__name__}"
        return f"{self.cls.examples()[self.number]!r}{times}, {self.character}"


def draws(n: int, rows: slice | None = None) -> RowDraws:
    """The numbers of a batch of n rows, the same every time."""
    return RowDraws(torch.Generator().manual_seed(22), n, rows)


def objective_cases(cls: type[Objective]) -> Iterator[ObjectiveCase]:
    """An objective in all its kinds on physics that is isotropic, decays per mode, and rotates without a mean."""
    known = processes.classes()
    line, wall = SpectralBasis(Grid(5)), SpectralBasis(Grid(4, 1.0, "neumann"))
    plane = SpectralBasis(Grid((3, 2)))
    market: dict[str, tuple[LinearProcess, bool]] = {
        "isotropic": (known["VariancePreserving"](line), True),
        "decaying": (known["Heat"](wall, diffusivity=0.05), True),
        "rotating, mean-free": (known["AdvectionDiffusion"](plane, 0.02, 0.5, (0.3, -0.2)), False),
    }
    for character, (process, with_mean) in market.items():
        exact = known_law(process, with_mean)
        for number in range(len(cls.examples())):
            yield ObjectiveCase(cls, number, exact, character)
        if any(field.name == "times" for field in fields(cls)):  # pyright: ignore[reportArgumentType]
            for times in time_samplings.classes().values():
                if times.examples()[0].adapts:
                    yield ObjectiveCase(cls, 0, exact, character, times)


def known_law(process: LinearProcess, with_mean: bool) -> MixtureDenoiser:
    """A mixture of two around its own moments, from where noise is a tenth of the data on; without a mean if asked."""
    reference = smooth_reference(process.basis)
    generator = torch.Generator().manual_seed(23)
    away = reference.spectrum.sqrt() * torch.randn(reference.spectrum.shape, generator=generator, dtype=torch.float64)
    means = torch.stack([reference.mean + 1.5 * away, reference.mean - away])
    spectra = torch.stack([0.4 * reference.spectrum, 0.8 * reference.spectrum])
    if not with_mean:
        gone = process.basis.laplacian == 0
        means, spectra = (torch.where(gone, 0.0, x) for x in (means, spectra))
    weights = torch.tensor([0.4, 0.6], dtype=torch.float64)
    own: GaussianField = MixtureDenoiser.reference(process.basis, weights, means, spectra)
    return MixtureDenoiser(ReferencePath(fit_clock(process, own, 0.1), own), weights, means, spectra)


def _as_it_is(case: ObjectiveCase) -> bool:
    """With its own times."""
    return case.adaptive is None


def _learns_variance(case: ObjectiveCase) -> bool:
    """Objectives that ask the model for a variance as well."""
    bound = getattr(case.objective, "bound", case.objective)
    return _as_it_is(case) and getattr(bound, "variance", None) == "learned"


@law("objective", _as_it_is)
def exact_denoiser_is_the_minimiser(case: ObjectiveCase) -> Iterator[Measurement]:
    """The mean loss of the exact denoiser with an error δ has its minimum at δ = 0, along every direction.

    If it has not, the target is biased, or two terms that belong together are weighted differently.
    """
    exact = case.losses()
    for direction in DIRECTIONS:
        yield from _minimum(direction, exact, case.losses(STEP, direction), case.losses(-STEP, direction))


@law("objective", _learns_variance)
def exact_variance_is_the_minimiser(case: ObjectiveCase) -> Iterator[Measurement]:
    """The mean loss of the exact denoiser is least for the exact variance.

    If it is not, a Gaussian's two terms, of the spread and of the error, are weighted differently.
    """
    wider, narrower = case.losses(widened=STEP), case.losses(widened=-STEP)
    exact = case.losses()
    # A divergence is no parabola in the logarithm of a variance: what is flat at the minimum is its slope there.
    little = (case.losses(widened=SMALL) - case.losses(widened=-SMALL)) / (2 * SMALL)
    error = float(little.std()) / math.sqrt(FIELDS)
    reading = f"slope {float(little.mean()):.2g} ± {error:.2g} at the exact variance (≤ {ERRORS} errors)"
    yield Measurement("slope, in errors", _in_errors(abs(float(little.mean())), error), ERRORS, reading=reading)
    yield _bend("the variance", wider + narrower - 2 * exact)


def _minimum(name: str, exact: Tensor, plus: Tensor, minus: Tensor) -> Iterator[Measurement]:
    """That losses which share their draws are least in the middle, and how well it is known."""
    slope, bend = (plus - minus) / (2 * STEP), (plus + minus - 2 * exact) / STEP**2
    error, mean = float(slope.std()) / math.sqrt(FIELDS), float(slope.mean())
    reading = f"{name}: slope {mean:.2g} ± {error:.2g} at the exact denoiser (≤ {ERRORS} errors)"
    yield Measurement("slope, in errors", _in_errors(abs(mean), error), ERRORS, reading=reading)
    yield _bend(name, bend)
    known = _in_errors(error, float(bend.mean()))
    reading = f"{name}: minimum known to {known:.2g} (must be ≤ {KNOWN})"
    yield Measurement("error of the minimum", known, KNOWN, reading=reading)


def _in_errors(value: float, error: float) -> float:
    """A number in units of its error; 0 if both are."""
    return value / error if error else math.copysign(math.inf, value) if value else 0.0


def _bend(name: str, bend: Tensor) -> Measurement:
    mean, error = float(bend.mean()), float(bend.std()) / math.sqrt(FIELDS)
    reading = f"{name}: bend {mean:.2g} ± {error:.2g} (must be ≥ {ERRORS} errors)"
    return Measurement("bend, in errors", _in_errors(mean, error), ERRORS, at_least=True, reading=reading)


@law("objective", _as_it_is)
def losses_are_those_of_the_rows(case: ObjectiveCase) -> Iterator[Measurement]:
    """A batch that is computed in two parts has the losses of the whole, and the same numbers give the same losses.

    If not, something is drawn past the given numbers, or for the rows of a part alone.
    """
    model, x = Perturbed(case.exact, DIRECTIONS["across modes"], STEP), case.fields(ROWS)
    before = _global_states()
    whole = case.objective(model, x, draws(ROWS))
    yield Measurement("rows without a finite loss", float((~whole.isfinite()).sum()), 0)
    yield Measurement("axes beyond (rows,)", float(whole.ndim - 1), 0)
    if whole.shape != (ROWS,):
        return
    again = case.objective(model, x, torch.Generator().manual_seed(22))
    parts = [case.objective(model, x[rows], draws(ROWS, rows)) for rows in (slice(0, FIRST), slice(FIRST, ROWS))]
    yield Measurement("difference of a batch in two parts", _relative(torch.cat(parts), whole), ROUNDING)
    yield Measurement("difference when asked again", _relative(again, whole), 0)
    other = case.objective(model, x, torch.Generator().manual_seed(24))
    yield Measurement("difference with other numbers", _relative(other, whole), 1e-6, at_least=True)
    yield Measurement("global random states changed", float(_global_states() != before), 0)


@law("objective", lambda case: _as_it_is(case) and not bool(case.exact.path.reference.support.all()))
def what_is_outside_the_support_does_not_count(case: ObjectiveCase) -> Iterator[Measurement]:
    """Modes without variance contribute nothing, whatever the model or the data says there.

    If they do, a sum runs over all modes where it belongs on the support.
    """
    basis, on = case.exact.path.basis, case.exact.path.reference.support
    x, direction = case.fields(ROWS), DIRECTIONS["across modes"]
    whole = case.objective(Perturbed(case.exact, direction, STEP), x, draws(ROWS))
    said = case.objective(Perturbed(case.exact, direction, STEP, outside=3.0), x, draws(ROWS))
    more = x + basis.inverse(torch.where(on, 0.0, 1e-3).to(x))
    given = case.objective(Perturbed(case.exact, direction, STEP), more, draws(ROWS))
    yield Measurement("change by what a model says there", _relative(said, whole), ROUNDING)
    yield Measurement("change by what data has there", _relative(given, whole), ROUNDING)


@law("objective", lambda case: case.objective.adapts)
def state_is_restored(case: ObjectiveCase) -> Iterator[Measurement]:
    """An objective that has learned from losses, and one that is given its state, go on alike; a fresh one does not.

    If they do not, state_dict leaves something out. A run that was killed would go on with other times.
    """
    first, second, fresh = (case.fresh() for _ in range(3))
    model, x = Perturbed(case.exact, DIRECTIONS["across modes"], STEP), case.fields(64)
    for step in range(40):
        found = first.evaluate(model, x, RowDraws(torch.Generator().manual_seed(step), len(x)))
        assert found.times is not None
        first.observe(found.times, found.unweighted)
    second.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
    learned, restored, other = (one(model, x, draws(len(x))) for one in (first, second, fresh))
    yield Measurement("difference after restoring", _relative(restored, learned), 0)
    yield Measurement("difference of a fresh one", _relative(other, learned), 1e-6, at_least=True)


def _global_states() -> list[Any]:
    state = np.random.get_state()  # noqa: NPY002  the global one is what must not change
    return [torch.get_rng_state().tolist(), random.getstate(), [str(part) for part in state]]


def _relative(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the size of the losses."""
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())


def check_objective(cls: type[Objective]) -> Report:
    """Examine an objective of denoisers by every law of objectives, in all its `examples()`.

    Returns:
        Report; `print` it, and see `.passed`.

    Raises:
        ValueError: it is no objective, or one of simulated processes, whose score has no closed form to be held to.
    """
    if not issubclass(cls, Objective) or cls.simulated:
        raise ValueError(f"{cls.__name__} is no objective of denoisers: no subclass of physdiff.objectives.Objective.")
    cases = list(objective_cases(cls))
    findings = [one.examine(case) for one in laws_of("objective") for case in cases if one.applies(case)]
    return Report(cls.__name__, tuple(findings))
