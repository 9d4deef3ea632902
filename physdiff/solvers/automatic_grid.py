r"""Equal errors per step, known before any network is called: the error of a rule on data that the reference is not.

Gaussian data with a spectrum f·c in place of c has an exactly known flow. In the angle φ of a mode

    z(φ) = z(π/2) h(φ),      h² = cos²φ · f + sin²φ

and a rule of order p that interpolates dz/dφ mode by mode has in each step an error proportional to h^{(p+1)} Δφ^{p+1}.
The errors of all steps are equal if steps are as dense as

    ρ = [mean over modes and f of (h^{(p+1)}(φ) (dφ/dlog τ)^{p+1})²]^{1/(2(p+1))},

modes weighted as for `Angle`. With p = 0 and h' = 1 this is its root-mean-square turn; the higher p is, the more the
fastest mode counts. A factor below 1 stands for data that is narrower than its reference, as within the clusters of a
mixture, and is hard near the clean end; one above 1 for data that is wider, hard near the noise. The two are mirror
images of each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from physdiff.path import PathPoint
from physdiff.settings import is_whole
from physdiff.solvers.angle_grid import mode_weights, require_angles, root_mean_square_turn, turn_rate
from physdiff.solvers.equal_shares import along, equal_areas, nodes_over
from physdiff.solvers.time_grid import Path, TimeGrid, time_grids

FACTORS = (0.25, 4.0)  # f: half and twice the reference's standard deviation
FLOOR = 0.02  # of the mean density: what no data calls for may still be called for by a model's error


@time_grids.register
@dataclass(frozen=True)
class Automatic(TimeGrid):
    """Equal error per step on Gaussian data whose spectrum is a quarter and four times the reference's.

    Attributes:
        order: Order of the rule that steps, 1 to 4.
    """

    order: int = 2

    def __post_init__(self) -> None:
        if not is_whole(self.order, 1) or self.order > 4:
            raise ValueError(f"Automatic: 'order' must be 1, 2, 3 or 4; got {self.order}.")

    def between(self, path: Path, intervals: int) -> Tensor:
        require_angles(self, path)
        nodes = nodes_over(path)
        density = along(path, nodes, lambda point: error_density(point, self.order))
        return equal_areas(path, intervals, nodes, density + FLOOR * density.mean())


def error_density(point: PathPoint, order: int, factors: tuple[float, ...] = FACTORS) -> Tensor:
    """ρ at many times, shape (times,)."""
    turn, angle = turn_rate(point).flatten(1), point.angle.flatten(1)
    scale = root_mean_square_turn(point).unsqueeze(1)  # powers of a small turn would underflow
    share, weights = (turn / scale) ** (order + 1), mode_weights(point.path.reference).flatten()
    total = torch.zeros_like(scale[:, 0])
    for factor in factors:
        total = total + (weights * (share * stretch(angle, factor, order + 1)).square()).sum(1)
    return scale[:, 0] * (total / len(factors)) ** (0.5 / (order + 1))


def stretch(angle: Tensor, factor: float, derivative: int) -> Tensor:
    """A derivative of h = √(f cos²φ + sin²φ) by φ, by Leibniz' rule for h²."""
    half = 0.5 * (factor - 1)
    square = [0.5 * (1 + factor) + half * torch.cos(2 * angle)]
    square += [half * 2.0**n * torch.cos(2 * angle + 0.5 * math.pi * n) for n in range(1, derivative + 1)]
    found = [square[0].sqrt()]
    for n in range(1, derivative + 1):
        inner = [math.comb(n, i) * found[i] * found[n - i] for i in range(1, n)]
        found.append((square[n] - sum(inner, torch.zeros_like(angle))) / (2 * found[0]))
    return found[derivative]
