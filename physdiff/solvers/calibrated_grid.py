r"""Equal errors per step as a trained model makes them, measured on a few pilot trajectories.

A rule of order p that interpolates v = dz/dφ mode by mode has in each step an error proportional to v^{(p)} Δφ^{p+1}.
Pilots follow the model's probability flow on many steps, by the two-step Adams-Bashforth rule in each mode's angle, and
tell v at every node; divided differences over p + 1 nodes tell its derivatives. Errors are then equal for a density

    ρ = [mean over pilots and modes of (v^{(p)} (dφ/dlog τ)^{p+1})²]^{1/(2(p+1))},

modes weighted as for `Angle`. It is kept relative to the density of the pilots' own nodes, the angle grid's:
smoothed over a sixteenth of them to either side, and nowhere below a tenth of its mean. Under a simulated process modes
have no angles, and log τ takes the place of φ.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor

from physdiff.condition import Given, per_field
from physdiff.denoisers.reverse_model import ReverseModel
from physdiff.path import ReferencePath
from physdiff.randomness import SampleNoise, keyed_generator, require_seed
from physdiff.solvers.angle_grid import Angle, mode_weights
from physdiff.solvers.equal_shares import equal_areas
from physdiff.solvers.time_grid import LogSpaced, Path, TimeGrid

FLOOR = 0.1  # of the mean density, relative to the angle grid's: pilots do not meet everything
AHEAD = 3.0  # a step of a pilot that is longer than so many of the last is Euler's: a line would lead it astray
EVEN = 0.2  # the part of log τ in what a velocity is differentiated by; the rest is the mode's angle
WIDTH = 1 / 16  # of the pilots' nodes, over which the density is smoothed: multistep rules need steps of similar size


@dataclass(frozen=True, eq=False)
class Calibrated(TimeGrid):
    """Steps as dense as pilot trajectories of a model call for; any number of them.

    Attributes:
        log_times: Increasing log τ at which the density is known, shape (knots,), float64.
        density: Steps per unit of log τ, above zero and to any factor, shape (knots,), float64.
    """

    log_times: Tensor
    density: Tensor

    def __post_init__(self) -> None:
        x, density = self.log_times, self.density
        known = x.ndim == 1 and x.shape == density.shape and len(x) > 1 and bool(x.isfinite().all())
        if not known or not bool((x.diff() > 0).all() and density.isfinite().all() and (density > 0).all()):
            raise ValueError(
                "a calibrated grid needs increasing, finite 'log_times' and as many positive, finite values of "
                f"'density', at least 2; got shapes {tuple(x.shape)} and {tuple(density.shape)}."
            )

    def between(self, path: Path, intervals: int) -> Tensor:
        return equal_areas(path, intervals, self.log_times, self.density)

    def to_tensors(self) -> dict[str, Tensor]:
        """What it is made of, by name."""
        return {"log_times": self.log_times, "density": self.density}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Self:
        """The inverse of `to_tensors`."""
        return cls(**tensors)

    @classmethod
    @torch.no_grad()
    def measure(
        cls,
        model: ReverseModel,
        *,
        pilots: int = 16,
        steps: int = 64,
        order: int = 3,
        seed: int = 0,
        condition: Given | None = None,
    ) -> Self:
        """The grid that a model's own trajectories call for.

        It costs pilots · steps evaluations of the model, in batches of `pilots`.

        Args:
            model: The trained model, in evaluation mode.
            pilots: Number of trajectories.
            steps: Nodes of a trajectory, at each of which the model is evaluated once; at least 16.
            order: Order of the rule that is to step on the grid, 1 to 4.
            seed: Pilot i starts from (seed, i) alone.
            condition: Passed on to the model, shape (pilots, ...), or (1, ...) when it is the same for all.

        Raises:
            ValueError: a setting is outside its range.
            FloatingPointError: a trajectory is not finite.
        """
        require_seed(seed)
        if pilots < 1 or steps < 16:
            raise ValueError(f"a calibration needs at least 1 pilot and 16 steps; got {pilots} and {steps}.")
        if order not in (1, 2, 3, 4):
            raise ValueError(f"the 'order' of a calibration must be 1, 2, 3 or 4; got {order}.")
        given = per_field(condition, pilots, "pilot")
        given = None if given is None else given.to(model.device)
        pilot_grid = Angle() if isinstance(model.path, ReferencePath) else LogSpaced()
        times = pilot_grid.between(model.path, steps - 1)
        log_times, density, own = _measured(model, times, order, _starts(model, pilots, seed), given)
        relative = density / own
        if float(relative.max()) == 0:  # the model is its reference: nothing moves, and any grid will do
            return cls(log_times, own)
        relative = _smoothed(relative, max(1, round(WIDTH * steps)))
        return cls(log_times, own * (relative / relative.mean() + FLOOR))


def _starts(model: ReverseModel, pilots: int, seed: int) -> Tensor:
    """Whitened states at t = 1, shape (pilots, channels, *grid)."""
    seeds = [keyed_generator(seed, "pilot", i).initial_seed() for i in range(pilots)]
    return SampleNoise(seeds, "start")(tuple(model.path.reference.spectrum.shape)).to(model.device)


def _measured(
    model: ReverseModel, times: Tensor, order: int, z: Tensor, condition: Given | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Increasing log τ, ρ there, and the density of the nodes themselves; each of shape (nodes − order,)."""
    path = model.path
    log_times, weight = path.clock.time(times).log(), mode_weights(path.reference).to(z.device)
    middles: list[Tensor] = []
    densities: list[Tensor] = []
    known: deque[Node] = deque(maxlen=order + 1)
    # The last node looks back to where it came from: a velocity has no direction.
    for j, (t, s) in enumerate([*pairwise(times), (times[-1], times[-2])]):
        phase, other = (_phase(path, x).to(z.device) for x in (t, s))
        moved = model.move(path.at(t).unwhiten(z), t, s, condition)
        known.append(Node(log_times[j].to(z.device), phase, _ratio(moved, other - phase)))
        if len(known) > 1:
            before, now = known[-2], known[-1]
            growth = _ratio(other - phase, now.phase - before.phase)
            slope = torch.where(growth < AHEAD, growth, 0.0) * (other - phase)
            moved = moved + 0.5 * slope * (now.velocity - before.velocity)
        z = z + moved
        if not bool(z.isfinite().all()):
            raise FloatingPointError(
                f"pilot trajectories are not finite at t = {float(s):.3g}: take more steps; if that does not help, the "
                "model cannot be run backwards."
            )
        if len(known) > order:
            middles.append(0.5 * (log_times[j] + log_times[j - order]))
            densities.append(measured_density(list(known), weight).cpu())
    own = order / (log_times[:-order] - log_times[order:])
    return torch.stack(middles).flip(0), torch.stack(densities).flip(0), own.flip(0)


@dataclass(frozen=True)
class Node:
    """Where pilots are at one time.

    Attributes:
        log_time: log τ, shape ().
        phase: The angle of each mode, or log τ; broadcasts against modes.
        velocity: dz by the phase, shape (pilots, channels, *grid).
    """

    log_time: Tensor
    phase: Tensor
    velocity: Tensor


def measured_density(known: list[Node], weight: Tensor) -> Tensor:
    """ρ from p + 1 nodes, for modes of given weights, shape ()."""
    first, last = known[0], known[-1]
    order = len(known) - 1
    rate = (last.phase - first.phase) / (last.log_time - first.log_time)
    # In units of log τ, and a part of it log τ itself: a mode that heat has buried hardly turns between nodes while
    # others move it, and a velocity has no derivative in an angle that stands still.
    place = [(1 - EVEN) * _ratio(n.phase - first.phase, rate) + EVEN * (n.log_time - first.log_time) for n in known]
    differences = [n.velocity for n in known]
    for o in range(1, order + 1):
        differences = [_ratio(b - a, place[i + o] - place[i]) for i, (a, b) in enumerate(pairwise(differences))]
    error = rate * math.factorial(order) * differences[0]
    return ((weight * error.square()).sum() / len(error)) ** (0.5 / (order + 1))


def _phase(path: Path, t: Tensor) -> Tensor:
    """What a rule interpolates in: the angle of each mode, or log τ; broadcasts against modes."""
    if isinstance(path, ReferencePath):
        return path.at(t).angle
    return path.clock.time(t).log()


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """Quotient that is zero where a mode does not turn."""
    turns = below != 0
    return torch.where(turns, above / torch.where(turns, below, 1.0), 0.0)


def _smoothed(density: Tensor, width: int) -> Tensor:
    """Weighted mean over `width` nodes to either side, by Hann's window; ends are continued as they are."""
    window = torch.hann_window(2 * width + 3, periodic=False, dtype=torch.float64)[1:-1]
    padded = torch.cat([density[:1].expand(width), density, density[-1:].expand(width)])
    return padded.unfold(0, 2 * width + 1, 1) @ (window / window.sum())
